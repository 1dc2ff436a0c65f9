"""From what the user names to splits: hub data sets, files, folders, assets, and data in memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_prefix.assets import asset_path, is_asset
from lightning_prefix.data.files import EXTENSIONS, is_path_like, missing_file, read_file, read_parallel
from lightning_prefix.data.formats.parallel import language_of
from lightning_prefix.data.readers import extension
from lightning_prefix.data.streams.rows import RowStream, select_stream
from lightning_prefix.errors import InputError, hub_advice

if TYPE_CHECKING:
    import datasets

__all__ = [
    "Splits",
    "from_hub",
    "has_split",
    "is_hub_id",
    "load_predict_rows",
    "load_splits",
    "row_counts",
    "select_split",
    "source_facts",
    "source_name",
    "split_files",
]

Splits = dict[str, Any]
"""Name of the split to its `datasets.Dataset`, or to its `RowStream`."""

_SPLIT_OF_STEM = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def load_splits(source: Any, *, subset: str | None = None, revision: str | None = None) -> Splits:
    """Load every split of a source.

    Args:
        source: hub id, file, folder, "asset:NAME", split -> file, split -> language -> text file, or data in memory
            (a `Dataset`, a `DatasetDict`, a list of dicts, or a split -> any of these). One set of rows is the split
            "train". The lines of a txt file are the column "text".
        subset: configuration of a hub data set.
        revision: branch, tag or commit of a hub data set.

    Raises:
        InputError: if there is no such data, it cannot be read, or a split is empty.
    """
    if isinstance(source, str | Path):
        splits = _load_named(str(source), subset, revision)
    elif isinstance(source, dict):  # a DatasetDict too
        splits = {str(name): _load_rows(rows, f"split {name!r}") for name, rows in source.items()}
    else:
        splits = {"train": _load_rows(source, "the source")}
    if not splits:
        raise InputError("the source is an empty dict. Give at least one split, such as {'train': 'train.csv'}.")
    for name, rows in splits.items():
        if len(rows) == 0:
            raise InputError(f"split {name!r} of the source is empty. Give it at least one row, or leave it out.")
    return splits


def is_hub_id(source: Any) -> bool:
    """Whether a source is looked for on the Hugging Face hub."""
    if not isinstance(source, str) or is_asset(source) or Path(source).expanduser().exists():
        return False
    return not is_path_like(source) and source.count("/") < 2


def source_name(source: Any) -> str:
    """What a source is called in public: files without the folders above them."""
    if isinstance(source, dict):
        return ", ".join(f"{split}: {source_name(part)}" for split, part in source.items())
    if not isinstance(source, str | Path):
        return "rows given in Python"
    if is_asset(str(source)) or is_hub_id(source):
        return f"`{source}`"
    return f"`{Path(source).name}`"


def source_facts(source: Any, subset: str | None, revision: str | None) -> dict[str, Any]:
    """Plain data for a model card: `source` in words, and `hub_id`, None for what is not on the hub."""
    details = [f"{name} `{value}`" for name, value in (("subset", subset), ("revision", revision)) if value]
    return {
        "source": ", ".join([source_name(source), *details]),
        "hub_id": source if is_hub_id(source) else None,
    }


def row_counts(encoded: Splits) -> dict[str, int]:
    """How many raw rows each split to train on or to evaluate had when it was read; streams do not know."""
    known = {role: rows for role, rows in encoded.items() if role != "predict" and hasattr(rows, "unique")}
    return {role: len(rows.unique("row")) for role, rows in known.items()}


def load_predict_rows(predict: str | list[str], text_column: str) -> "datasets.Dataset":
    """Load what `predict` names: a file, or the texts themselves (as the column `text_column`).

    Raises:
        InputError: if the file is missing or cannot be read, or there are no texts.
    """
    if isinstance(predict, str):
        path = Path(predict).expanduser() if len(predict) < 1000 else Path()
        if path.exists() and path != Path():
            rows = read_file(path, text_column=text_column)
        elif is_path_like(predict) and "\n" not in predict:
            raise missing_file(path)
        else:
            rows = _from_list([{text_column: predict}], "predict")
    else:
        rows = _from_list([{text_column: text} for text in predict], "predict")
    if len(rows) == 0:
        raise InputError("predict names no text. Give at least one text, or a file with at least one row.")
    return rows


def has_split(splits: Splits, name: str) -> bool:
    """Whether a split is there; `name` may be a slice ("train[:1000]") or a sum ("train+test")."""
    return all(part.split("[")[0].strip() in splits for part in name.split("+"))


def select_split(splits: Splits, name: str) -> Any:
    """The split of this name; slices and sums as on the hub work for every source.

    Raises:
        InputError: if it is not there, or the slice is malformed or empty.
    """
    import datasets

    if name in splits:
        return splits[name]
    if not has_split(splits, name):
        raise InputError(
            f"the source has no split {name!r}; it has {', '.join(map(repr, splits))}. Name one of these, or "
            "add the split to the source."
        )
    if any(isinstance(rows, RowStream) for rows in splits.values()):
        return select_stream(splits, name)
    try:
        lengths = {split: len(rows) for split, rows in splits.items()}
        slices = datasets.ReadInstruction.from_spec(name).to_absolute(lengths)
    except (AssertionError, ValueError) as error:
        raise InputError(
            f"the split {name!r} is malformed: {error}. Write a slice as 'train[:1000]', 'train[10%:20%]', "
            "or a sum as 'train+test'."
        ) from None
    slices = [part for part in slices if part.from_ < part.to]
    if not slices:
        raise InputError(f"the split {name!r} is empty; the splits have {lengths} rows. Take a larger slice.")
    parts = [splits[part.splitname].select(range(part.from_, part.to)) for part in slices]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _load_named(name: str, subset: str | None, revision: str | None) -> Splits:
    if is_asset(name):
        return _load_folder(asset_path(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return _load_folder(path)
    if path.exists():
        return {"train": read_file(path, text_column="text")}
    if not is_hub_id(name):
        raise missing_file(path)
    return from_hub(name, subset, revision)


def _load_folder(folder: Path) -> Splits:
    return {
        split: read_parallel(files) if isinstance(files, dict) else read_file(files)
        for split, files in split_files(folder).items()
    }


def split_files(folder: Path) -> dict[str, Path | dict[str, Path]]:
    """The file of each split in a folder, or its parallel files by language.

    Raises:
        InputError: if there is none for any split, or two for one.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = _SPLIT_OF_STEM.get(path.stem.lower())
        if split is None or extension(path) not in EXTENSIONS:
            continue
        if split in files:
            raise InputError(
                f"{folder} holds two files for the split {split!r}: {files[split].name} and {path.name}; one "
                f"is allowed. Remove one, or name the files: source={{'train': FILE, 'validation': FILE}}."
            )
        files[split] = path
    if not files and (parallel := _parallel_files(folder)):
        return {split: parallel[split] for split in ("train", "validation", "test") if split in parallel}
    if not files:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise InputError(
            f"{folder} holds no file for any split; it holds {there}. Name the files train, validation and "
            f"test, with an extension of {', '.join(EXTENSIONS)} or, for parallel text, of at least two languages "
            "(train.en, train.de), or give them: source={'train': FILE, 'validation': FILE}."
        )
    return {split: files[split] for split in ("train", "validation", "test") if split in files}


def _parallel_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Split -> language -> file; empty unless a split has two languages, since `train.md` may be anything."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        split, language = _SPLIT_OF_STEM.get(path.stem.lower()), language_of(path)
        if split is None or language is None:
            continue
        files = found.setdefault(split, {})
        if language in files:
            raise InputError(
                f"{folder} holds two files for the split {split!r} in {language!r}: {files[language].name} and "
                f"{path.name}; one is allowed. Remove one, or name the files: source={{'train': {{'en': FILE}}}}."
            )
        files[language] = path
    return found if any(len(files) > 1 for files in found.values()) else {}


def _load_rows(rows: Any, what: str) -> "datasets.Dataset":
    import datasets

    if isinstance(rows, str | Path):
        path = Path(rows).expanduser()
        if not path.exists():
            raise missing_file(path)
        return read_file(path, text_column="text")
    if isinstance(rows, datasets.Dataset):
        return rows
    if isinstance(rows, dict) and rows and all(isinstance(path, str | Path) for path in rows.values()):
        return read_parallel({str(language): Path(path).expanduser() for language, path in rows.items()})
    if isinstance(rows, list | tuple) and all(isinstance(row, dict) for row in rows):
        return _from_list(list(rows), what)
    raise InputError(
        f"{what} is of type {type(rows).__name__}; it can be a file name, language -> text file such as {{'en': "
        f"'train.en', 'de': 'train.de'}}, a datasets.Dataset, or a list of dicts such as [{{'text': 'fine', 'label': "
        "'good'}}]. Convert it to one of these."
    )


def _from_list(rows: list[dict[str, Any]], what: str) -> "datasets.Dataset":
    import datasets
    import pyarrow as pa

    columns = dict.fromkeys(column for row in rows for column in row)
    try:
        return datasets.Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (pa.ArrowException, TypeError) as error:
        raise InputError(
            f"the rows of {what} do not form a table: {error}. Every column holds one type of value. Convert "
            "the values, for instance labels to str."
        ) from error


def from_hub(name: str, subset: str | None, revision: str | None, *, streaming: bool = False) -> Splits:
    """The splits of a hub data set; with `streaming` as `datasets.IterableDataset`.

    Raises:
        InputError: if there is none, or it cannot be reached.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(name, subset, revision=revision, **({"streaming": True} if streaming else {}))
    except Exception as error:  # the hub's client has no common base for "offline", "gated", "not found"
        raise InputError(
            f"the data set {name!r}{f' ({subset})' if subset else ''} could not be loaded from the Hugging "
            f"Face hub: {str(error).splitlines()[0].rstrip('.') if str(error) else type(error).__name__}. "
            f"{hub_advice(error)}Check the id, `subset` and the connection, or give local data: a file "
            f"({', '.join(EXTENSIONS)}), a folder with train, validation and test files, or an asset such as "
            "asset:movie-reviews."
        ) from error
    return dict(loaded)
