#!/usr/bin/env bash
# Prints where h2load is, installed through apt where it is missing and may be.
exec "$(dirname "$0")/apt.sh" h2load nghttp2-client
