"""One agent process on the shipped Python client: does what stdin says, a JSON line a
command, and answers each with a line. Its sessions die with it."""

import asyncio
import json
import os
import sys
import time

import tenantd


class Agent:
    def __init__(self) -> None:
        self.sessions: dict[str, tenantd.AsyncSession] = {}
        self.client = self.connect()
        self.closing: tenantd.AsyncClient | None = None

    def connect(self) -> tenantd.AsyncClient:
        # The fault suite's own: each process is told who it is.
        return tenantd.AsyncClient(os.environ["FAULT_ADDRESS"], worker=os.environ["FAULT_WORKER"])

    async def do(self, ask: dict) -> dict:
        op, name = ask["op"], ask["id"]
        if op == "acquire":
            session = self.client.session(
                name,
                job_metadata=ask["job"],
                room_metadata=ask["room"],
                tenant=ask["tenant"],
                agent_name=ask["agent"],
            )
            await session.open()
            self.sessions[name] = session
            return {"tenant": session.tenant, "key": key(session)}
        if op == "reconnect":
            self.closing = self.client
            await self.client.close()
            self.client = self.connect()
            self.sessions.clear()
            return {}
        session = self.sessions.get(name)
        if session is None:
            # Straight to the wire, as a client that is confused.
            if op == "end":
                await self.client.release(name, ask["outcome"])
            elif op == "refresh":
                await self.client.get_config(name)
            else:
                await self.client.renew(name)
            return {}
        if op == "end":
            del self.sessions[name]
            await session.end(ask["outcome"])
        elif op == "fail":
            await session.fail(slot="llm", kind="timeout", message="it took too long")
        elif op == "publish":
            await session.publish("turn_started", {"turn": 1})
        elif op == "refresh":
            await session.refresh()
            return {"tenant": session.tenant, "key": key(session)}
        elif op == "renew":
            await self.client.renew(name)
        return {}


def key(session: tenantd.AsyncSession) -> str:
    return session.providers.llm.api_key


async def answer(agent: Agent, ask: dict) -> None:
    start, client = time.monotonic(), agent.client
    try:
        said = {"ok": True, **await agent.do(ask)}
    except tenantd.TenantdError as error:
        # Closed under it, or being closed, by a command that came later.
        closed = agent.client is not client or agent.closing is client
        away = isinstance(error, tenantd.SidecarUnavailable)
        reason = "CLOSED" if closed else "UNAVAILABLE" if away else error.reason or "?"
        said = {"ok": False, "class": type(error).__name__, "reason": reason, "text": str(error)}
    except (Exception, asyncio.CancelledError) as error:
        # grpc.aio cancels what waits on a channel that is closed. Else it is not one of the
        # documented ones: the driver says so.
        closed = agent.client is not client or agent.closing is client
        reason = "CLOSED" if closed else "?"
        said = {"ok": False, "class": type(error).__name__, "reason": reason, "text": repr(error)}
    said |= {"n": ask["n"], "ms": int((time.monotonic() - start) * 1000)}
    print(json.dumps(said), flush=True)


async def main() -> None:
    agent = Agent()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    running: set[asyncio.Task] = set()
    while line := await reader.readline():
        task = asyncio.create_task(answer(agent, json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
