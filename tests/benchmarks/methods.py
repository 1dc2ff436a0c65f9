"""What the benchmarks compare: one training step of each method, on batches of real texts."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy

import lightning_prefix as lp
from lightning_prefix.backbone import BackboneOptions, load_backbone

LENGTH = 20
Batch = dict[str, Any]
Step = Callable[[Batch], None]


@dataclass(frozen=True)
class Setting:
    """A backbone with the task and the texts that it is trained on.

    Args:
        title: for the report.
        auto_class: as which transformers loads it.
        task: of lightning_prefix.
        data: its data module.
        source: of the texts.
        options: of the data module.
        backbone: as `backbone` of a task.
        dtype: of the frozen weights.
        rows: of a batch.
        query_value: names of the layers that LoRA changes.
        can_peft: whether PEFT's prefix runs on the model.
    """

    title: str
    auto_class: str
    task: type[lp.PrefixTask]
    data: type[lp.TextDataModule]
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "asset:minilm-l6"
    dtype: str = "float32"
    rows: int = 32
    query_value: Sequence[str] = ("query", "value")
    can_peft: bool = True

    def batches(self, count: int, *, group_by_length: bool) -> list[Batch]:
        """Training batches; in both kinds each batch holds other rows of all lengths."""
        options = {"batch_size": self.rows, "tokenizer": self.backbone, **self.options}
        data = self.data(self.source, group_by_length=group_by_length, **options)
        data.prepare_data()
        data.setup("fit")
        return [batch for _, batch in zip(range(count), data.train_dataloader(), strict=False)]

    def load(self) -> Any:
        """The backbone as plain transformers."""
        options = BackboneOptions(dtype=self.dtype)  # type: ignore[arg-type]
        kwargs = {} if self.is_generation else {"num_labels": 2}
        return load_backbone(self.backbone, self.auto_class, options, **kwargs)[0]

    @property
    def is_generation(self) -> bool:
        """Whether the loss is that of the tokens of a text."""
        return self.auto_class != "AutoModelForSequenceClassification"


def settings(reviews: str, dialogues: str, ui_strings: str) -> dict[str, Setting]:
    """All, by short names.

    Args:
        reviews: a source of texts with labels.
        dialogues: a source of conversations.
        ui_strings: a source of English and Portuguese texts.
    """
    chat: dict[str, Any] = {"backbone": "asset:smollm2-135m", "rows": 8, "query_value": ("q_proj", "v_proj")}
    turns = {} if dialogues.startswith("asset:") else {"messages_column": "text", "turn_separator": "__eou__"}
    turns |= {"max_length": 256, "max_target_length": 64, "is_encoder_decoder": False}
    classes = ("AutoModelForSequenceClassification", lp.TextClassification, lp.TextClassificationDataModule)
    talk = ("AutoModelForCausalLM", lp.Dialogue, lp.DialogueDataModule, dialogues, turns)
    translation = ("AutoModelForSeq2SeqLM", lp.Translation, lp.TranslationDataModule, ui_strings)
    return {
        "minilm": Setting("MiniLM-L6, sentences", *classes, reviews),
        "smollm2": Setting("SmolLM2-135M, dialogues", *talk, **chat),
        "smollm2-bf16": Setting("SmolLM2-135M in bfloat16, dialogues", *talk, dtype="bfloat16", **chat),
        "marian": Setting(
            "Marian en-pt, user-interface strings",
            *translation,
            {"source_language": "en", "target_language": "pt", "max_target_length": 64, "is_encoder_decoder": True},
            backbone="asset:marian-en-pt",
            rows=16,
            query_value=("q_proj", "v_proj"),
            can_peft=False,  # its decoder has no self-attention
        ),
    }


def ours(setting: Setting, prefix: lp.PrefixConfig) -> Step:
    """A step of this package."""
    options = BackboneOptions(dtype=setting.dtype)  # type: ignore[arg-type]
    labels = {} if setting.is_generation else {"num_labels": 2}
    task = setting.task(setting.backbone, prefix=prefix, backbone_options=options, **labels)
    task.configure_model()
    task.train()
    return _trained(list(task.parameters()), lambda batch: task.loss(task(batch), batch))


def has_peft_prefix(setting: Setting) -> bool:
    """Whether PEFT is here, and its prefix runs; it rides on an argument that transformers 5.24 renamed."""
    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    return setting.can_peft and version < (5, 24) and importlib.util.find_spec("peft") is not None


def peft_prefix(setting: Setting, *, projection: bool) -> Step:
    """A step of PEFT's prefix tuning, called as its documentation says."""
    from peft import PrefixTuningConfig

    return _peft(setting, PrefixTuningConfig(num_virtual_tokens=LENGTH, prefix_projection=projection))


def lora(setting: Setting) -> Step:
    """A step of LoRA at queries and values, rank 8."""
    from peft import LoraConfig

    return _peft(setting, LoraConfig(r=8, target_modules=list(setting.query_value)))


def full(setting: Setting) -> Step:
    """A step of full fine-tuning."""
    model = setting.load().train().requires_grad_(True)
    return _trained(list(model.parameters()), lambda batch: model(**_plain(batch)).loss)


def limit(setting: Setting) -> Step:
    """The frozen forward and the gradient to its inputs, without prefix and padding; logits where there are labels.

    A batch is replaced by one of as many rows and as many real tokens, all rows alike in length.
    """
    model = setting.load().eval().requires_grad_(False)

    def step(batch: Batch) -> None:
        rows, tokens = batch["attention_mask"].shape[0], int(batch["attention_mask"].sum())
        ids = torch.arange(rows * max(1, round(tokens / rows))).view(rows, -1) % 1000 + 100
        embed = model.get_input_embeddings()
        embedded = embed(ids).detach().requires_grad_()
        labelled = int((batch["labels"] != -100).sum()) if setting.is_generation else rows
        if model.config.is_encoder_decoder:
            width = max(1, round(labelled / rows))
            loss = model(inputs_embeds=embedded * 16, labels=ids[:, :1].expand(rows, width).contiguous()).loss
        elif setting.is_generation:
            hidden = model.base_model(inputs_embeds=embedded).last_hidden_state.flatten(0, 1)[:labelled]
            loss = cross_entropy(model.get_output_embeddings()(hidden).float(), ids.flatten()[:labelled])
        else:
            loss = cross_entropy(model(inputs_embeds=embedded).logits, batch["labels"])
        loss.backward()

    return step


def _peft(setting: Setting, config: Any) -> Step:
    from peft import get_peft_model

    config.task_type = "CAUSAL_LM" if setting.is_generation else "SEQ_CLS"
    if setting.auto_class == "AutoModelForSeq2SeqLM":
        config.task_type = "SEQ_2_SEQ_LM"
    model = get_peft_model(setting.load(), config).train()
    for module in model.modules():  # as ours: no dropout in the frozen model
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return _trained(list(model.parameters()), lambda batch: model(**_plain(batch)).loss)


def _trained(parameters: list[torch.nn.Parameter], loss: Callable[[Batch], torch.Tensor]) -> Step:
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-4)

    def step(batch: Batch) -> None:
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _plain(batch: Batch) -> Batch:
    """What a transformers model takes."""
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return {name: batch[name] for name in names if name in batch}


def padding(batches: Sequence[Batch]) -> float:
    """Computed tokens for each real one."""
    return sum(batch["attention_mask"].numel() for batch in batches) / real_tokens(batches)


def real_tokens(batches: Sequence[Batch]) -> int:
    """All but padding; of an encoder-decoder those of the encoder."""
    return sum(int(batch["attention_mask"].sum()) for batch in batches)


def in_turns(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of CPU time of each, one after the other in each round, so that a busy machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, function in cases.items():
            start = time.process_time()
            function()
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def versions() -> str:
    """Of what was measured."""
    threads = torch.get_num_threads()
    return f"torch {torch.__version__}, transformers {transformers.__version__}, {threads} thread(s), CPU time, medians"
