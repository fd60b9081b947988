"""A Pipecat bot for many clients, without a transport: the caller is one line of text.

    LLM_URL=... python pipecat_bot.py '{"tenant": "acme"}'
"""

import asyncio
import sys

from pipecat.frames.frames import EndFrame, LLMContextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.runner.types import RunnerArguments
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.workers.runner import WorkerRunner

import tenantd
import tenantd.pipecat


async def bot(runner_args: RunnerArguments) -> None:
    async with tenantd.connect() as td, tenantd.pipecat.session(td, runner_args) as s:
        llm = s.providers.llm
        service = OpenAILLMService(
            api_key=llm.api_key,
            base_url=llm.base_url,
            settings=OpenAILLMService.Settings(model=llm.model),
        )
        worker = PipelineWorker(Pipeline([service]))
        tenantd.pipecat.watch(s, worker)
        context = LLMContext([{"role": "user", "content": "Hi"}])
        await worker.queue_frames([LLMContextFrame(context), EndFrame()])
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()


if __name__ == "__main__":
    args = RunnerArguments(body=sys.argv[1] if sys.argv[1:] else "")
    asyncio.run(bot(args))
