"""Storages that cannot be used are one paragraph, at once and without the password."""

import time

import pytest

import lightning_prefix as lp
from lightning_prefix.tuning import storage


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/study.db",
        "postgresql://user:secret@127.0.0.1:1/study",
        "mysql+pymysql://user:secret@127.0.0.1:1/study",
        "nonsense://user:secret@host/study",
        "no url",
        "redis://user:secret@host:notaport/study",
    ],
)
def test_unreachable(url, tmp_path):
    start = time.monotonic()
    with pytest.raises(lp.InputError, match="cannot be used") as failure:
        storage.open_storage(url, tmp_path)
    assert time.monotonic() - start < 15
    text = str(failure.value)
    assert "secret" not in text
    assert url.partition(":")[0] in text
    assert "\n" not in text


def test_options_and_seed():
    assert storage.make("samplers", "TPESampler", {"seed": 1, "n_startup_trials": 3})._n_startup_trials == 3
    assert storage.make("pruners", "NopPruner", {}).prune(None, None) is False
    with pytest.raises(lp.InputError, match=r"Its options are those of optuna.pruners.MedianPruner: n_startup_trials"):
        storage.make("pruners", "MedianPruner", {"n_startup": 3})


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(lp.InputError, match=r"pip install 'lightning-prefix\[tune\]'"):
        storage.import_optuna()
