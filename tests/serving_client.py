"""A server in processes of its own, and clients with nothing but sockets."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class RunningServer:
    """`python -m lightning_prefix serve` with these words, from when it answers."""

    def __init__(self, *words: str, log: Path, threads: int = 1, **environment: str) -> None:
        self.port, self.log = free_port(), log
        command = [sys.executable, "-m", "lightning_prefix", "serve", "--port", str(self.port), *words]
        own = {**os.environ, "OMP_NUM_THREADS": str(threads), **environment}
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env=own, start_new_session=True
            )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self.ask("/health")[0] == 200
        except OSError:
            return False

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, what JSON or text came, and headers; bytes are sent as they are."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, named)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return response.status, _read(response), response.headers
        except urllib.error.HTTPError as error:
            return error.code, _read(error), error.headers

    def events(self, path: str, body: Any, **headers: str) -> list[Any]:
        """Of a streamed answer."""
        status, text, told = self.ask(path, body, **headers)
        assert status == 200, text
        assert told["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    def is_anybody_left(self) -> bool:
        """Of the processes of the server."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _read(response: Any) -> Any:
    text = response.read().decode()
    return json.loads(text) if response.headers.get("content-type", "").startswith("application/json") else text


async def post(connection: Any, body: Any, key: str) -> tuple[int, Any]:
    """One request to `/predict` on an open connection, which stays open."""
    reader, writer = connection
    data = json.dumps(body).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    status = int((await reader.readline()).split()[1])
    length = 0
    while (line := await reader.readline()).strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, json.loads(await reader.readexactly(length))


async def load(
    port: int, bodies: list[Any], at_once: int, key: str = ""
) -> tuple[list[tuple[int, Any] | None], list[float]]:
    """All requests, so many at a time: answers in their order, None for a lost one, and the seconds of each."""
    answers: list[tuple[int, Any] | None] = [None] * len(bodies)
    seconds = [0.0] * len(bodies)
    left = iter(range(len(bodies)))

    async def client() -> None:
        connection = None
        for index in left:
            began = time.perf_counter()
            try:
                connection = connection or await asyncio.open_connection("127.0.0.1", port)
                answers[index] = await post(connection, bodies[index], key)
            except (OSError, IndexError, asyncio.IncompleteReadError):  # closed without an answer
                connection = None
            seconds[index] = time.perf_counter() - began

    await asyncio.gather(*(client() for _ in range(at_once)))
    return answers, seconds
