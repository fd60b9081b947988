#!/usr/bin/env bash
# Prints where tmux is, installed through apt where it is missing and may be.
set -euo pipefail
command -v tmux >/dev/null || "$(dirname "$0")/apt.sh" tmux
command -v tmux
