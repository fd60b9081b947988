"""The identity of a process."""

from __future__ import annotations

import os
import secrets


def worker_id() -> str:
    """A new identity for this process and run. Make it after a fork, not before."""
    return f"python-{os.getpid()}-{secrets.token_hex(4)}"
