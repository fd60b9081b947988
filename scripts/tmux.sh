#!/usr/bin/env bash
# Prints where tmux is, installed through apt where it is missing and may be.
exec "$(dirname "$0")/apt.sh" tmux tmux
