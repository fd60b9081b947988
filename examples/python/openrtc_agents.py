"""An OpenRTC worker for many clients: `python openrtc_agents.py start`.

Needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET; or see `stand_in/run.py`.
"""

import os
from typing import Any

from livekit.agents import Agent
from livekit.plugins import openai
from openrtc import AgentPool

import tenantd.openrtc


class Receptionist(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="Greet.")

    async def on_enter(self) -> None:
        self.session.output.set_audio_enabled(False)  # There is no voice in this example.
        self.session.generate_reply(user_input="Hi")


def providers(call: tenantd.openrtc.Call) -> dict[str, Any]:
    if os.environ.get("BREAK_PROVIDERS"):
        raise RuntimeError("the agency's own code is broken")
    return {"llm": openai.LLM(**call.providers.llm.kwargs, max_retries=0)}


tenancy = tenantd.openrtc.Tenancy(providers)
pool = AgentPool(
    agents={"receptionist": Receptionist},
    isolation=os.environ.get("ISOLATION", "coroutine"),
    max_concurrent_sessions=1_000,
    port=0,
    **tenancy.hooks,
)

if __name__ == "__main__":
    pool.run()
