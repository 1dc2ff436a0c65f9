"""`TextGeneration`: text from text, the task under generative QA, translation, dialogue, summaries and tables."""

import difflib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, Metric, MetricCollection

from lightning_prefix.backbone import load_config, load_tokenizer, max_positions
from lightning_prefix.errors import InputError
from lightning_prefix.metrics import AnswerExactMatch, AnswerF1, Bleu, ChrF, Distinct, Rouge
from lightning_prefix.metrics.translation import Tokenizer as BleuTokenizer
from lightning_prefix.prefix import GatedPrefixConfig, PrefixConfig
from lightning_prefix.tasks.base import Batch, PrefixTask
from lightning_prefix.tasks.heads import Head, LanguageModelHead
from lightning_prefix.tasks.rerank import minimum_bayes_risk
from lightning_prefix.tasks.results import Written

MetricName = Literal["bleu", "chrf", "rouge", "exact_match", "f1", "distinct_1", "distinct_2"]

_SAMPLES_FILE = "samples.jsonl"


class TextGeneration(PrefixTask):
    """Writes a text for a text: summaries, text from tables, and whatever else has a source and a target.

    Data: a column of sources (`text_column`), or several in a `template`, and one of targets (`target_column`): a text,
    or a list of texts that are all right.

    A YAML for `fit --config`::

        model: {class_path: TextGeneration, init_args: {backbone: asset:smollm2-135m}}
        data:
          class_path: TextGenerationDataModule
          init_args: {source: articles.jsonl, text_column: article, target_column: summary}
        trainer: {max_epochs: 5}

    Metrics: `bleu`, `rouge1`, `rouge2` and `rougeL` by default, 0 to 100, higher is better; others with `metrics`.

    The backbone is a causal language model or an encoder-decoder; nothing but the prefix is trained. The loss counts
    target tokens only, and logits are made at their positions only. `val/loss` is the mean over target tokens (nats),
    `val/perplexity` its exponential; the metrics below read texts that the model writes for the first `decoded_rows`
    rows of the validation split, and for all of the test split. Each validation puts some of these texts into
    `samples.jsonl` in the run's folder, and into the logger where it takes text (TensorBoard, Weights & Biases).

    Args:
        backbone: hub id, folder, or `asset:smollm2-135m` (needs no hub).
        prefix: which prefix: `GatedPrefixConfig`, `FlatPrefixConfig`, `MLPPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options. A flat one wants `init: text`: from random numbers a decoder begins
            far above the frozen model's loss (SmolLM2-135M on Social IQa, length 10, after 40 steps: validation loss
            4.99 from random, 3.42 from text).
        loss: `token_mean`: the mean over the target tokens of the batch; `example_sum`: the sum over the tokens of
            each target, and the mean over the batch, as in the code of Li & Liang (2021).
        label_smoothing: share of each target spread over the vocabulary in training, in [0, 1).
        generation: how texts are written, in the words of transformers' GenerationConfig: `num_beams`,
            `max_new_tokens`, `length_penalty`, `no_repeat_ngram_size`, `do_sample`, ... Greedy when null, with as many
            new tokens as the data's `max_target_length`.
        metrics: of the texts: bleu, chrf, rouge, exact_match, f1 (these 0 to 100), distinct_1, distinct_2 (0 to 1).
        bleu_tokenizer: of BLEU, as in sacreBLEU: `13a`, `zh`, `intl`, `char`, ...
        decoded_rows: of the validation split, >= 0; writing texts is slow.
        logged_samples: texts that are logged at each validation, >= 0.
        data_generation: what the data say of `generation` (length, language); filled by them, leave it null.
        options: of `PrefixTask`.

    Example:
        >>> TextGeneration("asset:smollm2-135m", GatedPrefixConfig(length=16), metrics=["rouge"]).monitor
        'val/loss'
    """

    monitor: ClassVar[str] = "val/loss"  # type: ignore[misc]
    mode: ClassVar[Literal["min", "max"]] = "min"
    pipeline_tag: ClassVar[str | None] = "text-generation"
    rules: ClassVar[tuple[str, ...]] = ("tokens", "rerank")
    """How members of an ensemble write: token by token together, or each its own, of which one is chosen."""
    default_metrics: ClassVar[Sequence[MetricName]] = ("bleu", "rouge")
    """What is measured when `metrics` is null."""

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = GatedPrefixConfig(),
        loss: Literal["token_mean", "example_sum"] = "token_mean",
        label_smoothing: float = 0.0,
        generation: dict[str, Any] | None = None,
        metrics: list[MetricName] | None = None,
        bleu_tokenizer: BleuTokenizer = "13a",
        decoded_rows: int = 200,
        logged_samples: int = 3,
        data_generation: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(backbone, prefix, **options)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing {label_smoothing} is given; it is in [0, 1).")
        if decoded_rows < 0 or logged_samples < 0:
            raise InputError(f"decoded_rows {decoded_rows} and logged_samples {logged_samples} are given; give >= 0.")
        self.loss_kind, self.label_smoothing = loss, label_smoothing
        self.data_generation = dict(data_generation or {})
        self.generation: dict[str, Any] = {}
        self.add_generation(generation or {})
        self.metric_names = list(self.default_metrics if metrics is None else metrics)
        self.bleu_tokenizer = bleu_tokenizer
        self.decoded_rows, self.logged_samples = decoded_rows, logged_samples
        self._samples: list[dict[str, Any]] = []

    @cached_property
    def is_encoder_decoder(self) -> bool:
        """Whether the backbone reads the source with an encoder; else source and target share a row."""
        return bool(load_config(self.backbone_name, self.backbone_options).is_encoder_decoder)

    @cached_property
    def tokenizer(self) -> Any:
        """Makes texts of tokens; the data's where it names one."""
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return load_tokenizer(getattr(data, "tokenizer", None) or self.backbone_name, self.backbone_options)

    def setup(self, stage: str) -> None:
        """Take from the data how long a target is and which token begins it; stored with the checkpoint."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        self.data_generation = dict(getattr(data, "generation", self.data_generation))
        self.hparams.update(data_generation=self.data_generation)

    def configure_model(self) -> None:
        """As every task; texts that shall share a row must be apart in this backbone.

        Raises:
            InputError: if they are not, or with an activation cache, which knows rows of one text.
        """
        data: Any = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        packs = getattr(data, "packing", False) and self.trainer.state.fn == "fit"
        if packs and self.activation_cache is not None:
            raise InputError("data.packing and model.activation_cache are given; use one of the two.")
        super().configure_model()
        if packs:
            cast("Any", self.model).check_packing()

    def _check_length(self) -> None:
        """Targets longer than the decoder's positions would fail in the middle of an epoch, too."""
        super()._check_length()
        data: Any = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        longest, limit = getattr(data, "max_target_length", None), max_positions(cast("Any", self.model).backbone)
        if limit is None:
            return
        if self.is_encoder_decoder and longest is not None and longest > limit:
            raise InputError(
                f"data.max_target_length {longest} is given, but {self.backbone_name!r} has positions for {limit} "
                f"tokens; use max_target_length <= {limit}."
            )
        written, room = self.generation.get("max_new_tokens", 0), limit
        if not self.is_encoder_decoder and data is not None:  # which leave room for `max_target_length` tokens
            room = limit - data.max_length - data.reserved + data.max_target_length
        if written > room:
            raise InputError(
                f"generation.max_new_tokens {written} is given, but {self.backbone_name!r} has positions for {limit} "
                f"tokens, {room} of them to write in; use max_new_tokens <= {room}"
                + ("." if self.is_encoder_decoder else ", or a smaller data.max_length.")
            )

    def make_head(self) -> Head:
        """The model's own language-model head."""
        return LanguageModelHead(self.is_encoder_decoder)

    def make_metrics(self) -> MetricCollection:
        """Those that `metrics` names."""
        makers: dict[str, Callable[[], Metric]] = {
            "bleu": lambda: Bleu(self.bleu_tokenizer),
            "chrf": ChrF,
            "rouge": Rouge,
            "exact_match": AnswerExactMatch,
            "f1": AnswerF1,
            "distinct_1": lambda: Distinct(1),
            "distinct_2": lambda: Distinct(2),
        }
        return MetricCollection({name: makers[name]() for name in self.metric_names})

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """With the labels, which the head needs."""
        return {**super().inputs(batch), "labels": batch["labels"]}

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """As `loss` in the arguments says; outputs are logits of the target positions."""
        losses = self._token_losses(outputs, batch, self.label_smoothing)
        return losses.mean() if self.loss_kind == "token_mean" else losses.sum() / _examples(batch)

    def _token_losses(self, outputs: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of every target token of the batch, (tokens,)."""
        assert isinstance(self.head, LanguageModelHead)  # noqa: S101
        targets = self.head.targets(batch["labels"])
        return cross_entropy(outputs, targets, reduction="none", label_smoothing=label_smoothing)

    def evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        """The loss of every row; texts of the rows that are decoded."""
        losses = self._token_losses(self(batch), batch)
        mean_loss.update(losses.mean(), weight=len(losses))  # exact with unequal batches and processes
        limit = float("inf") if self.trainer.testing else self.decoded_rows
        chosen = [place for place, index in enumerate(batch["index"].tolist()) if index < limit]
        if self.trainer.sanity_checking:
            chosen = chosen[:2]
        if chosen and (len(metrics) or self.logged_samples):
            references = [batch["references"][place] for place in chosen]
            texts = self.write({name: _rows(value, chosen) for name, value in batch.items()})
            metrics.update([candidates[0] for candidates in texts], references)
            pairs = zip(texts, references, strict=True)
            numbers = [[crc32((text or [""])[0].encode()) % _NUMBERS for text in pair] for pair in pairs]
            self.spread.update(*torch.tensor(numbers, device=self.device).T)
            self._keep_samples(batch, chosen, texts, references)

    def answers(self, batch: Batch) -> list[Written]:
        """What the model writes, described."""
        return self.describe(self.write(batch), batch)

    def combine(self, scores: Sequence[list[list[str]]], weights: Sequence[float], rule: str) -> list[list[str]]:
        """Texts of an ensemble for each row, best first.

        Args:
            scores: texts of each member for each row; with `tokens` those that they have written together.
            weights: of each member.
            rule: `tokens`, or `rerank`: by minimum Bayes risk with chrF.
        """
        if rule == "tokens":
            return scores[0]
        return [minimum_bayes_risk(row, weights) for row in zip(*scores, strict=True)]

    def update_metrics(self, metrics: MetricCollection, scores: list[list[str]], batch: Batch) -> None:
        """Count the best texts of one batch."""
        metrics.update([candidates[0] for candidates in scores], batch["references"])

    def describe(self, scores: list[list[str]], batch: Batch) -> list[Written]:
        """The best text of each row, and all where there are several."""
        results: list[Written] = [{"generated_text": candidates[0]} for candidates in scores]
        for result, candidates in zip(results, scores, strict=True):
            if len(candidates) > 1:
                result["candidates"] = candidates
        return results

    def write(self, batch: Batch, **options: Any) -> list[list[str]]:
        """What the model writes for each row, best first.

        Args:
            batch: `input_ids` and `attention_mask`, (batch, tokens); where rows of a decoder hold a target too,
                `prompt_length`, (batch,), says where it begins.
            options: of `generate` that count more than `generation`.
        """
        inputs = PrefixTask.inputs(self, batch)
        length = 0
        if not self.is_encoder_decoder:
            inputs = _left_padded(inputs, batch.get("prompt_length"))
            length = inputs["input_ids"].shape[1]
        written = self.generate(**inputs, **options).sequences
        texts = self.tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)
        each = len(texts) // len(batch["input_ids"])
        return [[text.strip() for text in texts[i : i + each]] for i in range(0, len(texts), each)]

    def generate(self, input_ids: Tensor, **inputs: Any) -> Any:
        """The output of the backbone's `generate`, with the prefix and as `generation` says.

        Args:
            input_ids: (batch, tokens), long; for a decoder padded at the left.
            inputs: `attention_mask` and others; options of `generate` here count more.
        """
        if self.model is None:
            raise InputError("the task has no weights yet; call configure_model() or load_from_checkpoint first.")
        return self.model.generate(
            input_ids, return_dict_in_generate=True, **{**self._generation_arguments(), **inputs}
        )

    def add_generation(self, options: dict[str, Any]) -> None:
        """Change how texts are written, in the words of transformers' GenerationConfig.

        Raises:
            InputError: for an option that it does not have.
        """
        _check_generation(options)
        self.generation.update(options)

    def ends(self, options: dict[str, Any]) -> list[int]:
        """Tokens after which a text ends.

        Args:
            options: of `generate` that count more than `generation`.
        """
        own = cast("Any", self.model).backbone.generation_config.eos_token_id
        ends = {**self._generation_arguments(), **options}.get("eos_token_id", own)
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    def _generation_arguments(self) -> dict[str, Any]:
        arguments = {"do_sample": False, "max_new_tokens": 64, **self.data_generation, **self.generation}
        if "max_length" in self.generation:  # of both, `generate` would take the other one
            del arguments["max_new_tokens"]
        own = cast("Any", self.model).backbone.generation_config
        if not arguments["do_sample"]:  # greedy: a chat model's own sampling would only be warned about
            arguments = {"temperature": None, "top_p": None, "top_k": None, **arguments}
        if own.eos_token_id is None:
            arguments.setdefault("eos_token_id", self.tokenizer.eos_token_id)
        if own.pad_token_id is None:
            pad = self.tokenizer.pad_token_id
            arguments.setdefault("pad_token_id", self.tokenizer.eos_token_id if pad is None else pad)
        return arguments

    # Logging.

    def _log_metrics(self, name: str, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        perplexity = mean_loss.compute().exp()
        self.measured[f"{name}/perplexity"] = float(perplexity)
        self.log(f"{name}/perplexity", perplexity, prog_bar=False, sync_dist=True)
        if name == "val" and not self.decoded_rows:
            metrics = MetricCollection({})
        super()._log_metrics(name, metrics, mean_loss)
        self._write_samples(name)

    def _keep_samples(
        self, batch: Batch, chosen: list[int], texts: list[list[str]], references: list[list[str]]
    ) -> None:
        """The first rows of the split, whatever the order of the batches."""
        for place, candidates, expected in zip(chosen, texts, references, strict=True):
            length = int(batch["prompt_length"][place]) if "prompt_length" in batch else None
            source = self.tokenizer.decode(batch["input_ids"][place][:length], skip_special_tokens=True)
            row = {"index": int(batch["index"][place]), "source": source.strip(), "generated_text": candidates[0]}
            self._samples.append({**row, "references": expected})
        self._samples = sorted(self._samples, key=lambda sample: sample["index"])[: self.logged_samples]

    def _write_samples(self, name: str) -> None:
        samples, self._samples = self._samples, []
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)  # which all processes must ask for
        if not samples or not self.trainer.is_global_zero or self.trainer.sanity_checking:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _SAMPLES_FILE).open("a", encoding="utf-8") as stream:
            for sample in samples:
                line = {"stage": name, "step": self.global_step, **sample}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        loggers: list[Any] = self.loggers
        for logger in loggers:
            if hasattr(logger, "log_text"):  # Weights & Biases
                logger.log_text(f"{name}/samples", columns=list(samples[0]), data=[list(s.values()) for s in samples])
            elif hasattr(logger.experiment, "add_text"):  # TensorBoard
                text = "\n\n".join(f"**{key}** {value}" for sample in samples for key, value in sample.items())
                logger.experiment.add_text(f"{name}/samples", text, self.global_step)


def _check_generation(given: dict[str, Any]) -> None:
    """Raise `InputError` for an option that transformers' `generate` does not have."""
    from transformers import GenerationConfig

    known = [name for name in GenerationConfig().to_dict() if not name.startswith(("_", "transformers"))]
    if unknown := [name for name in given if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=3)
        raise InputError(
            f"generation has {unknown[0]!r}, which transformers' GenerationConfig does not have"
            + (f"; did you mean {' or '.join(near)}?" if near else ", such as num_beams or max_new_tokens.")
        )


_NUMBERS = 2**24
"""Of texts; whole numbers up to it are exact in float32."""


def _examples(batch: Batch) -> int | Tensor:
    """How many there are: a row may hold several."""
    ids = batch.get("sequence_ids")
    return len(batch["input_ids"]) if ids is None else ids.amax(dim=1).sum()


def _rows(value: Any, chosen: list[int]) -> Any:
    return value[chosen] if isinstance(value, Tensor) else [value[place] for place in chosen]


def _left_padded(inputs: dict[str, Tensor], lengths: Tensor | None) -> dict[str, Tensor]:
    """The prompts of rows that are padded at the right, padded at the left, since new tokens follow them.

    Args:
        inputs: (batch, tokens) each.
        lengths: tokens of each prompt, (batch,); all that the mask shows when None.
    """
    mask = inputs["attention_mask"]
    lengths = mask.sum(1) if lengths is None else lengths
    width = int(lengths.max())
    places = torch.arange(width, device=mask.device)[None] - (width - lengths)[:, None]  # (batch, width)
    moved = {name: value.gather(1, places.clamp(min=0)) for name, value in inputs.items()}
    moved["attention_mask"] = moved["attention_mask"] * (places >= 0)
    return moved
