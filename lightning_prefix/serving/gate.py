"""What every request goes through: the count of requests in flight, and the end of the server."""

import json
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from lightning_prefix.serving.jobs import RequestError
from lightning_prefix.serving.metrics import Metrics

__all__ = ["Gate", "ServerState", "error_body"]

_ALWAYS_OPEN = ("/", "/health", "/metrics")
_ROUTES = (*_ALWAYS_OPEN, "/predict", "/v1/chat/completions", "/v1/models")
_TYPES = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "unavailable", 504: "timeout"}


@dataclass
class ServerState:
    """What the processes of a server share.

    Args:
        is_stopping: an event of `multiprocessing`: no more requests are taken.
        is_stopped: the same: no request is left.
        in_flight: a value of `multiprocessing`: how many requests wait for their answer.
        metrics: of the process that speaks HTTP.
    """

    is_stopping: Any
    is_stopped: Any
    in_flight: Any
    metrics: Metrics = field(default_factory=Metrics)


class Gate:
    """ASGI middleware.

    Args:
        app: the application behind it.
        state: of the server.
        max_waiting: requests at a time.
    """

    def __init__(self, app: Any, state: ServerState, max_waiting: int) -> None:
        self._app, self._state, self._max_waiting = app, state, max_waiting

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or refuse it with 503."""
        if scope["type"] != "http":
            self._hold_signals()
            await self._app(scope, receive, send)
            return
        path, began, statuses = scope["path"], time.perf_counter(), [500]

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses[0] = message["status"]
            await send(message)

        if path in _ALWAYS_OPEN:
            await self._app(scope, receive, counted)
        else:
            waiting = self._add(1)
            try:
                await self._answer(waiting, scope, receive, counted)
            finally:
                self._add(-1)
        route = path if path in _ROUTES else "other"
        self._state.metrics.count_request(route, statuses[0], time.perf_counter() - began)

    def _hold_signals(self) -> None:
        """Signals to the whole group of processes do not close the server before the last answer."""
        for number in (signal.SIGTERM, signal.SIGINT):
            own: Any = signal.getsignal(number)  # uvicorn's
            signal.signal(number, lambda *given, own=own: own(*given) if self._state.is_stopped.is_set() else None)

    async def _answer(self, waiting: int, scope: Any, receive: Any, send: Any) -> None:
        if self._state.is_stopping.is_set():
            await _refuse(send, "the server is stopping; ask another one, or try later.")
        elif waiting > self._max_waiting:
            await _refuse(send, f"{self._max_waiting} requests wait already; try later.")
        else:
            await self._app(scope, receive, send)

    def _add(self, count: int) -> int:
        with self._state.in_flight.get_lock():
            self._state.in_flight.value += count
            return int(self._state.in_flight.value)


async def _refuse(send: Any, message: str) -> None:
    body = json.dumps(error_body(RequestError(503, message))).encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(error: RequestError) -> dict[str, Any]:
    """As OpenAI's clients read it."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.status}}
