"""The server's parts as LitServe names them: the API that loads, and the loop that batches."""

import os
import secrets
import signal
import sys
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from litserve import LitAPI
from litserve.loops.base import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType

from lightning_prefix.errors import InputError
from lightning_prefix.serving.jobs import Answer, Failure, Piece, RequestError
from lightning_prefix.serving.prefixes import ServedPrefix
from lightning_prefix.serving.settings import ServerSettings
from lightning_prefix.serving.worker import Ticket, Worker

__all__ = ["PrefixAPI", "PrefixLoop"]


class PrefixAPI(LitAPI):  # type: ignore[misc]
    """Loads the backbone and the prefixes in LitServe's worker process, and knows who may ask.

    Args:
        spec: the routes.
        prefixes: by name.
        settings: of the server.
        overrides: arguments of every task to replace.
        is_stopped: an event of `multiprocessing`, set when no request is left.
    """

    def __init__(
        self,
        spec: Any,
        prefixes: Mapping[str, ServedPrefix],
        settings: ServerSettings,
        overrides: Mapping[str, Any],
        is_stopped: Any,
    ) -> None:
        super().__init__(loop=PrefixLoop(), spec=spec)
        self.prefixes, self.settings, self.overrides = dict(prefixes), settings, dict(overrides)
        self.is_stopped = is_stopped
        self.worker: Worker | None = None

    def setup(self, device: str) -> None:
        """Load; signals to the whole group of processes wait until the last answer is given."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        try:
            self.worker = Worker(self.prefixes, self.settings, self.settings.device, self.overrides)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise

    def _end(self, *_: Any) -> None:
        if self.is_stopped.is_set():
            raise SystemExit(0)

    def authorize(self, request: Request) -> None:
        """LitServe's hook before each route.

        Raises:
            RequestError: 401 for a wrong key, or none.
        """
        key = self.settings.key
        if key is None:
            return
        bearer = request.headers.get("authorization", "")
        given = bearer[7:] if bearer[:7].lower() == "bearer " else request.headers.get("x-api-key", "")
        if not secrets.compare_digest(given.encode(), key.encode()):
            raise RequestError(
                401, "the key is missing or wrong; send `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            )


class PrefixLoop(LitLoop):  # type: ignore[misc]
    """Reads LitServe's queue of requests and hands them to the worker's threads."""

    def run(
        self,
        lit_api: PrefixAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """As LitServe calls it; returns when the server is gone."""

        def send(ticket: Ticket, event: Piece | Answer | Failure) -> None:
            status = LitAPIStatus.OK  # what ends a request is told by the event
            self.put_response(transport, ticket.consumer, ticket.uid, event, status, LoopResponseType.STREAMING)

        worker = lit_api.worker
        assert worker is not None  # noqa: S101
        worker.start(send)
        while True:
            try:
                found = self.get_request(request_queue, timeout=1)
            except (EOFError, OSError):
                os._exit(1)
            if found is not None:
                worker.take(Ticket(*found))
            elif os.getppid() != self._server_pid:
                os._exit(1)
