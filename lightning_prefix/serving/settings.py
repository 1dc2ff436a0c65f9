"""What the user decides about a server."""

import os
from dataclasses import dataclass

from lightning_prefix.errors import InputError

__all__ = ["KEY_VARIABLE", "ServerSettings"]

KEY_VARIABLE = "LIGHTNING_PREFIX_API_KEY"
HOSTS = ("127.0.0.1", "0.0.0.0", "::")  # noqa: S104


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, how it batches, and what it refuses.

    Args:
        host: 127.0.0.1 for this machine only, 0.0.0.0 or :: for the network.
        port: 1024 to 65535.
        device: where the backbone runs: cpu, cuda, cuda:1, mps.
        batch_size: rows per forward pass, >= 1.
        batch_timeout: seconds that the first request of a batch waits for others, >= 0.
        api_key: without it (`Authorization: Bearer KEY` or `X-API-Key: KEY`) requests are refused; that of the
            environment variable LIGHTNING_PREFIX_API_KEY when null, which no list of processes shows; none when empty.
        max_body_bytes: of a request, >= 1.
        max_characters: of all texts of a request together, >= 1.
        max_inputs: per request, >= 1.
        max_new_tokens: of a generated text; that of its training when null or larger.
        max_waiting: requests at a time; more are refused with 503, >= 1.
        timeout: seconds that a request may wait for its batch, > 0.
        stop_timeout: seconds that requests have to end once the server is told to stop, > 0.
        log_level: critical, error, warning, info, debug.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "cpu"
    batch_size: int = 32
    batch_timeout: float = 0.005
    api_key: str | None = None
    max_body_bytes: int = 1_000_000
    max_characters: int = 100_000
    max_inputs: int = 64
    max_new_tokens: int | None = None
    max_waiting: int = 4096
    timeout: float = 60.0
    stop_timeout: float = 30.0
    log_level: str = "warning"

    def __post_init__(self) -> None:
        if self.host not in HOSTS:  # which LitServe takes
            raise InputError(f"host {self.host!r} is given; choose one of {', '.join(HOSTS)}.")
        if not 1024 <= self.port <= 65535:
            raise InputError(f"port {self.port} is given; choose one from 1024 to 65535.")
        for name in ("batch_size", "max_body_bytes", "max_characters", "max_inputs", "max_new_tokens", "max_waiting"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value} is given; give >= 1.")
        if self.batch_timeout < 0 or self.timeout <= 0 or self.stop_timeout <= 0:
            raise InputError(
                f"batch_timeout {self.batch_timeout}, timeout {self.timeout} and stop_timeout {self.stop_timeout} are "
                "given; give seconds, >= 0 for the first and > 0 for the others."
            )

    @property
    def key(self) -> str | None:
        """The key that requests must bring, if any."""
        return (os.environ.get(KEY_VARIABLE) if self.api_key is None else self.api_key) or None
