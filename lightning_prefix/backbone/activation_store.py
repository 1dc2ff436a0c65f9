"""Where activations of rows are kept: in memory, or in files that several processes and runs may share."""

import struct
import uuid
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from lightning_prefix.assets.fetch import cache_folder
from lightning_prefix.errors import InputError

_RECORD = struct.Struct("<16sQII")
"""Of the index: key, offset in the rows, bytes, CRC-32 of key and bytes."""


@dataclass(frozen=True)
class ActivationCacheOptions:
    """The output of the layers below the first prefix, computed once per row and used in all later epochs and folds.

    Args:
        where: `memory`, of each process; or `disk`, which all processes (devices) share and later runs use again.
        limit_gb: the most that is kept, in 1e9 bytes, > 0; with `disk` of each backbone and layer. Tokens times hidden
            size times bytes of a number: 1 GB holds 650,000 tokens of a float32 backbone of hidden size 384. Rows that
            no longer fit are computed in every epoch.
        folder: for `disk`; `activations` in the cache of assets when null. It may be deleted when nothing runs.
    """

    where: Literal["memory", "disk"] = "memory"
    limit_gb: float = 4.0
    folder: str | None = None

    def check(self) -> None:
        """Refuse options that cannot be fulfilled.

        Raises:
            InputError: if a number is out of its range, or two options contradict each other.
        """
        if not 0 < self.limit_gb < float("inf"):
            raise InputError(f"activation_cache.limit_gb {self.limit_gb} is given; it is a number > 0, such as 4.0.")
        if self.where not in ("memory", "disk"):
            raise InputError(f"activation_cache.where {self.where!r} is given; it is 'memory' or 'disk'.")
        if self.where == "memory" and self.folder is not None:
            raise InputError(f"activation_cache.folder {self.folder!r} is given with where='memory'; use where='disk'.")

    def open(self, fingerprint: str) -> "ActivationStore":
        """A store for what the layers of this fingerprint give.

        Raises:
            InputError: if its folder cannot be written.
        """
        limit = int(self.limit_gb * 1e9)
        if self.where == "memory":
            return MemoryStore(limit)
        return DiskStore(Path(self.folder or cache_folder() / "activations").expanduser() / fingerprint, limit)


class ActivationStore(Protocol):
    """Bytes by key, up to a limit."""

    def __len__(self) -> int:
        """Rows that are kept."""

    def refresh(self) -> None:
        """See what other processes have added."""

    def read(self, key: bytes, into: memoryview) -> bool:
        """Fill `into` with what is kept under this key; False where there is nothing of that size."""

    def add(self, key: bytes, data: memoryview) -> bool:
        """Keep a copy; False where the limit forbids it."""


class MemoryStore:
    """Rows in this process.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._used = limit, 0
        self._rows: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Nobody else adds."""

    def read(self, key: bytes, into: memoryview) -> bool:
        """As `ActivationStore` says."""
        row = self._rows.get(key)
        if row is None:
            return False
        into[:] = row
        return True

    def add(self, key: bytes, data: memoryview) -> bool:
        """As `ActivationStore` says."""
        if self._used + len(data) > self.limit:
            return False
        self._used += len(data)
        self._rows[key] = bytes(data)
        return True


class DiskStore:
    """Rows in a folder. Each process writes a pair of files of its own, and reads those of all.

    `*.rows` holds bytes, `*.index` says where they are. Rows are read, not mapped: a file that was cut short then ends
    in a row that is computed again, not in a crash. A checksum finds what was altered.

    Args:
        folder: made when missing.
        limit: bytes of rows in the folder.

    Raises:
        InputError: if it cannot be written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit, self._used = folder, limit, 0
        self._places: dict[bytes, list[tuple[Path, int, int, int]]] = {}
        self._seen: dict[Path, int] = {}
        self._readers: dict[Path, BinaryIO] = {}
        self._writers: tuple[BinaryIO, BinaryIO] | None = None
        self._own = folder / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (probe := self._own.with_suffix(".probe")).touch()
            probe.unlink()
        except OSError as error:
            raise self._unwritable(error) from error
        self.refresh()

    def __len__(self) -> int:
        return sum(map(bool, self._places.values()))

    def refresh(self) -> None:
        """Read what was added to the indices of other processes."""
        for index in self.folder.glob("*.index"):
            if index.stem == self._own.name or index.stat().st_size - self._seen.get(index, 0) < _RECORD.size:
                continue
            with index.open("rb") as file:
                file.seek(self._seen.get(index, 0))
                data = file.read()
            whole = len(data) // _RECORD.size * _RECORD.size  # the end may be in the writing
            self._seen[index] = self._seen.get(index, 0) + whole
            for key, offset, size, checksum in _RECORD.iter_unpack(data[:whole]):
                self._used += size
                self._places.setdefault(key, []).append((index.with_suffix(".rows"), offset, size, checksum))

    def read(self, key: bytes, into: memoryview) -> bool:
        """As `ActivationStore` says."""
        while places := self._places.get(key):
            path, offset, size, checksum = places[-1]
            if size == len(into) and self._fill(path, offset, into) and _checksum(key, into) == checksum:
                return True
            warnings.warn(f"{path} was cut short or altered; what is wrong of it is computed again.", stacklevel=2)
            places.pop()
        return False

    def _fill(self, path: Path, offset: int, into: memoryview) -> bool:
        try:
            if path not in self._readers:
                self._readers[path] = path.open("rb", buffering=0)
            self._readers[path].seek(offset)
            return self._readers[path].readinto(into) == len(into)  # type: ignore[attr-defined, no-any-return]
        except OSError:
            return False

    def add(self, key: bytes, data: memoryview) -> bool:
        """As `ActivationStore` says.

        Raises:
            InputError: if the disk is full.
        """
        if self._used + len(data) > self.limit:
            return False
        try:
            if self._writers is None:
                self._writers = self._own.with_suffix(".rows").open("ab"), self._own.with_suffix(".index").open("ab")
            rows, index = self._writers
            place = rows.tell(), len(data), _checksum(key, data)
            for file, content in ((rows, data), (index, _RECORD.pack(key, *place))):
                file.write(content)
                file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._used += len(data)
        self._places.setdefault(key, []).append((self._own.with_suffix(".rows"), *place))
        return True

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"activations cannot be written to {self.folder} ({error}); give another activation_cache.folder or a "
            "lower limit_gb, or use where='memory'."
        )


def _checksum(key: bytes, data: memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(key))
