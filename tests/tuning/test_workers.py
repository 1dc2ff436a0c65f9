"""Every trial is run once, whatever processes come, die and come again."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.tuning.storage import open_storage
from lightning_prefix.tuning.workers import Workers, directory_lock

STATE = optuna.trial.TrialState
TOTAL = 12


def workers(directory: Path, url: str | None, total: int = TOTAL) -> Workers:
    directory.mkdir(exist_ok=True)
    with directory_lock(directory):
        storage = open_storage(url, directory)
        study = optuna.create_study(storage=storage, study_name="tuning", load_if_exists=True)
    return Workers(study, storage, directory, total)


def work(directory: Path, url: str | None) -> None:
    mine = workers(directory, url)
    while True:
        with mine.next_trial() as trial:
            if trial is None:
                return
            value = trial.suggest_float("x", 0, 1)
            time.sleep(0.01)
            mine.tell(trial, value)


@pytest.mark.parametrize(
    ("url", "is_shared"),
    [(None, True), ("sqlite:///study.db", True), ("sqlite:///study.db", False)],
    ids=["journal", "sqlite", "sqlite-without-common-directory"],
)
def test_two_processes_run_exactly_as_many_as_wanted(url, is_shared):
    context = multiprocessing.get_context("fork")
    directories = [Path("a"), Path("a" if is_shared else "b")]
    workers(directories[0], url)
    both = [context.Process(target=work, args=(directory, url)) for directory in directories]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    after = workers(directories[0], url)
    complete = [t for t in after.study.trials if t.state == STATE.COMPLETE]
    assert len(complete) == len(after.trials()) == TOTAL
    folders = [path.name for directory in set(directories) for path in directory.glob("trial_*")]
    assert sorted(folders) == sorted(f"trial_{t.number}" for t in complete)
    if is_shared:
        assert [t.number for t in after.study.trials] == list(range(TOTAL))


@pytest.mark.parametrize("url", [None, "sqlite:///study.db"], ids=["journal", "sqlite"])
def test_a_killed_trial_is_run_once_more_and_only_once(url):
    def die() -> None:
        mine = workers(Path("a"), url)
        with mine.next_trial() as trial:
            trial.suggest_float("x", 0, 1)
            os.kill(os.getpid(), signal.SIGKILL)

    context = multiprocessing.get_context("fork")
    workers(Path("a"), url)
    for _ in range(2):
        process = context.Process(target=die)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    work(Path("a"), url)
    trials = workers(Path("a"), url).study.trials
    first, again = trials[0], trials[1]
    assert first.state == again.state == STATE.FAIL
    assert first.params == again.params
    assert again.user_attrs == {"retry_of": 0}
    assert [t.user_attrs for t in trials[2:]] == [{}] * (len(trials) - 2)
    assert sum(t.state == STATE.COMPLETE for t in trials) == TOTAL - 1  # the one that was killed twice counts as failed


def test_a_living_trial_is_left_alone():
    context = multiprocessing.get_context("fork")
    workers(Path("a"), None)
    begun, go_on = context.Event(), context.Event()

    def hold() -> None:
        mine = workers(Path("a"), None)
        with mine.next_trial() as trial:
            begun.set()
            go_on.wait(60)
            mine.tell(trial, 0.0)

    process = context.Process(target=hold)
    process.start()
    assert begun.wait(60)
    work(Path("a"), None)
    trials = workers(Path("a"), None).study.trials
    assert [t.state for t in trials] == [STATE.RUNNING] + [STATE.COMPLETE] * (TOTAL - 1)
    go_on.set()
    process.join(60)
    assert workers(Path("a"), None).study.trials[0].state == STATE.COMPLETE


def test_folders_of_another_study_are_not_trained_on():
    Path("a/trial_0").mkdir(parents=True)
    mine = workers(Path("a"), None)
    with pytest.raises(lp.InputError, match=r"a/trial_0 exists, of another study"), mine.next_trial():
        pass
    assert mine.study.trials[0].state == STATE.FAIL


def test_a_killed_command_is_resumed(config, space):
    """The whole command: killed within its third trial, finished by another process."""
    args = ["tune", "--config", config, "--space", space, "--trials", "4"]
    command = [sys.executable, "-m", "lightning_prefix", *args]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not Path("tuning/trial_2/hparams.yaml").exists():  # its training has begun
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    main([*args, "--resume", "true"])
    trials = optuna.load_study(study_name="tuning", storage=open_storage(None, Path("tuning"))).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[3].user_attrs["retry_of"] == 2
    assert trials[2].params.items() <= trials[3].params.items()
    table = Path("tuning/trials.csv").read_text().splitlines()
    assert len(table) == 6
    assert table[3].startswith("2,FAIL,")
    assert table[3].endswith("its process was killed")
