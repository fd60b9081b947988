"""An OpenAI-compatible chat endpoint that says "Hello." and knows which key asked."""

from __future__ import annotations

import json

from aiohttp import web


class Provider:
    """Serves `http://127.0.0.1:PORT/v1`."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        """The key of each request."""
        self.models: list[str] = []
        """The model of each request."""
        self.refused: set[str] = set()
        """Keys that get 401."""
        self.base_url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens on a free port."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Hangs up."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = await request.json()
        self.keys.append(key)
        self.models.append(asked["model"])
        if key in self.refused:
            error = {"error": {"message": f"bad key {key}", "code": "invalid_api_key"}}
            return web.json_response(error, status=401)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        about = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
        delta = {"index": 0, "delta": {"role": "assistant", "content": "Hello."}}
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        for chunk in (
            {**about, "choices": [{**delta, "finish_reason": None}]},
            {**about, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**about, "choices": [], "usage": usage},
        ):
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response
