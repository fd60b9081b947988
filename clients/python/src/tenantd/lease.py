"""Lease tokens: whose a session is, where processes that need not trust each other share
an identity.

Made out of the session's id and a key, so that nothing has to be kept, and a process that
has the key, by inheriting the environment or by setting, can go on with the session.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import os
import secrets

KEY = "TENANTD_LEASE_KEY"
"""The variable that holds the key; made at the first use where it is not set, so that
child processes have it."""


REMEMBERED = 1_000
"""Tokens kept at hand, since each is needed twice at least."""


def lease_token(session_id: str) -> str:
    """The lease token of this process, and those that have its key, for a session."""
    key = os.environ.get(KEY)
    if not key:
        key = os.environ[KEY] = secrets.token_hex(32)
    return _token(key, session_id)


@functools.lru_cache(REMEMBERED)
def _token(key: str, session_id: str) -> str:
    keyed = _keyed(key).copy()
    keyed.update(session_id.encode())
    return base64.urlsafe_b64encode(keyed.digest()).rstrip(b"=").decode()


@functools.lru_cache(1)
def _keyed(key: str) -> hmac.HMAC:
    # Half of what it takes is to begin with the key.
    return hmac.new(key.encode(), digestmod=hashlib.sha256)
