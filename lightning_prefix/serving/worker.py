"""The process that holds the backbone: rows of all requests that wait, in as few passes as can be."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from lightning_prefix.errors import InputError
from lightning_prefix.mixed import MixedPredictor
from lightning_prefix.row_writer import RowWriter
from lightning_prefix.serving.jobs import Answer, Failure, Job, Piece
from lightning_prefix.serving.prefixes import ServedPrefix
from lightning_prefix.serving.settings import ServerSettings

__all__ = ["Ticket", "Worker"]

_log = logging.getLogger(__name__)


class Ticket(NamedTuple):
    """A job and who asked for it.

    Attributes:
        consumer: the process that waits for the answer.
        uid: of the request there.
        since: when it came, as `time.monotonic`.
        job: None when nobody waits for the answer to `uid` any more.
    """

    consumer: int
    uid: str
    since: float
    job: Job | None


Send = Callable[[Ticket, Piece | Answer | Failure], None]


class Worker:
    """All prefixes on the device, and the jobs that wait for them.

    Prefixes that can share a pass share one `MixedPredictor` and its thread; a long text of one group does not keep
    the others waiting.

    Args:
        prefixes: by name.
        settings: of the server.
        device: where the backbone runs.
        overrides: arguments of every task to replace.
    """

    def __init__(
        self, prefixes: Mapping[str, ServedPrefix], settings: ServerSettings, device: str, overrides: Mapping[str, Any]
    ) -> None:
        self._settings = settings
        self.predictors: list[MixedPredictor] = []
        for name, prefix in prefixes.items():
            self._place(name, prefix, device, overrides)
        self._waiting: dict[str, bool] = {}  # uid -> whether the answer is still wanted
        self._inboxes: dict[str, SimpleQueue[Ticket]] = {}

    def _place(self, name: str, prefix: ServedPrefix, device: str, overrides: Mapping[str, Any]) -> None:
        for predictor in self.predictors:
            try:
                predictor.add(name, prefix.folder)
            except InputError:  # it cannot share a pass with these; what is damaged fails below once more
                continue
            return
        new = MixedPredictor({name: prefix.folder}, device=device, batch_size=self._settings.batch_size, **overrides)
        self.predictors.append(new)

    def start(self, send: Send) -> None:
        """One thread for each group.

        Args:
            send: takes a ticket and what became of it; called in any of the threads.
        """

        def tell(ticket: Ticket, event: Piece | Answer | Failure) -> None:
            is_piece = isinstance(event, Piece)
            if self._waiting.get(ticket.uid) if is_piece else self._waiting.pop(ticket.uid, False):
                send(ticket, event)

        for predictor in self.predictors:
            inbox: SimpleQueue[Ticket] = SimpleQueue()
            group = _Group(predictor, self._settings, inbox, tell, lambda uid: not self._waiting.get(uid))
            self._inboxes.update(dict.fromkeys(predictor.names, inbox))
            Thread(target=group.run, daemon=True, name=f"group of {predictor.names[0]}").start()

    def take(self, ticket: Ticket) -> None:
        """Hand a ticket to its group; without a job, forget the one of its uid."""
        if ticket.job is not None:
            self._waiting[ticket.uid] = True
            self._inboxes[ticket.job.prefix].put(ticket)
        elif ticket.uid in self._waiting:
            self._waiting[ticket.uid] = False


class _Group:
    """Jobs for prefixes that can share a pass."""

    def __init__(
        self,
        predictor: MixedPredictor,
        settings: ServerSettings,
        inbox: "SimpleQueue[Ticket]",
        tell: Send,
        is_left: Callable[[str], bool],
    ) -> None:
        self._predictor, self._settings, self._inbox = predictor, settings, inbox
        self._tell, self._is_left = tell, is_left

    def run(self) -> None:
        while True:
            self.answer(self._gathered())

    def _gathered(self) -> list[Ticket]:
        """What waits, at least one."""
        tickets = [self._inbox.get()]
        until = time.monotonic() + self._settings.batch_timeout
        with suppress(Empty):
            while len(tickets) < self._settings.batch_size:
                tickets.append(self._inbox.get(timeout=max(until - time.monotonic(), 0)))
        return tickets

    def answer(self, tickets: Sequence[Ticket]) -> None:
        """One pass for all that have scores, then one for each way of writing texts."""
        passes: dict[Any, list[Ticket]] = defaultdict(list)
        for ticket in tickets:
            job = _job(ticket)
            if self._is_left(ticket.uid):
                self._tell(ticket, Failure(499, "left"))
            elif time.monotonic() - ticket.since > self._settings.timeout:
                seconds = self._settings.timeout
                self._tell(
                    ticket, Failure(504, f"not begun within {seconds} s, there are too many requests; try later.")
                )
            else:
                way = self._predictor.way_of_writing(job.prefix)
                passes[way and (way, *sorted(job.generation.items()))].append(ticket)
        for way, own in sorted(passes.items(), key=lambda item: item[0] is not None):  # texts take longer
            self._pass(own, self._score if way is None else self._write)

    def _pass(self, tickets: Sequence[Ticket], make: Callable[[Sequence[Ticket]], None]) -> None:
        """Inputs that cannot be read fail alone; what fails otherwise fails those of the pass."""
        try:
            make(tickets)
        except Exception as error:
            readable = [ticket for ticket in tickets if self._is_readable(ticket)]
            if len(readable) == len(tickets):
                _log.exception("a pass over %d rows failed", len(tickets))
                for ticket in tickets:
                    if not self._is_left(ticket.uid):
                        self._tell(ticket, Failure(500, f"the pass failed ({type(error).__name__}); see the log."))
            elif readable:
                self._pass(readable, make)

    def _is_readable(self, ticket: Ticket) -> bool:
        job = _job(ticket)
        try:
            self._predictor.predictor(job.prefix).data.encode_inputs([job.input])
        except InputError as error:
            self._tell(ticket, Failure(422, str(error)))
        except Exception as error:
            self._tell(ticket, Failure(422, f"the input cannot be read ({type(error).__name__}: {error})."))
        else:
            return True
        return False

    def _score(self, tickets: Sequence[Ticket]) -> None:
        outputs = self._predictor([(_job(ticket).prefix, _job(ticket).input) for ticket in tickets])
        for ticket, output in zip(tickets, outputs, strict=True):
            self._tell(ticket, Answer(output, len(tickets)))

    def _write(self, tickets: Sequence[Ticket]) -> None:
        rows = [(_job(ticket).prefix, _job(ticket).input) for ticket in tickets]
        self._predictor.write(rows, [self._writer(t, len(tickets)) for t in tickets], **_job(tickets[0]).generation)

    def _writer(self, ticket: Ticket, rows: int) -> RowWriter:
        job = _job(ticket)

        def tell_end(writer: RowWriter) -> None:
            output = {"generated_text": writer.text}
            reason = writer.finish_reason or "stop"
            self._tell(ticket, Answer(output, rows, reason, writer.prompt_tokens, writer.tokens))

        limits = [limit for limit in (job.max_tokens, self._settings.max_new_tokens) if limit is not None]
        return RowWriter(
            on_piece=(lambda text: self._tell(ticket, Piece(text))) if job.is_streamed else None,
            on_end=tell_end,
            max_tokens=min(limits, default=None),
            stop=job.stop,
            is_left=lambda: self._is_left(ticket.uid),
        )


def _job(ticket: Ticket) -> Job:
    assert ticket.job is not None  # noqa: S101
    return ticket.job
