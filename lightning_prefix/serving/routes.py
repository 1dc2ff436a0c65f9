"""The routes of a server."""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from litserve.specs.base import LitSpec
from litserve.utils import ResponseBufferItem

from lightning_prefix.serving.gate import ServerState, error_body
from lightning_prefix.serving.jobs import Answer, Failure, Job, Piece, RequestError
from lightning_prefix.serving.prefixes import ServedPrefix
from lightning_prefix.serving.requests import chat_job, predict_jobs, read_json
from lightning_prefix.serving.settings import ServerSettings

__all__ = ["PrefixSpec"]

_DONE = "data: [DONE]\n\n"


class PrefixSpec(LitSpec):  # type: ignore[misc]
    """Routes for all prefixes on one queue of LitServe, streamed answers beside others.

    Args:
        prefixes: by name.
        settings: of the server.
        state: of the server.
    """

    def __init__(self, prefixes: Mapping[str, ServedPrefix], settings: ServerSettings, state: ServerState) -> None:
        super().__init__()
        self.api_path = "/predict"
        self.prefixes, self.settings, self._state = dict(prefixes), settings, state
        self._began = int(time.time())

    def __getstate__(self) -> dict[str, Any]:
        """The worker process needs neither the state nor the queues."""
        return {"api_path": self.api_path, "_endpoints": []}

    @property
    def stream(self) -> bool:
        """LitServe keeps a queue of events for each request then."""
        return True

    def pre_setup(self, lit_api: Any) -> None:
        """Name the routes that need the key."""
        self.add_endpoint("/predict", self.predict, ["POST"])
        self.add_endpoint("/v1/chat/completions", self.chat, ["POST"])
        self.add_endpoint("/v1/models", self.models, ["GET"])
        self.add_endpoint("/metrics", self.metrics, ["GET"])

    async def page(self, request: Request) -> Response:
        """The page to try prefixes on."""
        return HTMLResponse((resources.files(__package__) / "page.html").read_text(encoding="utf-8"))

    async def health(self, request: Request) -> Response:
        """Whether requests are taken."""
        is_stopping = self._state.is_stopping.is_set()
        return JSONResponse({"status": "stopping" if is_stopping else "ok"}, 503 if is_stopping else 200)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        text = self._state.metrics.render(self._state.in_flight.value)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The prefixes, as OpenAI's clients list models."""
        data = [
            {
                "id": prefix.name,
                "object": "model",
                "created": self._began,
                "owned_by": "lightning_prefix",
                "task": prefix.task,
                "columns": prefix.columns,
                "streams": prefix.streams,
                "chats": prefix.chats,
            }
            for prefix in self.prefixes.values()
        ]
        return JSONResponse({"object": "list", "data": data})

    async def predict(self, request: Request) -> Response:
        """Answers of one prefix."""
        body = await self._body(request)
        jobs, is_streamed = predict_jobs(body, self.prefixes, self.settings)
        if is_streamed:
            events = await self._begun(jobs[0])
            return StreamingResponse(_predict_stream(events), media_type="text/event-stream")
        answers = await asyncio.gather(*map(self._answer, jobs))
        outputs = [answer.output for answer in answers]
        return JSONResponse({"outputs": outputs} if "inputs" in body else {"output": outputs[0]})

    async def chat(self, request: Request) -> Response:
        """The next message of a conversation."""
        job = chat_job(await self._body(request), self.prefixes, self.settings)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": job.prefix}
        if job.is_streamed:
            events = await self._begun(job)
            return StreamingResponse(_chat_stream(events, head), media_type="text/event-stream")
        answer = await self._answer(job)
        message = {"role": "assistant", "content": answer.output["generated_text"]}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(answer)})

    async def _body(self, request: Request) -> dict[str, Any]:
        limit, parts, size = self.settings.max_body_bytes, [], 0
        declared = request.headers.get("content-length", "0")
        too_long = RequestError(413, f"the body is longer than {limit} bytes; send less at a time.")
        if declared.isdecimal() and int(declared) > limit:
            raise too_long
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_long
            parts.append(part)
        return read_json(b"".join(parts))

    async def _events(self, job: Job) -> AsyncIterator[Piece | Answer]:
        """What the worker tells of a job, its answer last.

        Raises:
            RequestError: if it fails.
        """
        uid, event, queue = uuid.uuid4().hex, asyncio.Event(), deque[Any]()
        self.response_buffer[uid] = ResponseBufferItem(event=event, response_queue=queue)
        is_ended = False
        try:
            self.request_queue.put((self.response_queue_id, uid, time.monotonic(), job))
            while not is_ended:
                await event.wait()
                event.clear()
                while queue:
                    told, _ = queue.popleft()
                    is_ended = not isinstance(told, Piece)
                    if isinstance(told, Failure):
                        raise RequestError(told.status, told.message)
                    if isinstance(told, Answer):
                        metrics = self._state.metrics
                        metrics.count_row(job.prefix, told.rows, told.prompt_tokens, told.new_tokens)
                    yield told
        finally:
            del self.response_buffer[uid]
            if not is_ended:  # nobody listens any more
                self.request_queue.put((self.response_queue_id, uid, time.monotonic(), None))

    async def _answer(self, job: Job) -> Answer:
        async for told in self._events(job):
            if isinstance(told, Answer):
                return told
        raise AssertionError("the events of a job end with its answer")

    async def _begun(self, job: Job) -> AsyncIterator[Piece | Answer]:
        """The events once there is a first one, so that what fails before has a status of its own."""
        events = self._events(job)
        first = await anext(events)

        async def all_events() -> AsyncIterator[Piece | Answer]:
            yield first
            async for told in events:
                yield told

        return all_events()


async def _predict_stream(events: AsyncIterator[Piece | Answer]) -> AsyncIterator[str]:
    try:
        async for told in events:
            if isinstance(told, Piece):
                yield _data({"text": told.text})
            else:
                yield _data({"output": told.output, "finish_reason": told.finish_reason, "usage": _usage(told)})
    except RequestError as error:
        yield _data(error_body(error))
    yield _DONE


async def _chat_stream(events: AsyncIterator[Piece | Answer], head: dict[str, Any]) -> AsyncIterator[str]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**head, "object": "chat.completion.chunk", "choices": [choice]}

    yield _data(chunk({"role": "assistant", "content": ""}))
    try:
        async for told in events:
            if isinstance(told, Piece):
                yield _data(chunk({"content": told.text}))
            else:
                yield _data({**chunk({}, told.finish_reason), "usage": _usage(told)})
    except RequestError as error:
        yield _data(error_body(error))
    yield _DONE


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _usage(answer: Answer) -> dict[str, int]:
    read, written = answer.prompt_tokens, answer.new_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
