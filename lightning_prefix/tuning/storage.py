"""Where a study is kept: a journal in the directory, or a database."""

import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import optuna

HEARTBEAT, GRACE = 15, 90
"""Seconds between two signs of life of a trial in a database, and after which a silent trial counts as killed."""
_LEFT_BEHIND = 10
"""Seconds after which the journal's own lock, which is held for milliseconds, counts as that of a killed process."""
_CONNECT_TIMEOUT = {"psycopg2": 10, "psycopg": 10, "pymysql": 10, "mysqldb": 10}
"""Seconds by driver; the others have no such option or another name for it."""


def import_optuna() -> Any:
    """Optuna, with its own lines turned off: ours say the same.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            f"tuning needs the package optuna, which cannot be imported ({error}). Run: pip install "
            "'lightning-prefix[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(url: str | None, directory: Path) -> "optuna.storages.BaseStorage":
    """The storage of a study.

    Args:
        url: of a database, such as sqlite:///study.db; the journal `study.log` in the directory when None.
        directory: of the study.

    Raises:
        InputError: if it cannot be reached, without the password.
    """
    optuna = import_optuna()
    if url is None:
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

        file = str((directory / "study.log").resolve())
        # a symbolic link is made in one step on every network file system, unlike other locks
        return optuna.storages.JournalStorage(JournalFileBackend(file, JournalFileSymlinkLock(file, _LEFT_BEHIND)))
    import sqlalchemy

    password = None
    try:
        parsed = sqlalchemy.make_url(url)
        password = parsed.password
        shown = parsed.render_as_string(hide_password=True)
        timeout = _CONNECT_TIMEOUT.get(parsed.get_dialect().driver)
        options = {} if timeout is None else {"connect_args": {"connect_timeout": timeout}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat
            return optuna.storages.RDBStorage(
                url, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
    except (ImportError, ValueError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        shown = re.sub(r"//[^@]*@", "//***@", url) if password is None else shown
        raise InputError(
            f"the storage {shown} cannot be used ({type(error).__name__}: {_without(reason, password)}). Give a URL "
            "such as sqlite:///study.db or postgresql://user:password@host/database whose server runs and whose "
            "driver is installed, or leave --storage out for a file in the directory."
        ) from None


def _without(text: str, password: Any) -> str:
    return text.replace(str(password), "***") if password else text


class Heartbeat(AbstractContextManager[None]):
    """Signs of life of a trial while the block runs, in a database; nothing in a journal.

    Args:
        storage: as `open_storage` returned it.
        study: name of the study.
        number: of the trial.
    """

    def __init__(self, storage: "optuna.storages.BaseStorage", study: str, number: int) -> None:
        self._is_over = Event()
        self._thread: Thread | None = None
        if isinstance(storage, import_optuna().storages.RDBStorage):
            trial = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)

            def beat() -> None:
                while True:
                    storage.record_heartbeat(trial)
                    if self._is_over.wait(HEARTBEAT):
                        return

            self._thread = Thread(target=beat, daemon=True)

    def __enter__(self) -> None:
        if self._thread is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()


def make(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """A sampler or pruner of Optuna.

    Args:
        kind: "samplers" or "pruners".
        name: of the class.
        options: of the class; a `seed` only where the class takes one.

    Raises:
        InputError: if there is no such class, with near names, or it does not take the options.
    """
    import inspect

    from lightning_prefix.tuning.space import did_you_mean

    module = getattr(import_optuna(), kind)
    base = module.BaseSampler if kind == "samplers" else module.BasePruner
    known = {n: c for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, base) and c is not base}
    if name not in known:
        raise InputError(
            f"{kind[:-1]} {name!r} is given; Optuna has {', '.join(sorted(known))}.{did_you_mean(name, sorted(known))}"
        )
    has_seed = "seed" in inspect.signature(known[name]).parameters
    given = {key: value for key, value in options.items() if key != "seed" or has_seed}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", import_optuna().exceptions.ExperimentalWarning)
            return known[name](**given)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(
            f"{name} cannot be made with {given} ({error}). Its options are those of optuna.{kind}.{name}: "
            f"{', '.join(inspect.signature(known[name]).parameters)}."
        ) from error
