"""A LiveKit worker for many clients: `python livekit_agent.py start`.

Needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET; or see `stand_in/run.py`, which
runs it with no LiveKit server. There is no media here: the caller is one line of text.
"""

import json
import os

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli
from livekit.plugins import openai

import tenantd.livekit

server = AgentServer(num_idle_processes=1, port=0, load_fnc=lambda: 0.0)


@server.rtc_session(on_request=tenantd.livekit.on_request())
async def entrypoint(ctx: JobContext) -> None:
    call = await tenantd.livekit.start(ctx)
    session = AgentSession(llm=openai.LLM(**call.providers.llm.kwargs, max_retries=0))
    call.watch(session)
    await session.start(agent=Agent(instructions="Greet."))
    await session.run(user_input="Hi")
    if json.loads(ctx.job.metadata or "{}").get("crash"):
        raise RuntimeError("the agent's own code is broken")
    if os.environ.get("HANG_UP"):  # Without a room nobody else does.
        ctx.shutdown("the caller hung up")


if __name__ == "__main__":
    cli.run_app(server)
