"""Rows by key in memory and in files: limits, damage, and several processes."""

import multiprocessing
from pathlib import Path

import pytest

from lightning_prefix import ActivationCacheOptions, InputError

LENGTHS = (5, 1, 300, 80)
ROWS = {bytes([i]) * 16: bytes(range(i, i + n % 200)) * 2 for i, n in enumerate(LENGTHS)}


def store(folder, limit=1e6, fingerprint="f"):
    return ActivationCacheOptions("disk", limit / 1e9, str(folder)).open(fingerprint)


def fill(rows):
    assert all(rows.add(key, memoryview(row)) for key, row in ROWS.items())
    return rows


def get(rows, key, size=None):
    into = bytearray(size or len(ROWS[key]))
    return bytes(into) if rows.read(key, memoryview(into)) else None


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_rows_come_back_as_they_were(where, tmp_path):
    rows = fill(store(tmp_path) if where == "disk" else ActivationCacheOptions().open("f"))
    assert len(rows) == len(ROWS)
    assert {key: get(rows, key) for key in ROWS} == ROWS
    assert get(rows, b"x" * 16, 4) is None


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_the_limit(where, tmp_path):
    options = ActivationCacheOptions(where, 25e-9, str(tmp_path) if where == "disk" else None)
    rows = options.open("f")
    assert rows.add(b"a" * 16, memoryview(bytes(20)))
    assert not rows.add(b"b" * 16, memoryview(bytes(6)))
    assert rows.add(b"c" * 16, memoryview(bytes(5)))
    assert len(rows) == 2
    if where == "disk":  # what others have written counts
        assert not options.open("f").add(b"d" * 16, memoryview(bytes(1)))


def test_later_stores_find_the_rows_of_their_own_fingerprint(tmp_path):
    fill(store(tmp_path))
    again = store(tmp_path)
    assert {key: get(again, key) for key in ROWS} == ROWS
    assert not list(tmp_path.rglob("*.probe"))
    assert len(store(tmp_path, fingerprint="other")) == 0


@pytest.mark.parametrize("change", ["cut", "altered", "gone", "index cut", "index altered"])
def test_damage_is_found_and_the_rest_still_read(change, tmp_path):
    fill(store(tmp_path))
    rows_file, index_file = (next(tmp_path.rglob(f"*.{name}")) for name in ("rows", "index"))
    data, index = rows_file.read_bytes(), index_file.read_bytes()
    first, *_, last = ROWS
    if change == "cut":
        rows_file.write_bytes(data[:-1])
    elif change == "altered":
        rows_file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif change == "gone":
        rows_file.unlink()
    elif change == "index cut":  # as when a process is killed while it writes
        index_file.write_bytes(index[:-1])
    else:  # the last record has the key of the first row
        index_file.write_bytes(index[:-32] + b"y" * 16 + index[-16:])
    again = store(tmp_path)
    if change == "index cut":
        assert get(again, last) is None
    elif change == "index altered":
        with pytest.warns(UserWarning, match="cut short or altered"):
            assert get(again, b"y" * 16, len(ROWS[last])) is None
    else:
        with pytest.warns(UserWarning, match="cut short or altered"):
            assert get(again, last) is None
    if change != "gone":
        assert get(again, first) == ROWS[first]
    assert again.add(last, memoryview(ROWS[last]))  # computed again
    assert get(again, last) == ROWS[last]
    assert get(store(tmp_path), last) == ROWS[last]


def write(folder, mine):
    rows = store(folder)
    for i in range(300):
        rows.add(bytes([mine]) * 8 + i.to_bytes(8, "big"), memoryview(bytes([mine, i % 256]) * 9))


def test_processes_write_at_the_same_time_and_see_each_other(tmp_path):
    ours = fill(store(tmp_path))
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=write, args=(tmp_path, mine)) for mine in (50, 60)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    ours.refresh()
    assert len(ours) == len(ROWS) + 600
    for mine in (50, 60):
        for i in (0, 299):
            key = bytes([mine]) * 8 + i.to_bytes(8, "big")
            assert get(ours, key, 18) == bytes([mine, i % 256]) * 9
    assert len(list(Path(tmp_path).rglob("*.rows"))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_gb": 0.0}, "a number > 0"),
        ({"limit_gb": float("nan")}, "a number > 0"),
        ({"where": "gpu"}, "'memory' or 'disk'"),
        ({"folder": "somewhere"}, "use where='disk'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        ActivationCacheOptions(**options).check()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"give another activation_cache\.folder"):
        store(tmp_path / "file")
