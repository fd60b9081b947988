#!/usr/bin/env python3
"""Makes the sync client out of the async one. --check: says whether it is fresh."""

import re
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "clients/python/src/tenantd"
WORDS = {
    "AsyncClient": "Client",
    "AsyncSession": "Session",
    "AsyncEffects": "SyncEffects",
    "AsyncMailbox": "SyncMailbox",
    "AsyncNotices": "Notices",
    "StopAsyncIteration": "StopIteration",
    "SessionServiceAsyncStub": "SessionServiceStub",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}


def sync(text: str) -> str:
    text = text.replace(
        '"""The async client. The sync one is made out of it: `scripts/gen-sync.py`."""',
        '"""The sync client. Made out of `aio.py` by `scripts/gen-sync.py`: DO NOT EDIT."""',
    )
    # What has no sync twin.
    text = text.replace("import grpc.aio\n", "")
    text = re.sub(r"\nif TYPE_CHECKING:\n(?:    .*\n)+", "", text)
    text = text.replace("import TYPE_CHECKING, Any, TypeVar", "import Any, TypeVar")
    text = text.replace("for asyncio.", "blocking.")
    text = re.sub(r" The channel\n    opens at the first call and belongs to the event loop that runs then\.",
                  " The channel\n    opens at the first call.", text)
    text = text.replace(".aio_channel()", ".channel()")
    text = text.replace("grpc.aio.AioRpcError", "grpc.RpcError").replace("grpc.aio.", "grpc.")
    text = text.replace("Callable[..., Awaitable[_T]]", "Callable[..., _T]")
    text = text.replace("import Awaitable, Callable", "import Callable")
    text = re.sub(r"\basync (def|for|with)\b", r"\1", text)
    text = re.sub(r"\bawait ", "", text)
    return re.sub(r"\b\w+\b", lambda word: WORDS.get(word[0], word[0]), text)


made = sync((SOURCE / "aio.py").read_text())
target = SOURCE / "client.py"
if sys.argv[1:] == ["--check"]:
    if target.read_text() != made:
        sys.exit("clients/python/src/tenantd/client.py is not fresh: scripts/gen-sync.py")
else:
    target.write_text(made)
