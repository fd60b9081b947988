"""voicegateway 0.27 and later: `pip install tenantd[voicegateway]`.

    call = await tenantd.livekit.start(ctx, observers=[tenantd.voicegateway.Costs()])

Its rows carry the tenant that the sidecar bound, as `tenant_id`, and the agent's name.
"""

from __future__ import annotations

import asyncio
from typing import Any

try:
    from voicegateway.inference.session.context import set_tenant
    from voicegateway.openrtc import VoiceGatewayObserver
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "tenantd.voicegateway needs voicegateway: pip install tenantd[voicegateway]"
    ) from error


class Costs(VoiceGatewayObserver):  # type: ignore[misc, unused-ignore]
    """voicegateway's own observer, with its arguments (`project`, `db_path`,
    `collector_url`, `api_key`), for processes that end with their call.

    voicegateway writes a session's rows in a task of its own after the close, which a
    LiveKit job process would not live to see: the end waits for it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sessions: dict[str, Any] = {}

    def on_session_bound(self, info: Any) -> None:
        """Before the session starts, in its own task: voicegateway takes the tenant of
        most rows from a contextvar of the code that writes them."""
        set_tenant(info.tenant)

    async def on_session_start(self, info: Any, session: Any) -> None:
        """The session is live."""
        self._sessions[info.job_id] = session
        await super().on_session_start(info, session)

    async def on_session_end(self, info: Any, outcome: Any) -> None:
        """It is over: waits until its rows are written."""
        session = self._sessions.pop(info.job_id, None)
        writing = getattr(session, "_vg_close_task", None)
        if writing is not None:
            await asyncio.wait([writing])
        await super().on_session_end(info, outcome)
