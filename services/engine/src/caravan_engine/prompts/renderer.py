"""Renders chats by a model's template, in a process that may be killed for it.

Owns the queue to that process, its limits and its restarts. A template is code from a model's
file: it may loop, eat memory, or try to escape, and none of that may reach the worker.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from caravan_engine.prompts.errors import ChatTemplateFailedError, RenderQueueFullError
from caravan_engine.prompts.masking import Message
from caravan_engine.prompts.renderer_process import RendererDiedError, RendererProcess

_log = logging.getLogger(__name__)

_START_S = 20.0
_MARGIN_S = 2.0
_MAX_JSON_BYTES_PER_CHAR = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RendererLimits:
    """What rendering may take."""

    memory_bytes: int = 256 * 2**20
    time_s: float = 5.0
    output_chars: int = 5 * 2**20
    queue_size: int = 256


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """A model's chat template and what it may refer to, such as `bos_token`."""

    text: str
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Job:
    conversations: list[Sequence[Message]]
    result: asyncio.Future[list[str]]


class ChatRenderer:
    """Renders one after the other. Belongs to the event loop.

    The process is started at the first need and again after it died or was killed.
    """

    def __init__(self, source: TemplateSource, limits: RendererLimits) -> None:
        self._source = source
        self._limits = limits
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(limits.queue_size)
        self._process: RendererProcess | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def process_id(self) -> int | None:
        """The renderer's process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begins to serve, in a task of its own."""
        self._task = asyncio.create_task(self._serve(), name="chat-renderer")

    async def stop(self) -> None:
        """Ends the process; who still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        while not self._jobs.empty():
            self._jobs.get_nowait().result.cancel()

    async def render(self, *conversations: Sequence[Message]) -> list[str]:
        """Returns a prompt for each of the conversations.

        Raises:
            ChatTemplateFailedError: the template refuses, fails, or exceeds a limit.
            RenderQueueFullError: too many wait already.
        """
        job = _Job(list(conversations), asyncio.get_running_loop().create_future())
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise RenderQueueFullError(self._limits.queue_size) from None
        return await job.result

    async def _serve(self) -> None:
        try:
            while True:
                job = await self._jobs.get()
                if not job.result.done():  # else its caller left
                    await self._do(job)
        finally:
            await self._drop_process()

    async def _do(self, job: _Job) -> None:
        try:
            texts = await self._render(job.conversations)
        except ChatTemplateFailedError as error:
            if not job.result.done():
                job.result.set_exception(error)
        except BaseException:
            job.result.cancel()
            raise
        else:
            if not job.result.done():
                job.result.set_result(texts)

    async def _render(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        frame = {"conversations": [[asdict(each) for each in chat] for chat in conversations]}
        limit = len(conversations) * self._limits.output_chars * _MAX_JSON_BYTES_PER_CHAR + 2**16
        try:
            process = await self._running_process()
            async with asyncio.timeout(self._limits.time_s + _MARGIN_S):
                answer = await process.exchange(frame, answer_limit_bytes=limit)
        except (RendererDiedError, TimeoutError, OSError) as error:
            await self._drop_process()
            _log.warning("chat template was stopped", extra={"error": type(error).__name__})
            raise ChatTemplateFailedError("exceeded its time or memory") from error
        return self._texts(answer)

    async def _running_process(self) -> RendererProcess:
        if self._process is not None and self._process.is_alive:
            return self._process
        await self._drop_process()
        self._process = await RendererProcess.start()
        settings = {
            "template": self._source.text,
            "variables": self._source.variables,
            "output_limit": self._limits.output_chars,
            "memory_limit_bytes": self._limits.memory_bytes,
            "time_limit_s": self._limits.time_s,
        }
        async with asyncio.timeout(_START_S):
            answer = await self._process.exchange(settings, answer_limit_bytes=2**16)
        if "error" in answer:
            await self._drop_process()
            raise ChatTemplateFailedError("is not a valid template")
        return self._process

    async def _drop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.kill()

    def _texts(self, answer: dict[str, Any]) -> list[str]:
        if "texts" in answer:
            return [str(text) for text in answer["texts"]]
        kind = answer.get("error")
        if kind == "refused":
            raise ChatTemplateFailedError(self._refusal(str(answer.get("message", ""))))
        if kind in ("too_long", "memory"):
            raise ChatTemplateFailedError("exceeded its limit of output or memory")
        raise ChatTemplateFailedError("failed on this conversation")

    def _refusal(self, words: str) -> str:
        """The template's own words, unless they could hold a part of the conversation."""
        is_fixed = len(words) >= 1 and words in self._source.text
        return f"refused the conversation: {words}" if is_fixed else "refused the conversation"
