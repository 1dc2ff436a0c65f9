"""Both directions of every kind of source, and the languages of multilingual tokenizers."""

import pytest
import torch
from lightning.pytorch import Trainer
from tiny_files import write_language_model

import lightning_prefix as lp
from lightning_prefix.data.tokenize import load_tokenizer

ROWS = [{"en": "good film", "de": "bad plot"}, {"en": "the film", "de": "a review plot"}]
CODES = {"source_code": "eng_Latn", "target_code": "deu_Latn"}


@pytest.fixture
def module(tokenizer_without_padding):
    """A data module for a decoder, from German into English."""
    languages = {"source_language": "de", "target_language": "en"}
    options = {"tokenizer": tokenizer_without_padding, "is_encoder_decoder": False, **languages}
    return lambda source, **more: lp.TranslationDataModule(source, **{**options, **more})


def splits(rows=ROWS):
    return dict.fromkeys(("train", "validation", "test"), rows)


def texts(module):
    """Words of each test row up to its target, and its references."""
    module.setup("test")
    loaded = load_tokenizer(module.tokenizer_name, **module.languages())
    rows = module._ready["test"]
    return [
        (" ".join(loaded.convert_ids_to_tokens(row["input_ids"][: row.get("prompt_length")])), row["references"])
        for row in rows
    ]


def test_directions(module):
    """The template of a decoder names the languages, whose codes are unknown words here."""
    assert texts(module(splits(), template="{source} review")) == [
        ("bad plot review", ["good film"]),
        ("a review plot review", ["the film"]),
    ]
    swapped = module(splits(), template="{source} review", source_language="en", target_language="de")
    assert texts(swapped)[0] == ("good film review", ["bad plot"])
    assert module(splits()).source_template() == "de: {de}\nen:"
    assert module(splits(), is_encoder_decoder=True).source_template() is None
    full = module(splits(), template="from {source_language} into {target_language}: {source}")
    assert full.source_template() == "from de into en: {de}"
    again = lp.data.data_from(full.description(), "here")
    assert again.source_template() == full.source_template()
    assert again.columns == ["de"]


def test_sources(module, write, tmp_path):
    for split in splits():
        write(f"parallel/{split}.de", "bad plot\na review plot\n")
        write(f"parallel/{split}.en", "good film\nthe film\n")
    units = "".join(
        "<tu>" + "".join(f'<tuv xml:lang="{name}"><seg>{text}</seg></tuv>' for name, text in row.items()) + "</tu>"
        for row in ROWS
    )
    tmx = write("memory.tmx", f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{units}</body></tmx>')
    entries = "".join(f'\nmsgid "{row["de"]}"\nmsgstr "{row["en"]}"\n' for row in ROWS)
    po = write("messages.po", f'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n{entries}')
    hub = [{"id": str(i), "translation": row} for i, row in enumerate(ROWS)]
    expected = texts(module(splits()))
    assert texts(module(str(tmp_path / "parallel"))) == expected
    assert texts(module(splits(hub))) == expected
    assert texts(module(splits(str(tmx)))) == expected
    columns = {"source_column": "source", "target_column": "target"}
    assert texts(module(splits(str(po)), **columns)) == expected
    swapped = {"source_column": "target", "target_column": "source", "source_language": "en", "target_language": "de"}
    assert texts(module(splits(str(po)), **swapped)) == texts(
        module(splits(), source_language="en", target_language="de")
    )


@pytest.mark.parametrize(
    ("family", "source", "target", "option", "codes"),
    [
        ("mbart", "▁good ▁film </s> en_XX", "▁bad ▁plot </s> de_DE", "decoder_start_token_id", {}),
        ("mbart50", "en_XX ▁good ▁film </s>", "de_DE ▁bad ▁plot </s>", "forced_bos_token_id", {}),
        (
            "nllb",
            "eng_Latn ▁ g o o d ▁ f i l m </s>",
            "deu_Latn ▁ b a d ▁ p l o t </s>",
            "forced_bos_token_id",
            CODES,
        ),
    ],
)
def test_languages_stand_where_the_tokenizer_puts_them(family, source, target, option, codes, tmp_path):
    task = lp.Translation(write_language_model(tmp_path, family), lp.FlatPrefixConfig(length=2))
    languages = {"source_language": "en", "target_language": "de", **codes}
    module = lp.TranslationDataModule(splits(), max_target_length=16, **languages)
    module.serve(task)
    assert texts(module)[0] == (source, ["bad plot"])
    tokenizer = load_tokenizer(module.tokenizer_name, **module.languages())
    labels = module._ready["test"][0]["labels"]
    assert " ".join(tokenizer.convert_ids_to_tokens(labels)) == target
    code = tokenizer.convert_tokens_to_ids(codes.get("target_code", "de_DE"))
    assert module.generation == {"max_new_tokens": 16, option: code}
    swapped = {"source_language": "de", "target_language": "en"}
    swapped |= {"source_code": codes.get("target_code"), "target_code": codes.get("source_code")}
    module = lp.TranslationDataModule(splits(), **swapped)
    module.serve(task)
    module.setup("test")
    ids = module._ready["test"][0]["input_ids"]
    assert code in (ids[0], ids[-1])
    assert module.generation[option] == tokenizer.convert_tokens_to_ids(codes.get("source_code", "en_XX"))


@pytest.mark.parametrize("family", ["mbart", "mbart50", "nllb"])
def test_a_translation_begins_with_its_language(family, tmp_path):
    """Trained with it, as transformers shifts labels, and written so."""
    task = lp.Translation(write_language_model(tmp_path, family), lp.FlatPrefixConfig(length=2), decoded_rows=0)
    codes = CODES if family == "nllb" else {}
    codes |= {"source_language": "en", "target_language": "de"}
    module = lp.TranslationDataModule(splits(), batch_size=2, max_target_length=16, **codes)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, default_root_dir=tmp_path, **quiet)
    trainer.fit(task, module)
    assert task.instruction() == "Translate from en to de:"
    assert task.hparams["data_generation"] == module.generation
    batch = next(iter(module.val_dataloader()))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        torch.testing.assert_close(task.eval().loss(task.eval()(batch), batch), task.model(**inputs).loss)
        written = task.generate(batch["input_ids"], attention_mask=batch["attention_mask"]).sequences
    code = module.generation.get("forced_bos_token_id", module.generation.get("decoder_start_token_id"))
    assert set(written[:, 1 if "forced_bos_token_id" in module.generation else 0].tolist()) == {code}
    (scores,) = trainer.test(task, module, verbose=False)
    assert {"test/bleu", "test/chrf", "test/loss"} <= set(scores)


def test_signatures_are_printed_with_the_test(tmp_path, caplog):
    task = lp.Translation(write_language_model(tmp_path, "t5"), lp.FlatPrefixConfig(length=2))
    module = lp.TranslationDataModule(splits(), source_language="en", target_language="de")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, **quiet)
    with caplog.at_level("INFO"):
        trainer.validate(task, module, verbose=False)
        assert "nrefs" not in caplog.text
        trainer.test(task, module, verbose=False)
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:none|version:torchmetrics-" in caplog.text
    assert "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:torchmetrics-" in caplog.text
    assert task.data_generation == {"max_new_tokens": 128}  # no language for T5


def test_refused(module, tmp_path):
    with pytest.raises(lp.InputError, match="are both 'de'; give two languages"):
        module(splits(), target_language="de")
    with pytest.raises(lp.InputError, match=r"language code 'en_XX' is given, but the tokenizer .* has none"):
        module(splits(), source_code="en_XX").setup("fit")
    with pytest.raises(lp.InputError, match="no column 'fr'; its columns are 'en', 'de'"):
        module(splits(), source_language="fr").setup("fit")
    task = lp.Translation(write_language_model(tmp_path, "nllb"))
    for options, message in (
        ({}, r"no language 'de'; of its \d+ there are .*deu_Latn.* Give target_code= one of them"),
        ({"target_code": "deu_Latin"}, "no language 'deu_Latin'; of its .* there are .*deu_Latn"),
        ({"source_language": "zho", "source_column": "en"}, "several for 'zho': zho_Hans, zho_Hant"),
    ):
        code = {} if "source_language" in options else {"source_code": "eng_Latn"}
        languages = {"source_language": "en", "target_language": "de", **code, **options}
        translation = lp.TranslationDataModule(splits(), **languages)
        translation.serve(task)
        with pytest.raises(lp.InputError, match=message):
            translation.setup("fit")
