"""`TranslationDataModule`: texts in two languages, read in either direction."""

import difflib
import re
from typing import Any, ClassVar

from lightning_prefix.data.generation import TextGenerationDataModule
from lightning_prefix.data.sources import Splits
from lightning_prefix.data.streams.rows import RowStream, first_rows
from lightning_prefix.data.tokenize import load_tokenizer
from lightning_prefix.errors import InputError

__all__ = ["TranslationDataModule", "language_code", "starting_token"]

_CODE = re.compile(r"(__)?[a-z]{2,3}(_[A-Z][A-Za-z]{1,3})?(__)?")
_HUB_COLUMN = "translation"


class TranslationDataModule(TextGenerationDataModule):
    r"""Texts in two languages, to be translated from one into the other.

    Reads parallel files (train.en, train.de), TMX, gettext's po, tables, and data sets of the hub with a column
    "translation" of texts by language. Swap `source_language` and `target_language` for the other direction.

    Args:
        source: as in `TextDataModule`.
        source_language: code of the language to translate from, "en"; also the column, where none is named.
        target_language: code of the language to translate into, likewise.
        source_column: column of the source text; None for the one called as its language.
        target_column: column of the translation, likewise.
        template: a text that replaces the source, in which {source} is the source text and {source_language} and
            {target_language} are the codes: "translate English to German: {source}" for T5. None for the source alone
            before an encoder-decoder, and "{source_language}: {source}\n{target_language}:" before a decoder.
        source_code: code of the source language in the words of a multilingual tokenizer (mBART, M2M-100, NLLB), such
            as "en_XX" or "eng_Latn"; None for the one that `source_language` says by itself.
        target_code: likewise; it also says which token a translation begins with.
        **options: see `TextGenerationDataModule`.
    """

    stored: ClassVar[tuple[str, ...]] = (
        *(name for name in TextGenerationDataModule.stored if name not in ("text_column", "target_column")),
        "source_language",
        "target_language",
        "source_column",
        "source_code",
        "target_code",
    )

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        source_language: str,
        target_language: str,
        source_column: str | None = None,
        target_column: str | None = None,
        template: str | None = None,
        source_code: str | None = None,
        target_code: str | None = None,
        **options: Any,
    ) -> None:
        if source_language == target_language:
            raise InputError(f"source_language and target_language are both {source_language!r}; give two languages.")
        self.source_language, self.target_language = source_language, target_language
        self.source_code, self.target_code = source_code, target_code
        self.source_column = source_column or source_language
        super().__init__(
            source,
            text_column=self.source_column,
            target_column=target_column or target_language,
            template=self._filled(template or "{source}"),
            **options,
        )
        self.template = template

    def summary(self) -> dict[str, Any]:
        """As of any data, with the `languages`."""
        codes = [self.source_language, self.target_language]
        return {**super().summary(), "languages": [code for code in codes if re.fullmatch("[a-z]{2,3}", code)]}

    @property
    def splits(self) -> Splits:
        """The source's splits, with a column for each language."""
        if self._splits is None:
            self._splits = {name: _by_language(rows) for name, rows in super().splits.items()}
        return self._splits

    def source_template(self) -> str | None:
        """The template that was given, or the one for this kind of backbone."""
        if self.template is not None:
            return self._filled(self.template)
        return None if self.is_encoder_decoder else self._filled("{source_language}: {source}\n{target_language}:")

    def _filled(self, template: str) -> str:
        for name, value in (
            ("source", f"{{{self.source_column}}}"),
            ("source_language", self.source_language),
            ("target_language", self.target_language),
        ):
            template = template.replace(f"{{{name}}}", value)
        return template

    def languages(self) -> dict[str, str]:
        """`src_lang` and `tgt_lang` of a multilingual tokenizer; empty for others.

        Raises:
            InputError: if the tokenizer does not know a language.
        """
        tokenizer = load_tokenizer(self.tokenizer_name)
        if not hasattr(tokenizer, "src_lang"):
            if given := self.source_code or self.target_code:
                raise InputError(
                    f"the language code {given!r} is given, but the tokenizer {self.tokenizer_name!r} has none; leave "
                    "source_code and target_code out, and name the languages in the template if the backbone needs it."
                )
            return {}
        known = [token for token in tokenizer.get_vocab() if _CODE.fullmatch(token) and "_" in token]
        return {
            "src_lang": language_code(self.source_language, self.source_code, known, "source_code"),
            "tgt_lang": language_code(self.target_language, self.target_code, known, "target_code"),
        }

    @property
    def generation(self) -> dict[str, Any]:
        """With the token that begins a translation, for a multilingual tokenizer."""
        languages = self.languages()
        begin = starting_token(load_tokenizer(self.tokenizer_name, **languages), languages) if languages else {}
        return {**super().generation, **begin}


def language_code(language: str, given: str | None, known: list[str], option: str) -> str:
    """The code of a language in the words of a tokenizer.

    Args:
        language: "en".
        given: by the user, or None.
        known: the tokenizer's language tokens, "en_XX" or "__en__".
        option: the option that gives the code, for messages.

    Raises:
        InputError: if there is none, or more than one.

    Examples:
        >>> language_code("ro", None, ["en_XX", "ro_RO"], "target_code"), language_code("ro", None, ["__ro__"], "")
        ('ro_RO', 'ro')
    """
    bare = {token.strip("_"): token for token in known}
    found = [given] if given else [code for code in bare if code == language or code.startswith(f"{language}_")]
    if len(found) == 1 and found[0] in bare:
        return found[0]
    near = [code for code in bare if code.startswith(language[:2])] or difflib.get_close_matches(language, bare)
    problem = (
        f"no language {given or language!r}"
        if len(found) < 2
        else f"several for {language!r}: {', '.join(sorted(found))}"
    )
    some = ", ".join(sorted(near or bare)[:8])
    raise InputError(f"the tokenizer has {problem}; of its {len(bare)} there are {some}. Give {option}= one of them.")


def starting_token(tokenizer: Any, languages: dict[str, str]) -> dict[str, int]:
    """What `generate` needs so that it writes the target language: read off from how the tokenizer marks a target.

    mBART-50, M2M-100 and NLLB put the language first, and it is forced; mBART puts it last, and the decoder starts
    with it.
    """
    ids = tokenizer(text_target=["a"])["input_ids"][0]
    code = languages["tgt_lang"]
    tokens = {tokenizer.convert_tokens_to_ids(token) for token in (code, f"__{code}__")}
    if ids[0] in tokens:
        return {"forced_bos_token_id": ids[0]}
    return {"decoder_start_token_id": ids[-1]} if ids[-1] in tokens else {}


def _by_language(rows: Any) -> Any:
    """A hub data set's "translation" as one column a language."""
    if _HUB_COLUMN not in rows.column_names or not isinstance(first_rows(rows)[0][_HUB_COLUMN], dict):
        return rows
    if isinstance(rows, RowStream):
        return rows.changed(_flat)
    rows = rows.flatten()
    names = [name for name in rows.column_names if name.startswith(f"{_HUB_COLUMN}.")]
    return rows.rename_columns({name: name.split(".", 1)[1] for name in names})


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in row.items() if name != _HUB_COLUMN}, **row[_HUB_COLUMN]}
