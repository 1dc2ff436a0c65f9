"""The worker without HTTP: what shares a pass, what fails alone, texts with an end of their own."""

import queue
import time

import pytest

import lightning_prefix as lp
from lightning_prefix.row_writer import RowWriter
from lightning_prefix.serving.jobs import Answer, Failure, Job, Piece
from lightning_prefix.serving.prefixes import served_prefixes
from lightning_prefix.serving.settings import ServerSettings
from lightning_prefix.serving.worker import Ticket, Worker

SECONDS = 20
SETTINGS = ServerSettings(batch_size=16, batch_timeout=0.3, max_new_tokens=15, timeout=5)


class Desk:
    """Hands jobs to a worker, and collects what it tells."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.told = worker, queue.SimpleQueue()
        worker.start(lambda ticket, event: self.told.put((ticket.uid, event)))

    def answers(self, *jobs: Job, since: float | None = None) -> list[Answer | Failure]:
        """In the order of the jobs."""
        for place, job in enumerate(jobs):
            self.worker.take(Ticket(0, str(place), time.monotonic() if since is None else since, job))
        found = {}
        while len(found) < len(jobs):
            uid, event = self.told.get(timeout=SECONDS)
            if not isinstance(event, Piece):
                found[uid] = event
        return [found[str(place)] for place in range(len(jobs))]


@pytest.fixture(scope="module")
def worker(folders) -> Worker:
    return Worker(served_prefixes([f"{n}={f}" for n, f in folders.by_name.items()]), SETTINGS, "cpu", {})


@pytest.fixture
def desk(worker):
    return Desk(worker)


def test_prefixes_of_one_class_share_a_pass(worker, desk, folders):
    assert [set(predictor.names) for predictor in worker.predictors] == [
        {"mood", "topic", "stars"},
        {"writer", "author", "beams", "talker"},
    ]
    names = ["mood", "stars", "topic", "mood"]
    found = desk.answers(*(Job(name, "the good film") for name in names))
    assert [answer.rows for answer in found] == [4, 4, 4, 4]
    for name, answer in zip(names, found, strict=True):
        expected = lp.Predictor.from_pretrained(folders.by_name[name])("the good film")
        assert (
            answer.output == pytest.approx(expected) if name == "stars" else answer.output["label"] == expected["label"]
        )


def test_texts_of_several_prefixes_are_written_in_one_pass_and_end_alone(desk, folders):
    found = desk.answers(
        Job("writer", "the good film"),
        Job("author", "bad plot", max_tokens=4),
        Job("writer", "a film", is_streamed=True),
        Job("beams", "a film"),
    )
    assert [answer.rows for answer in found] == [3, 3, 3, 1]
    assert [answer.new_tokens for answer in found[:3]] == [15, 4, 15]  # 20 in their training
    assert [answer.finish_reason for answer in found[:3]] == ["length"] * 3
    whole = lp.Predictor.from_pretrained(folders.by_name["writer"])("the good film")["generated_text"]
    assert whole.startswith(found[0].output["generated_text"])
    beams = lp.Predictor.from_pretrained(folders.by_name["beams"])("a film")
    assert found[3].output == beams


def test_a_stop_ends_a_text_before_itself(desk):
    (whole,) = desk.answers(Job("writer", "the good film"))
    words = whole.output["generated_text"].split()
    stop = " ".join(words[4:6])
    found, untouched = desk.answers(Job("writer", "the good film", stop=(stop,)), Job("writer", "the good film"))
    text = whole.output["generated_text"]
    assert found.output["generated_text"] == text[: text.index(stop)].strip()
    assert found.finish_reason == "stop"
    assert found.new_tokens < untouched.new_tokens
    assert untouched.output == whole.output


def test_pieces_of_a_stopped_text_hold_nothing_of_the_stop(desk):
    (whole,) = desk.answers(Job("writer", "the good film"))
    text = whole.output["generated_text"]
    stop = " ".join(text.split()[4:6])
    desk.worker.take(Ticket(0, "streamed", time.monotonic(), Job("writer", "the good film", True, stop=(stop,))))
    events = [desk.told.get(timeout=SECONDS)[1]]
    while isinstance(events[-1], Piece):
        events.append(desk.told.get(timeout=SECONDS)[1])
    assert "".join(piece.text for piece in events[:-1]) == events[-1].output["generated_text"]


def test_what_cannot_be_read_fails_alone(desk):
    good, bad, missing, strange = desk.answers(
        Job("mood", "good"), Job("stars", ["a", "b"]), Job("topic", {"x": "y"}), Job("mood", {"text": {"a": 1}})
    )
    assert good.output["label"] in ("negative", "positive")
    assert bad.status == missing.status == 422
    assert "this prefix reads text per input" in bad.message
    assert "it lacks text" in missing.message
    assert isinstance(strange, Failure | Answer)
    wrong, fine = desk.answers(Job("talker", [{"role": "king", "content": "a"}]), Job("talker", "good film"))
    assert wrong.status == 422
    assert "the roles are system, user and assistant" in wrong.message
    assert fine.new_tokens == 12


def test_a_pass_that_fails_fails_its_rows_only(desk, monkeypatch, worker):
    monkeypatch.setattr(worker.predictors[0].model.backbone, "forward", lambda *_, **__: 1 / 0)
    (found,) = desk.answers(Job("mood", "good"))
    assert found == Failure(500, "the pass failed (ZeroDivisionError); see the log.")
    monkeypatch.undo()
    assert desk.answers(Job("mood", "good"))[0].output


def test_who_waited_too_long_and_who_left(desk):
    (late,) = desk.answers(Job("mood", "good"), since=time.monotonic() - 6)
    assert late.status == 504
    desk.worker.take(Ticket(0, "left", time.monotonic(), Job("writer", "good", is_streamed=True)))
    desk.worker.take(Ticket(0, "left", time.monotonic(), None))
    (other,) = desk.answers(Job("writer", "good"))
    assert other.rows == 1
    assert desk.told.empty()


def test_a_text_nobody_waits_for_any_more_is_not_written_on(worker):
    left = [False]

    def on_piece(_: str) -> None:
        left[0] = True

    writers = [RowWriter(on_piece, is_left=lambda: left[0]), RowWriter()]
    worker.predictors[1].write([("writer", "the good film"), ("author", "bad")], writers)
    assert writers[0].finish_reason == "left"
    assert writers[0].tokens < writers[1].tokens == 20


def test_folders_that_are_not_served(folders, tmp_path):
    with pytest.raises(lp.InputError, match="no prefix is given"):
        served_prefixes([])
    with pytest.raises(lp.InputError, match="there is no folder nowhere"):
        served_prefixes(["mood=nowhere"])
    mood = folders.by_name["mood"]
    with pytest.raises(lp.InputError, match=r"are both named 'mood'; name them: --prefix NAME="):
        served_prefixes([mood, f"mood={folders.by_name['stars']}"])
    (tmp_path / "calm").mkdir()
    (tmp_path / "calm" / "prefix").symlink_to(mood)
    (calm,) = served_prefixes([str(tmp_path / "calm" / "prefix")]).values()
    assert (calm.name, calm.task, calm.columns, calm.writes) == ("calm", "TextClassification", ("text",), False)
