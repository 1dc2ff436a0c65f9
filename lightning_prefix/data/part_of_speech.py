"""Words with their universal part of speech, for English and Chinese, by libraries that carry their models."""

import functools
import re
import unicodedata
from pathlib import Path
from typing import Any, Literal

__all__ = ["UniversalTag", "has_chinese", "tagged_words"]

UniversalTag = Literal[
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
    "SYM", "VERB", "X",
]  # fmt: skip
"""The tags of Universal Dependencies 2: https://universaldependencies.org/u/pos/."""

# The British National Corpus' C5 tags, whole or by their first letters. They do not tell "have" and "do" as auxiliaries
# from the same words as verbs: all are AUX.
_ENGLISH: dict[str, UniversalTag] = {
    "AJ": "ADJ", "AT": "DET", "AV": "ADV", "CJC": "CCONJ", "CJ": "SCONJ", "CRD": "NUM", "DPS": "PRON", "DT": "DET",
    "EX": "PRON", "IN": "ADP", "ITJ": "INTJ", "NP": "PROPN", "NN": "NOUN", "ORD": "ADJ", "PN": "PRON", "POS": "PART",
    "PR": "ADP", "PU": "PUNCT", "TO": "PART", "VB": "AUX", "VD": "AUX", "VH": "AUX", "VM": "AUX", "VV": "VERB",
    "XX": "PART",
}  # fmt: skip

# jieba's flags (those of ICTCLAS), whole or by their first letters. "zg" is what its dictionary says of words of many
# kinds, most often of adverbs such as 很 and 较.
_CHINESE: dict[str, UniversalTag] = {
    "a": "ADJ", "ad": "ADV", "an": "NOUN", "b": "ADJ", "c": "CCONJ", "d": "ADV", "e": "INTJ", "eng": "X", "f": "ADP",
    "h": "PART",
    "j": "NOUN", "k": "PART", "m": "NUM", "n": "NOUN", "nr": "PROPN", "ns": "PROPN", "nt": "PROPN", "nz": "PROPN",
    "o": "INTJ", "p": "ADP", "q": "NOUN", "r": "PRON", "s": "NOUN", "t": "NOUN", "u": "PART", "v": "VERB", "vd": "ADV",
    "vn": "NOUN", "w": "PUNCT", "y": "PART", "z": "ADJ", "zg": "ADV",
}  # fmt: skip

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

# "don't" is "do" and "n't", "it's" is "it" and "'s", as in the corpus that the tagger was trained on
_ENGLISH_WORD = re.compile(r"\w+(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b|\w+(?:[-.]\w+)*|[^\w\s]", re.IGNORECASE)


def has_chinese(text: str) -> bool:
    """Whether a text has Chinese characters.

    Examples:
        >>> has_chinese("film"), has_chinese("film 电影")
        (False, True)
    """
    return _HAN.search(text) is not None


def tagged_words(text: str) -> list[tuple[str, UniversalTag]]:
    """The words of a text with their tags: of `rjieba` if it has Chinese characters, of `HanTa` otherwise.

    Args:
        text: one text, in English, or in Chinese with or without blanks between the words.
    """
    if has_chinese(text):
        import rjieba

        return [(word, _tag(word, flag, _CHINESE)) for word, flag in rjieba.tag(text) if not word.isspace()]
    words = _ENGLISH_WORD.findall(text.replace("\u2019", "'"))
    tags = _english_tagger().tag_sent(words, taglevel=0)
    return [(word, _tag(word, tag, _ENGLISH)) for word, tag in zip(words, tags, strict=True)]


def _tag(word: str, tag: str, table: dict[str, UniversalTag]) -> UniversalTag:
    if not any(map(str.isalnum, word)):
        return "SYM" if any(unicodedata.category(character).startswith("S") for character in word) else "PUNCT"
    known = (table[tag[:end]] for end in range(len(tag), 0, -1) if tag[:end] in table)
    return next(known, "X")


@functools.lru_cache(maxsize=1)
def _english_tagger() -> Any:
    import HanTa
    from HanTa.HanoverTagger import HanoverTagger

    # by its whole path: a bare name is looked for in the working folder first, and unpickled
    return HanoverTagger(str(Path(HanTa.__file__).parent / "morphmodel_en.pgz"))
