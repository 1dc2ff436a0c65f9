"""`Workers`: which process runs which trial, so that none is lost and none is run twice."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lightning_prefix.errors import InputError
from lightning_prefix.tuning.storage import Heartbeat, import_optuna

if TYPE_CHECKING:
    import optuna


def directory_lock(directory: Path) -> FileLock:
    """Held by the worker that claims a trial or writes results."""
    return FileLock(directory / ".lock")


class Workers:
    """Hands out the trials of a study to this process, one of any number that work on it.

    A trial is claimed under one lock file of the directory: killed trials are queued again, what runs or is finished is
    counted, and only then a trial is asked for; so `total` is exact. While it runs, its process holds the lock file
    `.locks/trial_N`, which the operating system frees when the process dies, however it dies: a RUNNING trial whose
    lock is free was killed. It becomes FAIL, and its parameters are queued once more under a new number; a trial that
    is killed twice stays failed. Where the workers of a database share no directory, a trial counts as killed when it
    has given no sign of life for 90 seconds (Optuna's heartbeat), and the trial's number decides who was too late.
    In the study a killed trial is FAIL without the attribute `error`; its second run has `retry_of`.

    Args:
        study: of Optuna.
        storage: of the study.
        directory: of the study; shared by the workers, if they can.
        total: finished trials of the study, over all workers, >= 1.
    """

    def __init__(
        self, study: "optuna.Study", storage: "optuna.storages.BaseStorage", directory: Path, total: int
    ) -> None:
        optuna = import_optuna()
        self.study, self.storage, self.directory, self.total = study, storage, directory, total
        self.lock = directory_lock(directory)
        (directory / ".locks").mkdir(exist_ok=True)
        self.is_exhausted = False
        self._state = optuna.trial.TrialState
        self._is_journal = isinstance(storage, optuna.storages.JournalStorage)

    @contextmanager
    def next_trial(self) -> "Iterator[optuna.Trial | None]":
        """A trial that is this process' own in the block; None if there is nothing left to begin.

        Raises:
            InputError: if the directory holds a trial of this number, of another study.
        """
        with self.lock:
            trial = self._claim()
            held = None if trial is None else self._hold(trial)
        if trial is None or held is None:
            yield None
            return
        try:
            with Heartbeat(self.storage, self.study.study_name, trial.number):
                yield trial
        finally:
            held.release()

    def tell(self, trial: "optuna.Trial | int", value: float | None = None, state: Any = None) -> None:
        """End a trial; nothing is begun any more where the sampler says that it has no more points."""
        number = trial if isinstance(trial, int) else trial.number
        try:
            self.study.tell(trial, value, state=state)
        except RuntimeError:  # `study.stop` of GridSampler and BruteForceSampler, which is for `study.optimize` only
            if not self.study.get_trials(deepcopy=False)[number].state.is_finished():
                raise
            self.is_exhausted = True

    def trials(self) -> "list[optuna.trial.FrozenTrial]":
        """All but those that were asked for one too many."""
        return [t for t in self.study.get_trials(deepcopy=False) if "surplus" not in t.user_attrs]

    def _claim(self) -> "optuna.Trial | None":
        self._queue_killed()
        if self.is_exhausted or sum(map(self._counts, self.trials())) >= self.total:
            return None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Heartbeat of storage")  # we give it
            trial = self.study.ask()
        before = [other for other in self.trials() if other.number < trial.number]
        if sum(map(self._counts, before)) >= self.total:  # a worker with another directory was faster
            trial.set_user_attr("surplus", True)
            self.tell(trial, state=self._state.FAIL)
            return None
        return trial

    def _hold(self, trial: "optuna.Trial") -> Any:
        folder = self.directory / f"trial_{trial.number}"
        try:
            folder.mkdir()
        except FileExistsError:
            error = f"{folder} exists, of another study; give another --directory, or remove it."
            trial.set_user_attr("error", error)
            self.tell(trial, state=self._state.FAIL)
            raise InputError(error) from None
        lock = FileLock(self._lock_file(trial.number))
        lock.acquire()
        return lock

    def _lock_file(self, number: int) -> Path:
        return self.directory / ".locks" / f"trial_{number}"

    def _counts(self, trial: "optuna.trial.FrozenTrial") -> bool:
        return trial.state != self._state.WAITING and trial.number not in self._retried()

    def _retried(self) -> set[int]:
        return {t.user_attrs["retry_of"] for t in self.study.get_trials(deepcopy=False) if "retry_of" in t.user_attrs}

    def _queue_killed(self) -> None:
        optuna = import_optuna()
        running = self.study.get_trials(deepcopy=False, states=(self._state.RUNNING,))
        killed = {trial.number for trial in running if self._was_killed(trial.number)}
        for trial in self.study.get_trials(deepcopy=False, states=(self._state.RUNNING,)):
            if trial.number in killed:  # and not finished before its lock was free
                self.tell(trial.number, state=self._state.FAIL)
        if not self._is_journal:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(self._state.FAIL,)):
            is_known = {"error", "surplus", "retry_of"} & set(trial.user_attrs)
            if not is_known and trial.number not in self._retried():
                self.study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})

    def _was_killed(self, number: int) -> bool:
        lock = self._lock_file(number)
        if not lock.exists():  # of a journal: killed before it had one; of a database: perhaps in another directory
            return self._is_journal
        try:
            with FileLock(lock, timeout=0):
                return True
        except Timeout:
            return False
