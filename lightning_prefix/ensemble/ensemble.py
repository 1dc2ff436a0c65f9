"""`Ensemble`: several trained prefixes that answer together."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from lightning_prefix.backbone import files
from lightning_prefix.backbone.card import write_card
from lightning_prefix.backbone.hub import local_folder, push_to_hub
from lightning_prefix.data import TextDataModule, data_from
from lightning_prefix.ensemble.alike import check_alike, group_key, reads_alike
from lightning_prefix.ensemble.card import ensemble_card
from lightning_prefix.ensemble.folder import read_ensemble, write_ensemble
from lightning_prefix.ensemble.group import Group
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import TextGeneration
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.scoring import ScoringTask

Kept = list[tuple[list[Any], Batch]]
"""Scores of each member, and the batch, of all batches of a split."""


class Member(NamedTuple):
    """Where a member is.

    Attributes:
        directory: that it was read from.
        group: number of its group.
        place: its number in the group.
        reading: number of the data module that reads texts as it was trained on.
    """

    directory: Path
    group: int
    place: int
    reading: int


class Ensemble(LightningModule):
    """Several prefixes of one task; those on the same backbone run as one batch.

    `validate`, `test` and `predict` of a Trainer run it like a task, and a `Predictor` answers with it. Metrics are
    those of the task; beside each, `member_mean/...` is the mean of the members' own.

    Args:
        members: folders that `fit` or `save_pretrained` wrote, of one task, with the same labels. Variants, lengths,
            templates, heads and backbones may differ.
        rule: how scores are combined. Classification and entities: `mean` of the probabilities, `logits`: mean of the
            logits, `vote`: the majority. Regression: `mean`, `median`. Extractive QA: `mean` of the probabilities of
            spans, `vote`. Generation: `tokens`: the mean of the logarithms of probabilities at each token, `rerank`:
            each member writes, and the text on which they agree most is taken (minimum Bayes risk by chrF). The first
            of these when None; `rerank` where backbones or readings of generations differ.
        weights: of each member, >= 0; they are divided by their sum. Equal when None. `fit_weights` finds them.
        overrides: arguments of every member's task to replace, such as `backbone` where it lies elsewhere now.

    Raises:
        InputError: if a folder is damaged, or members do not fit together.

    Example:
        >>> import lightning_prefix as lp
        >>> ensemble = lp.Ensemble(["seed_0/prefix", "seed_1/prefix"])  # doctest: +SKIP
        >>> ensemble.save_pretrained("ensemble")  # doctest: +SKIP
        >>> lp.Predictor.from_pretrained("ensemble")("A warm, funny film.")["label"]  # doctest: +SKIP
        'positive'
    """

    def __init__(
        self,
        members: Sequence[str | Path],
        rule: str | None = None,
        weights: Sequence[float] | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__()
        folders = [Path(member) for member in members]
        if not folders:
            raise InputError("an ensemble of no members is given; give one folder or more.")
        stored = [files.read(folder) for folder in folders]
        check_alike(stored)
        self.readings: list[TextDataModule] = []
        self.members: list[Member] = []
        self._own_reading: int | None = 0
        self._kept: Kept | None = None
        groups: dict[str, Group] = {}
        descriptions: list[Any] = []
        for folder, one in zip(folders, stored, strict=True):
            key = group_key(one)
            is_first = key not in groups
            if is_first:
                groups[key] = Group(folder, overrides)
            description = one.description["task"]["data"]
            if (number := list(groups).index(key), description) not in descriptions:
                descriptions.append((number, description))
                self.readings.append(data_from(description, folder))
                self.readings[-1].serve(groups[key].task)
            place = 0 if is_first else groups[key].add(one)
            self.members.append(Member(folder, number, place, descriptions.index((number, description))))
        self.groups = nn.ModuleList(groups.values())
        self.requires_grad_(False)
        self.rule = self._chosen_rule(rule)
        self.weights = self._checked_weights(weights)
        self._make_metrics()
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> "Ensemble":
        """The ensemble that `save_pretrained` wrote.

        Args:
            directory: the folder, or the id of a repository on the Hugging Face hub, `user/name`.
            revision: branch, tag or commit of the repository.
            token: for a private one; the one of `hf auth login` or `HF_TOKEN` when None.
            overrides: arguments of every member's task to replace, such as `backbone` where it lies elsewhere now.

        Raises:
            InputError: if the folder is damaged.
        """
        stored = read_ensemble(local_folder(directory, revision, token))
        return cls(stored.members, stored.rule, stored.weights, **overrides)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write one folder with copies of the members that count, and a model card.

        Raises:
            InputError: if there is an ensemble already.
        """
        counting = [(m.directory, weight) for m, weight in zip(self.members, self.weights, strict=True) if weight > 0]
        folders, weights = zip(*counting, strict=True)
        write_ensemble(Path(directory), folders, self.rule, weights)
        write_card(Path(directory), ensemble_card(self, weights, Path(directory)))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save, and put the folder on the Hugging Face hub.

        Args:
            repo_id: `user/name`; made when missing.
            options: `private`, `token`, `revision` and `commit_message` of `lightning_prefix.push_to_hub`.

        Returns:
            The address of the commit.

        Raises:
            InputError: if the hub refuses.
        """
        with TemporaryDirectory() as directory:
            folder = Path(directory) / repo_id.rpartition("/")[2]
            self.save_pretrained(folder)
            return push_to_hub(folder, repo_id, **options)

    @property
    def lead(self) -> Any:
        """The task of the first member: it names labels, metrics and results."""
        return cast("Group", self.groups[0]).task

    # What data modules and a `Predictor` ask of a task.

    @property
    def backbone_name(self) -> str:
        """Of the first member."""
        return str(self.lead.backbone_name)

    @property
    def monitor(self) -> str:
        """The metric of the task."""
        return str(self.lead.monitor)

    @property
    def mode(self) -> str:
        """Whether it is better larger (`max`) or smaller (`min`)."""
        return str(self.lead.mode)

    @property
    def position_limit(self) -> int | None:
        """Of the first member."""
        return cast("int | None", self.lead.position_limit)

    @property
    def is_encoder_decoder(self) -> bool | None:
        """Of the first member; None for what writes no texts."""
        return getattr(self.lead, "is_encoder_decoder", None)

    def setup(self, stage: str) -> None:
        """Find out whether the data read texts as the members do.

        Raises:
            InputError: if the data have other labels, or there is no data module where one is needed.
        """
        self.lead.trainer = self.trainer
        self.lead.setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None and len(self.readings) > 1:
            raise InputError(
                "members read texts in several ways, for which a data module is needed; give the Trainer datamodule=, "
                "not data loaders."
            )
        alike = [number for number, reading in enumerate(self.readings) if data is None or reads_alike(reading, data)]
        self._own_reading = next(iter(alike), None)

    # Scores.

    def member_scores(self, batch: Batch) -> list[Any]:
        """Scores of each member for the same rows, as their task defines them.

        Args:
            batch: as the first member reads it, or the data of the running Trainer; where members read texts in
                several ways, `inputs` are the raw ones, as a `Predictor` takes them.
        """
        scores: list[Any] = [None] * len(self.members)
        for number, reading in enumerate(self.readings):
            readers = [i for i, member in enumerate(self.members) if member.reading == number]
            own = batch if number == self._own_reading else self._encoded(reading, batch)
            group = cast("Group", self.groups[self.members[readers[0]].group])
            found = group.scores(own, [self.members[i].place for i in readers])
            for i, score in zip(readers, found, strict=True):
                scores[i] = score
        return scores

    def combine(self, scores: Sequence[Any]) -> Any:
        """Scores of the ensemble, of those of each member."""
        return self.lead.combine(scores, self.weights, self.rule)

    @contextmanager
    def keeping_scores(self) -> Iterator[Kept]:
        """Inside, scores of validation and test batches are kept."""
        self._kept = []
        try:
            yield self._kept
        finally:
            self._kept = None

    def answers(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        """Results for people, one plain dict per row, as those of the task."""
        if self.rule == "tokens":
            return cast("Sequence[Mapping[str, Any]]", self.lead.describe(self._written(batch), batch))
        return cast("Sequence[Mapping[str, Any]]", self.lead.describe(self.combine(self.member_scores(batch)), batch))

    def _written(self, batch: Batch) -> list[list[str]]:
        own = batch if self._own_reading == 0 else self._encoded(self.readings[0], batch)
        return cast("Group", self.groups[0]).write_together(own, self.weights)

    def _encoded(self, reading: TextDataModule, batch: Batch) -> Batch:
        """The rows of a batch as other members read them."""
        inputs = batch["inputs"] if "inputs" in batch else self._raw_rows(batch)
        encoded = reading.collator()(reading.encode_inputs(inputs))
        return {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in encoded.items()}

    def _raw_rows(self, batch: Batch) -> list[Any]:
        role = {"validate": "validation"}.get(stage := str(self.trainer.state.fn.value), stage)  # type: ignore[union-attr]
        rows = cast("Any", self.trainer).datamodule.raw_rows(role)
        return [rows[index] for index in batch["index"].tolist()]

    # Steps of a Trainer.

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        self._count(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        self._count(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict per row; `index` is its row number in the data."""
        return [{"index": i, **row} for i, row in zip(batch["index"].tolist(), self.answers(batch), strict=True)]

    def on_validation_epoch_end(self) -> None:
        """Log what was counted."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log what was counted."""
        self._log_metrics("test")

    def _count(self, batch: Batch) -> None:
        if self.rule == "tokens":
            self.lead.update_metrics(self.metrics, self._written(batch), batch)
            return
        each = self.member_scores(batch)
        if self._kept is not None:
            self._kept.append((each, batch))
        scores = self.combine(each)
        self.lead.update_metrics(self.metrics, scores, batch)
        for metrics, own in zip(self.each_metrics, each, strict=True):
            self.lead.update_metrics(metrics, own, batch)
        if isinstance(scores, Tensor):
            self.mean_loss.update(self.lead.loss(scores, batch), weight=len(scores))

    def _make_metrics(self) -> None:
        self.metrics: MetricCollection = self.lead.make_metrics()
        self.each_metrics = nn.ModuleList([self.lead.make_metrics() for _ in self.members])
        self.mean_loss = MeanMetric()

    def _log_metrics(self, name: str) -> None:
        values = self._computed(self.metrics)
        if self.mean_loss.update_called:
            values["loss"] = self.mean_loss.compute()
        if self.rule != "tokens":
            each = [self._computed(cast("MetricCollection", metrics)) for metrics in self.each_metrics]
            values |= {f"member_mean/{key}": torch.stack([own[key] for own in each]).mean() for key in each[0]}
        self.log_dict({f"{name}/{key}": value for key, value in values.items()}, sync_dist=True)
        self.mean_loss.reset()

    def _computed(self, metrics: MetricCollection) -> dict[str, Tensor]:
        self.lead.before_compute(metrics)
        values: dict[str, Tensor] = metrics.compute()
        metrics.reset()
        return values

    # Checks.

    def _chosen_rule(self, rule: str | None) -> str:
        task = self.lead
        if not isinstance(task, ScoringTask | TextGeneration):
            raise InputError(f"{type(task).__name__} has no scores that could be combined; make it a ScoringTask.")
        allowed = list(task.rules)
        if "tokens" in allowed and len(self.readings) > 1:
            allowed.remove("tokens")
        if rule is not None and rule not in allowed:
            reason = (
                " ('tokens' needs members that share the backbone and read texts alike)" if rule in task.rules else ""
            )
            raise InputError(
                f"rule={rule!r} is given; {type(task).__name__} has {', '.join(map(repr, allowed))} for these members"
                f"{reason}. Give one of them."
            )
        return rule or allowed[0]

    def _checked_weights(self, weights: Sequence[float] | None) -> list[float]:
        count = len(self.members)
        given = [1.0] * count if weights is None else [float(weight) for weight in weights]
        if len(given) != count or min(given) < 0 or not 0 < sum(given) < float("inf"):
            raise InputError(
                f"weights={list(weights or ())} are given for {count} members; give one number >= 0 for each, not "
                "all 0."
            )
        return [weight / sum(given) for weight in given]
