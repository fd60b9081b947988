"""Lease tokens: whose a session is, where processes that need not trust each other share
an identity.

Made out of the session's id and a key, so that nothing has to be kept, and a process that
has the key, by inheriting the environment or by setting, can go on with the session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets

KEY = "TENANTD_LEASE_KEY"
"""The variable that holds the key; made at the first use where it is not set, so that
child processes have it."""


def lease_token(session_id: str) -> str:
    """The lease token of this process, and those that have its key, for a session."""
    key = os.environ.get(KEY)
    if not key:
        key = os.environ[KEY] = secrets.token_hex(32)
    digest = hmac.digest(key.encode(), session_id.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
