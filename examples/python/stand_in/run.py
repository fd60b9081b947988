"""Runs a worker of these examples with all that it needs, and gives it calls.

    python stand_in/run.py livekit_agent.py '{"tenant": "acme"}' '{"tenant": 5}'
    python stand_in/run.py openrtc_agents.py
    python stand_in/run.py pipecat_bot.py
    python stand_in/run.py livekit_agent.mjs

Starts the sidecar (TENANTD_BIN, or `tenantd` on the PATH), a stand-in for LiveKit's
dispatcher and for an LLM provider, and the worker; offers one job for each metadata;
prints who was accepted, on which key, and how it ended.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import tenantd  # noqa: E402
from stand_in.dispatcher import Dispatcher  # noqa: E402
from stand_in.provider import Provider  # noqa: E402
from tenantd.testing import Sidecar  # noqa: E402
from tenantd.v1.watch_service_pb2 import WatchSessionsRequest  # noqa: E402
from tenantd.v1.watch_service_pb2_grpc import WatchServiceStub  # noqa: E402


class Stage:
    """A sidecar, a dispatcher, a provider, and one worker that is registered."""

    def __init__(
        self, script: str, config: dict[str, Any], *, env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = ("start",), binary: Any = None,
    ) -> None:
        node = script.endswith(".mjs")
        folder = HERE.parent.parent / "node" if node else HERE.parent
        self._command = ("node" if node else sys.executable, str(folder / script), *arguments)
        self.config, self._env, self._binary = config, dict(env or {}), binary
        self.livekit, self.provider = Dispatcher(), Provider()
        self.ended: dict[str, str] = {}
        """Outcome by session id, as the sidecar's watch says."""
        self.failures: dict[str, tuple[str, str]] = {}
        """Slot and kind of reported failures, by session id."""

    def configured(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """The config with a key for each tenant, all at the stand-in provider."""
        tenants = {name: dict(entry) for name, entry in self.config.get("tenants", {}).items()}
        for name, key in keys.items():
            llm = {"provider": "openai", "model": f"model-of-{name}", "credential": key}
            llm["base_url"] = self.provider.base_url
            tenants.setdefault(name, {})["providers"] = {"llm": llm}
        llm = {"provider": "openai", "model": "shared", "credential": "sk-shared"}
        defaults = {**self.config.get("defaults", {})}
        defaults["providers"] = {"llm": {**llm, "base_url": self.provider.base_url}}
        return {**self.config, "tenants": tenants, "defaults": defaults}

    async def __aenter__(self) -> Stage:
        await self.livekit.start()
        await self.provider.start()
        self.keys = {name: f"sk-{name}" for name in self.config.get("tenants", {})}
        self.sidecar = Sidecar(self.configured(self.keys), binary=self._binary)
        await asyncio.to_thread(self.sidecar.start)
        self.td = tenantd.connect(self.sidecar.address)
        self._watching = asyncio.create_task(self._watch())
        env = {
            **os.environ,
            "LIVEKIT_URL": self.livekit.url,
            "LIVEKIT_API_KEY": "key",
            "LIVEKIT_API_SECRET": "secret-secret-secret-secret-secret",
            "TENANTD_ADDRESS": self.sidecar.address,
            "PYTHONPATH": str(HERE / "no_media"),
            "PORT": str(_free_port()),  # Of the Node worker's health page, which takes no 0.
            **self._env,
        }
        self.log = (self.sidecar.folder / "worker.log").open("wb+")
        self.worker = await asyncio.create_subprocess_exec(
            *self._command, env=env, stdout=self.log, stderr=self.log
        )
        registered = asyncio.ensure_future(self.livekit.registered.wait())
        ended = asyncio.ensure_future(self.worker.wait())
        await asyncio.wait([registered, ended], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        registered.cancel()
        ended.cancel()
        if not self.livekit.registered.is_set():
            await self.__aexit__(None, None, None)
            raise RuntimeError(f"the worker did not register\n{self.said}")
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self.worker.returncode is None:
            self.worker.terminate()
            try:
                await asyncio.wait_for(self.worker.wait(), 3)  # It would wait for its calls.
            except asyncio.TimeoutError:
                self.worker.kill()
                await self.worker.wait()
        self.said = self.worker_log()
        if error is not None:
            print(self.said[-6000:])
        self._watching.cancel()
        await self.td.close()
        await self.livekit.stop()
        await self.provider.stop()
        await asyncio.to_thread(self.sidecar.stop)

    def worker_log(self) -> str:
        """What the worker has said."""
        self.log.flush()
        return Path(self.log.name).read_text(errors="replace") if Path(self.log.name).exists() else ""

    async def until(self, probe: Any, within: float = 60.0) -> Any:
        """Waits until `probe()` is true."""
        end = asyncio.get_running_loop().time() + within
        while not (result := probe()):
            if asyncio.get_running_loop().time() > end:
                raise TimeoutError(f"not within {within} s\n{self.worker_log()[-6000:]}")
            await asyncio.sleep(0.05)
        return result

    async def _watch(self) -> None:
        watch = WatchServiceStub(self.td.channel).WatchSessions(WatchSessionsRequest())
        async for item in watch:
            event = item.event
            match event.WhichOneof("detail"):
                case "session_ended":
                    name = tenantd._wire.outcome_name(event.session_ended.outcome)
                    self.ended[event.session_id] = name
                case "failure_reported":
                    failure = event.failure_reported
                    self.failures[event.session_id] = (failure.slot, failure.kind)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def main(script: str, *metadata: str) -> None:
    config = {"tenants": {"acme": {"cap": 2}, "globex": {}}}
    metadata = metadata or ('{"tenant": "acme"}', '{"tenant": "globex"}', '{"tenant": 5}')
    if script == "pipecat_bot.py":
        return await bots(script, config, metadata)
    # voicegateway's rows go to a file of this run.
    costs = tempfile.mkdtemp()
    env = {"HANG_UP": "1", "CALL_SECONDS": "2", "VOICEGW_DB": f"{costs}/costs.db"}
    async with Stage(script, config, env=env) as stage:
        for text in metadata:
            answer = await stage.livekit.dispatch(text)
            if not answer.available:
                print(f"{text}: rejected, {'for good' if answer.terminate else 'another may take it'}")
                continue
            await stage.until(lambda: answer.job_id in stage.ended)
            print(f"{text}: {answer.job_id} ended as {stage.ended[answer.job_id]}, "
                  f"the provider saw {stage.provider.keys[-1:]}")
    if os.environ.get("VERBOSE"):
        print(stage.said)


async def bots(script: str, config: dict[str, Any], metadata: tuple[str, ...]) -> None:
    """A bot is a process of its own, and needs no dispatcher."""
    stage = Stage(script, config)
    await stage.provider.start()
    keys = {name: f"sk-{name}" for name in config["tenants"]}
    with Sidecar(stage.configured(keys)) as sidecar:
        for text in metadata:
            bot = await asyncio.create_subprocess_exec(
                sys.executable, str(HERE.parent / script), text,
                env={**os.environ, "TENANTD_ADDRESS": sidecar.address}, stderr=-1,
            )
            _, said = await bot.communicate()
            end = "well" if bot.returncode == 0 else said.decode().strip().splitlines()[-2]
            print(f"{text}: ended {end}; the provider saw {stage.provider.keys[-1:]}")
    await stage.provider.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
