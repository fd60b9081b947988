"""Costs per client with voicegateway, next to LiveKit: `python voicegateway_costs.py start`.

voicegateway's observer reads `agent_name` and `metadata["tenant"]` of what tenantd tells
it; its rows then carry the client's id. VOICEGW_DB says where its SQLite file is.
"""

import os

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli
from livekit.plugins import openai

import tenantd.livekit
import tenantd.voicegateway

server = AgentServer(num_idle_processes=1, port=0, load_fnc=lambda: 0.0)


@server.rtc_session(on_request=tenantd.livekit.on_request())
async def entrypoint(ctx: JobContext) -> None:
    costs = tenantd.voicegateway.Costs(project="agency", db_path=os.environ["VOICEGW_DB"])
    call = await tenantd.livekit.start(ctx, observers=[costs])
    session = AgentSession(llm=openai.LLM(**call.providers.llm.kwargs))
    call.watch(session)
    await session.start(agent=Agent(instructions="Greet."))
    await session.run(user_input="Hi")
    if os.environ.get("HANG_UP"):
        ctx.shutdown("the caller hung up")


if __name__ == "__main__":
    cli.run_app(server)
