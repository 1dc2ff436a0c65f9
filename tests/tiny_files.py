"""A tiny backbone with its tokenizer in a folder, and tiny files of reviews."""

import csv
from pathlib import Path

import torch
import transformers as hf
from tiny_backbones import BACKBONES
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "good",
    "bad",
    "film",
    "plot",
    "a",
    "the",
    "review",
    ":",
    "label",
]
POSITIONS = 64


def write_tokenizer(folder: Path, *, is_bert: bool = True, is_t5: bool = False, **options: int) -> str:
    """A word tokenizer; like BERT's with all special tokens, like GPT-2's without padding, or like T5's."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if is_bert:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        special = {"eos_token": "[SEP]"}
    if is_t5:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
        special |= {"pad_token": "[PAD]"}
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if is_bert else [])]
    hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, unk_token="[UNK]", **special, **options
    ).save_pretrained(folder)
    return str(folder)


def write_backbone(folder: Path, family: str = "bert") -> str:
    """A random BERT or GPT-2 with its tokenizer, as `from_pretrained` reads it."""
    if family == "bert":
        config = hf.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=POSITIONS,
        )
        model = hf.BertModel(config)
    else:
        sizes = {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
        model = hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, eos_token_id=3, bos_token_id=3))
    model.save_pretrained(folder)
    return write_tokenizer(folder, is_bert=family == "bert")


def write_language_model(folder: Path, family: str) -> str:
    """A random model of `tiny_backbones` with its tokenizer; `mbart50` and `nllb` (which knows letters) are others."""
    is_mbart = family.startswith("mbart")
    model = BACKBONES["mbart" if is_mbart else "m2m_100" if family == "nllb" else family]()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if is_mbart:
        maker = hf.MBartTokenizer if family == "mbart" else hf.MBart50Tokenizer
        maker(vocab=[(piece, 0.0) for piece in (*special, *(f"▁{word}" for word in WORDS))]).save_pretrained(folder)
    elif family == "nllb":
        pieces = [*special, "▁", *"abcdefghijklmnopqrstuvwxyz"]
        hf.NllbTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    else:
        write_tokenizer(folder, is_bert=False, is_t5=model.config.is_encoder_decoder)
    loaded = hf.AutoTokenizer.from_pretrained(folder)
    tokens = {"vocab_size": len(loaded), "eos_token_id": loaded.eos_token_id, "pad_token_id": loaded.pad_token_id}
    model.config.update({**tokens, **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), loaded.eos_token_id)})
    model = type(model)(model.config)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # wide, so that what is written depends on what is read
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return str(folder)


def review(row: int) -> dict[str, str]:
    """Row i of an endless file: odd ones are positive."""
    word = "good" if row % 2 else "bad"
    return {"text": f"the {word} film" + " plot" * (row % 5), "label": "positive" if row % 2 else "negative"}


def write_reviews(folder: Path, train: int = 64, validation: int = 16, test: int = 17) -> str:
    """A folder with train, validation and test files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, first, rows in (("train", 0, train), ("validation", 100, validation), ("test", 200, test)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(review(first + row) for row in range(rows))
    return str(folder)
