"""`Preprocessing`: what is done to every text before the template and the tokenizer; nothing unless asked for."""

import functools
import importlib
import importlib.metadata
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_prefix.data.part_of_speech import UniversalTag, has_chinese, tagged_words
from lightning_prefix.errors import InputError

__all__ = ["Preprocessing", "library_versions", "preprocess_text"]

# white space, control characters, and the two that are wide of nothing: zero-width space and byte order mark
_WHITESPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\ufeff]+")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps that every text goes through, in the order of these options, in training and in prediction alike.

    Pretrained transformers were trained on raw text, and their tokenizers do what their model needs: each step here
    moves the input away from that. Compare with a run without it. The last three need
    `pip install 'lightning-prefix[preprocess]'`; nothing is downloaded when they run.

    Args:
        unicode: `NFC` (composed characters; harmless) or `NFKC` (also full-width letters, ligatures and superscripts
            as plain ones); null for the text as it is.
        whitespace: make one blank of every run of white space, control characters and zero-width spaces, and strip.
            Lines and paragraphs are lost.
        lower_case: harmless for uncased models, whose tokenizer does it anyway; harmful for cased ones, which
            know "Apple" and "apple" as two words.
        segment_chinese: words and punctuation of texts with Chinese characters separated by blanks, by `rjieba`
            (jieba's dictionary). BERT's Chinese tokenizers read single characters and ignore the blanks;
            subword ones (XLM-R, Qwen) were trained without them and get worse pieces. It serves the steps below.
        remove_stop_words: languages whose stop words are left out, such as [en] or [zh, en], by the lists of
            `stopwordsiso`, with the punctuation attached to them. Usually it hurts: "not", "no" and "never" are
            on the English list, and so are "good", "great" and "best"; "不" is on the Chinese one. zh needs
            `segment_chinese`.
        part_of_speech: `append` for each word with its universal tag, "film_NOUN", which no pretrained tokenizer has
            as one token; {keep: [NOUN, ADJ]} for the words with these tags only. Texts with Chinese characters are
            read as Chinese (`rjieba`, the dictionary's tag, whatever the context), all others as English (`HanTa`,
            about 0.5 ms a sentence). The taggers see what the steps above left: capitals and stop words help them.
    """

    unicode: Literal["NFC", "NFKC"] | None = None
    whitespace: bool = False
    lower_case: bool = False
    segment_chinese: bool = False
    remove_stop_words: list[str] | None = None
    part_of_speech: Literal["append"] | dict[Literal["keep"], list[UniversalTag]] | None = None

    def __post_init__(self) -> None:
        if self.unicode not in (None, "NFC", "NFKC"):
            raise InputError(f"preprocess.unicode={self.unicode!r} was given; give 'NFC', 'NFKC' or None.")
        if isinstance(self.remove_stop_words, str):
            raise InputError(
                f"preprocess.remove_stop_words={self.remove_stop_words!r} was given; give a list of language codes, "
                f"such as ['en']."
            )
        if "zh" in (self.remove_stop_words or ()) and not self.segment_chinese:
            raise InputError(
                "preprocess.remove_stop_words has 'zh', but Chinese text has no words before it is segmented. Set "
                "preprocess.segment_chinese to true."
            )
        self._check_part_of_speech()

    def _check_part_of_speech(self) -> None:
        given, allowed = self.part_of_speech, get_args(UniversalTag)
        if given in (None, "append"):
            return
        tags = given.get("keep") if isinstance(given, dict) and len(given) == 1 else None
        if not isinstance(tags, list | tuple) or not tags or not set(tags) <= set(allowed):
            raise InputError(
                f"preprocess.part_of_speech={given!r} was given; give 'append', or keep with a list of tags out of "
                f"{', '.join(allowed)}, such as {{'keep': ['NOUN', 'ADJ']}}."
            )


def library_versions(options: Preprocessing) -> dict[str, str]:
    """Versions of the libraries that the steps need: part of the cache's key, since their lists and models change.

    Raises:
        InputError: if one is not installed, or has no stop words of a language.
    """
    needed = {
        "rjieba": options.segment_chinese or options.part_of_speech,
        "stopwordsiso": options.remove_stop_words,
        "HanTa": options.part_of_speech,
    }
    versions = {}
    for name in (name for name, is_needed in needed.items() if is_needed):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"the data's `preprocess` needs the package {name}, which cannot be imported ({error}). Run: pip "
                "install 'lightning-prefix[preprocess]'"
            ) from error
        versions[name] = importlib.metadata.version(name)
    _stop_words(*(options.remove_stop_words or ()))
    return versions


def preprocess_text(text: str, options: Preprocessing) -> str:
    r"""A text after the steps that are on; it may be empty.

    Examples:
        >>> preprocess_text(" A  warm\n film.", Preprocessing(whitespace=True, lower_case=True))
        'a warm film.'
    """
    if options.unicode:
        text = unicodedata.normalize(options.unicode, text)
    if options.whitespace:
        text = _WHITESPACE.sub(" ", text).strip()
    if options.lower_case:
        text = text.lower()
    if options.segment_chinese and has_chinese(text):
        text = _segmented(text)
    if options.remove_stop_words:
        stop_words = _stop_words(*options.remove_stop_words)
        text = " ".join(word for word in text.split() if not _is_stop_word(word, stop_words))
    if options.part_of_speech == "append":
        text = " ".join(f"{word}_{tag}" for word, tag in tagged_words(text))
    elif options.part_of_speech:
        kept = options.part_of_speech["keep"]
        text = " ".join(word for word, tag in tagged_words(text) if tag in kept)
    return text


def _segmented(text: str) -> str:
    import rjieba

    return " ".join(word for word in rjieba.cut(text) if not word.isspace())


@functools.lru_cache(maxsize=8)
def _stop_words(*languages: str) -> frozenset[str]:
    if not languages:
        return frozenset()
    import stopwordsiso

    if unknown := sorted(set(languages) - stopwordsiso.langs()):
        raise InputError(
            f"preprocess.remove_stop_words has {', '.join(map(repr, unknown))}; there are stop words of "
            f"{', '.join(sorted(stopwordsiso.langs()))}."
        )
    return frozenset(stopwordsiso.stopwords(languages))


def _is_stop_word(word: str, stop_words: frozenset[str]) -> bool:
    word = word.lower().replace("\u2019", "'")
    return word in stop_words or _without_punctuation(word) in stop_words


def _without_punctuation(word: str) -> str:
    letters = [position for position, character in enumerate(word) if character.isalnum()]
    return word[letters[0] : letters[-1] + 1] if letters else ""
