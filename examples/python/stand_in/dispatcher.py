"""The worker side of LiveKit's protocol: offers jobs to unmodified workers.

No SFU and no media: a worker registers, gets jobs, answers, reports and is terminated.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from aiohttp import WSMsgType, web
from livekit.protocol import agent, models


class Dispatcher:
    """Serves `ws://127.0.0.1:PORT/agent` for one worker at a time."""

    def __init__(self) -> None:
        self.assign = True
        """Whether an accepted job is assigned."""
        self.answers: dict[str, Any] = {}
        """The worker's AvailabilityResponse, by job id."""
        self.updates: dict[str, list[int]] = {}
        """The job states that the worker reported, by job id."""
        self.registered = asyncio.Event()
        self._answered = asyncio.Condition()
        self._ids = itertools.count(1)
        self._worker: web.WebSocketResponse | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listens on a free port."""
        app = web.Application()
        app.router.add_get("/agent", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"ws://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Hangs up."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def offer(
        self, metadata: str = "", *, room_metadata: str = "", job_id: str = "", agent_name: str = ""
    ) -> str:
        """Offers a job, and returns its id."""
        n = next(self._ids)
        job = agent.Job(
            id=job_id or f"AJ_{n:06d}",
            dispatch_id=f"AD_{n}",
            type=agent.JobType.JT_ROOM,
            metadata=metadata,
            agent_name=agent_name,
            room=models.Room(sid=f"RM_{n}", name=f"room-{n}", metadata=room_metadata),
        )
        self._jobs[job.id] = job
        await self._say(agent.ServerMessage(availability=agent.AvailabilityRequest(job=job)))
        return job.id

    async def answer(self, job_id: str, within: float = 15.0) -> Any:
        """The worker's answer to an offer: `available`, and `terminate` of a rejection."""
        async with asyncio.timeout(within), self._answered:
            await self._answered.wait_for(lambda: job_id in self.answers)
        return self.answers[job_id]

    async def dispatch(self, metadata: str = "", **kwargs: Any) -> Any:
        """Offers a job and waits for the answer."""
        return await self.answer(await self.offer(metadata, **kwargs))

    async def terminate(self, job_id: str) -> None:
        """Ends a job."""
        await self._say(agent.ServerMessage(termination=agent.JobTermination(job_id=job_id)))

    @property
    def _jobs(self) -> dict[str, Any]:
        return self.__dict__.setdefault("jobs", {})

    async def _say(self, message: Any) -> None:
        assert self._worker is not None, "no worker is registered"
        await self._worker.send_bytes(message.SerializeToString())

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        self._worker = socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for frame in socket:
            if frame.type is WSMsgType.BINARY:
                await self._hear(agent.WorkerMessage.FromString(frame.data))
        return socket

    async def _hear(self, message: Any) -> None:
        kind = message.WhichOneof("message")
        if kind == "register":
            registered = agent.RegisterWorkerResponse(worker_id=f"AW_{next(self._ids)}")
            registered.server_info.protocol = 16
            await self._say(agent.ServerMessage(register=registered))
            self.registered.set()
        elif kind == "availability":
            answer = message.availability
            if answer.available and self.assign:
                assigned = agent.JobAssignment(
                    job=self._jobs[answer.job_id], token="none", url=self.url
                )
                await self._say(agent.ServerMessage(assignment=assigned))
            async with self._answered:
                self.answers[answer.job_id] = answer
                self._answered.notify_all()
        elif kind == "update_job":
            self.updates.setdefault(message.update_job.job_id, []).append(message.update_job.status)
        elif kind == "ping":
            pong = agent.WorkerPong(last_timestamp=message.ping.timestamp)
            await self._say(agent.ServerMessage(pong=pong))
