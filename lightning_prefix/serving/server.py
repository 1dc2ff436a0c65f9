"""A server: LitServe's, with this package's worker, routes and end."""

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse
from litserve import LitServer
from starlette.exceptions import HTTPException
from starlette.routing import Route

from lightning_prefix.errors import InputError
from lightning_prefix.serving.api import PrefixAPI
from lightning_prefix.serving.gate import Gate, ServerState, error_body
from lightning_prefix.serving.jobs import RequestError
from lightning_prefix.serving.prefixes import served_prefixes
from lightning_prefix.serving.routes import PrefixSpec
from lightning_prefix.serving.settings import ServerSettings

__all__ = ["make_server", "serve_prefixes"]

_POLL = 0.05  # seconds


class _Server(LitServer):  # type: ignore[misc]
    def _init_manager(self, num_api_servers: int) -> Any:
        """Signals to the whole group of processes do not end the one with the queues; LitServe ends it itself."""
        own = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            return super()._init_manager(num_api_servers)
        finally:
            signal.signal(signal.SIGTERM, own)


def make_server(words: Sequence[str], settings: ServerSettings, **overrides: Any) -> tuple[LitServer, ServerState]:
    """A server that does not listen yet.

    Args:
        words: the prefixes, `FOLDER` or `NAME=FOLDER`.
        settings: where it listens, how it batches, what it refuses.
        overrides: arguments of every task to replace, such as `backbone` where it lies elsewhere now.

    Raises:
        InputError: for folders that cannot be served.
    """
    prefixes = served_prefixes(words, **overrides)
    processes = multiprocessing.get_context("spawn")
    state = ServerState(processes.Event(), processes.Event(), processes.Value("i", 0))
    spec = PrefixSpec(prefixes, settings, state)
    api = PrefixAPI(spec, prefixes, settings, overrides, state.is_stopped)
    server = _Server(
        api,
        accelerator="cpu",  # how many workers: one; the device is the settings'
        timeout=False,
        disable_openapi_url=True,
        middlewares=[(Gate, {"state": state, "max_waiting": settings.max_waiting})],
    )
    server.uvicorn_graceful_timeout = settings.stop_timeout
    # before LitServe's own, which know neither the page nor the end
    server.app.router.routes[:0] = [Route("/", spec.page), Route("/health", spec.health)]
    server.app.add_exception_handler(RequestError, _answer_error)
    server.app.add_exception_handler(HTTPException, _answer_http_error)
    server.app.add_exception_handler(Exception, _answer_failure)
    return server, state


def serve_prefixes(words: Sequence[str], settings: ServerSettings, **overrides: Any) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then end those that are under way; a second signal ends at once.

    Args: as of `make_server`.

    Raises:
        InputError: for folders that cannot be served, a port that is taken, or a worker that died.
    """
    _check_port(settings)
    server, state = make_server(words, settings, **overrides)
    own = os.getpid()

    def stop(*_: Any) -> None:
        if os.getpid() != own:  # a fork
            raise SystemExit(0)
        if not state.is_stopping.is_set():
            state.is_stopping.set()
            _wait_for_last(state, settings.stop_timeout)
        state.is_stopped.set()
        logging.getLogger("litserve.server").setLevel(logging.CRITICAL + 1)  # its monitor outlives what it asks
        raise KeyboardInterrupt  # which LitServe takes as the end

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    where = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104  # it is only compared
    print(f"loading; then a page to try it is at http://{where}:{settings.port}/ (Ctrl-C ends it)", flush=True)
    try:
        server.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=1,
            log_level=settings.log_level,
            generate_client_file=False,
            timeout_keep_alive=30,
        )
    except (KeyboardInterrupt, EOFError, ConnectionError):  # the last two: the processes beside this one are gone
        pass
    finally:
        for process in multiprocessing.active_children():
            process.kill()
    if not state.is_stopping.is_set():
        raise InputError("the process that held the backbone ended; see its message above.")


def _check_port(settings: ServerSettings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((settings.host, settings.port))
        except OSError as error:
            raise InputError(
                f"port {settings.port} of {settings.host} cannot be had ({error}); give another."
            ) from error


def _wait_for_last(state: ServerState, seconds: float) -> None:
    """Until no request is in flight twice in a row."""
    until, quiet = time.monotonic() + seconds, 0
    while quiet < 2 and time.monotonic() < until:
        quiet = 0 if state.in_flight.value else quiet + 1
        time.sleep(_POLL)


async def _answer_error(_: Any, error: Any) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(error_body(error), error.status, headers)


async def _answer_http_error(request: Any, error: Any) -> JSONResponse:
    message = {404: f"there is no route {request.url.path}.", 405: f"{request.url.path} takes no {request.method}."}
    text = message.get(error.status_code, str(error.detail))
    return JSONResponse(error_body(RequestError(error.status_code, text)), error.status_code, error.headers)


async def _answer_failure(*_: Any) -> JSONResponse:
    return JSONResponse(error_body(RequestError(500, "the server failed; see its log.")), 500)
