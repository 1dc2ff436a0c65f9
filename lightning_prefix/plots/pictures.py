"""`Pictures`: all pictures of a trained prefix, from its folder."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from lightning_prefix.backbone import load_tokenizer
from lightning_prefix.data import TextDataModule
from lightning_prefix.data.sources import load_predict_rows
from lightning_prefix.ensemble import Ensemble
from lightning_prefix.errors import InputError
from lightning_prefix.metrics import sentence_chrf
from lightning_prefix.plots.attention import attention_shares, plot_attention_shares, text_norms
from lightning_prefix.plots.classification import plot_confusion_matrix, plot_reliability
from lightning_prefix.plots.curves import plot_learning_curves
from lightning_prefix.plots.lengths import plot_by_length
from lightning_prefix.plots.norms import plot_norms, prefix_norms
from lightning_prefix.plots.words import NearWord, nearest_words, plot_nearest_words
from lightning_prefix.predictor import Predictor
from lightning_prefix.tasks import PrefixTask, TextClassification, TextGeneration
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.heads import NO_LABEL, LanguageModelHead
from lightning_prefix.tasks.labels import labels_of

if TYPE_CHECKING:
    import datasets
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch.utils.data import DataLoader

    Panels = tuple[Figure, NDArray[Any]]
    Panel = tuple[Figure, Axes]

_BATCH = 16
_NO_TEXTS = "no texts are given; give --texts FILE, or --config FILE, a YAML of `fit` whose data are read."
_NO_ROWS = "no rows with labels are given; give --config FILE, a YAML of `fit`, or --data and its options."


class Pictures:
    """All pictures of a trained prefix; each is made when it is asked for.

    What several of them need (the model, the rows, the predictions) is made once.

    Args:
        prefix: folder that `fit` or `save_pretrained` wrote, or a run's, such as lightning_logs/version_0.
        texts: for attention and norms: a file as for `predict`, or the inputs of a `Predictor`; those of `data` when
            None.
        data: where the rows with labels are.
        split: of the data; test when None, or validation where there is no test.
        rows: most rows that are read, drawn at random from a split, >= 1.
        device: where the model runs.
        overrides: arguments of the task to replace, such as `backbone` where it lies elsewhere now.

    Raises:
        InputError: if there is no such folder or file.

    Example:
        >>> import lightning_prefix as lp
        >>> pictures = lp.plots.Pictures("lightning_logs/version_0", texts="new_texts.txt")  # doctest: +SKIP
        >>> figure, axes = pictures.attention()  # doctest: +SKIP
    """

    def __init__(
        self,
        prefix: str | Path,
        texts: str | list[Any] | None = None,
        data: TextDataModule | None = None,
        split: Literal["validation", "test"] | None = None,
        rows: int = 200,
        device: str | torch.device = "cpu",
        **overrides: Any,
    ) -> None:
        path = Path(prefix)
        if not path.is_dir():
            raise InputError(
                f"{prefix} is no folder; give the one that `fit` wrote, such as lightning_logs/version_0/prefix."
            )
        if rows < 1:
            raise InputError(f"rows {rows} is given; it is >= 1.")
        self.folder = path / "prefix" if (path / "prefix").is_dir() else path
        self.data, self.split, self.rows = data, split, rows
        self.device, self.overrides = device, overrides
        self.texts: list[Any] | None = None
        if texts is not None:
            read = load_predict_rows(texts, "text")
            chosen = read.select(range(min(rows, len(read))))
            # a text alone stands for the column of the data, whatever its name
            self.texts = chosen["text"][:] if read.column_names == ["text"] else list(chosen)

    # Pictures.

    def curves(self) -> "Panels":
        """Loss and metrics of training and validation over the steps, from the run's metrics.csv."""
        return plot_learning_curves(self.folder.parent if self.folder.name == "prefix" else self.folder)

    def norms(self) -> "Panels":
        """Norms of keys and values by layer and position; the frozen model's own beside them, where there are texts."""
        norms = prefix_norms(self._task.model.prefix)
        has_texts = self.texts is not None or self.data is not None
        return plot_norms(norms, text_norms(self._task, self._batches_of_texts) if has_texts else None)

    def attention(self) -> "Panels":
        """Share of the attention that goes to the prefix, by layer and head."""
        is_gated = self._task.model.prefix.variant == "gated"
        return plot_attention_shares(attention_shares(self._task, () if is_gated else self._batches_of_texts))

    def words(self) -> "Panel":
        """Words of the vocabulary next to the embeddings of a prompt."""
        return plot_nearest_words(self.nearest_words)

    def confusion(self) -> "Panel":
        """Which classes are taken for which."""
        labels, probabilities = self._classified
        if isinstance(labels[0], list):
            raise InputError("a row has any number of labels, so there is no confusion matrix; see reliability.")
        return plot_confusion_matrix(labels, [row.index(max(row)) for row in probabilities], list(self._class_names))

    def reliability(self) -> "Panels":
        """Whether probabilities can be trusted: of the predicted class, or of each label where there are several."""
        labels, probabilities = self._classified
        if isinstance(labels[0], list):
            pairs = [pair for row in zip(probabilities, labels, strict=True) for pair in zip(*row, strict=True)]
        else:
            rows = zip(labels, probabilities, strict=True)
            pairs = [(max(row), row.index(max(row)) == label) for label, row in rows]
        return plot_reliability([confidence for confidence, _ in pairs], [bool(is_right) for _, is_right in pairs])

    def loss_by_length(self) -> "Panel":
        """Loss of the target's tokens over the length of the source."""
        task = self._writer
        losses = [loss for batch in self._batches for loss in _losses(task, batch)]
        return plot_by_length(self._lengths, losses, "loss of the target (nats per token)")

    def chrf_by_length(self) -> "Panel":
        """ChrF of the texts that are written over the length of the source; as slow as writing them."""
        task, scores = self._writer, []
        for batch in self._batches:
            with torch.inference_mode():
                written = task.write(batch)
            for (text, *_), references in zip(written, batch["references"], strict=True):
                scores.append(max(sentence_chrf(text, reference) for reference in references))
        return plot_by_length(self._lengths, scores, "chrF of the written text (0 to 100)")

    # What they are made of.

    @cached_property
    def nearest_words(self) -> list[list[NearWord]]:
        """The words of `words`."""
        task = self._task
        return nearest_words(task.model, load_tokenizer(task.backbone_name, task.backbone_options))

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor.from_pretrained(self.folder, device=self.device, batch_size=_BATCH, **self.overrides)

    @property
    def _task(self) -> Any:
        task = self._predictor.task
        if isinstance(task, Ensemble):
            raise InputError(
                f"{self.folder} holds an ensemble; give the folder of one of its members for this picture."
            )
        return task

    @property
    def _writer(self) -> TextGeneration:
        task = self._predictor.task
        if not isinstance(task, TextGeneration):
            raise InputError(
                f"the prefix was trained as {type(getattr(task, 'lead', task)).__name__}; pictures by length are for "
                "tasks that write texts: TextGeneration, GenerativeQA, Translation, Dialogue."
            )
        return task

    @cached_property
    def _rows(self) -> tuple["datasets.Dataset", list[Batch]]:
        """The raw rows of the split, and batches of those that are read, on the device."""
        if self.data is None:
            raise InputError(_NO_ROWS)
        if self.data.streaming:
            raise InputError(
                "data.streaming is on, but pictures draw random rows of the whole split. Give texts, or set streaming "
                "to false in the run's config.yaml."
            )
        self.data.serve(self._predictor.task)
        split = self.split or ("test" if self.data.has_test else "validation")
        self.data.setup("test" if split == "test" else "validate")
        loader = self.data.test_dataloader() if split == "test" else self.data.val_dataloader()
        rows: Any = cast("DataLoader[Any]", loader).dataset
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: self.rows]
        chosen = sorted(drawn.tolist())  # rows of like lengths stand together
        rank_zero_info(f"rows with labels: {len(chosen)} of the {len(rows)} of the {split} split")
        encoded = rows.__getitems__(chosen)
        return self.data.raw_rows(split), [*self._collated(self.data, encoded)]

    @property
    def _batches(self) -> list[Batch]:
        return self._rows[1]

    @cached_property
    def _batches_of_texts(self) -> list[Batch]:
        if self.texts is None and self.data is None:
            raise InputError(_NO_TEXTS)
        if self.texts is None:
            return self._batches
        data = self._predictor.data
        batches = self._collated(data, data.encode_inputs(self.texts))
        return [_with_labels(self._task, batch) for batch in batches]

    def _collated(self, data: TextDataModule, rows: Sequence[dict[str, Any]]) -> Iterator[Batch]:
        collate, device = data.collator(), self._predictor.task.device
        for start in range(0, len(rows), _BATCH):
            batch = collate(list(rows[start : start + _BATCH]))
            yield {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

    @property
    def _lengths(self) -> list[int]:
        lengths = (batch.get("prompt_length", batch["attention_mask"].sum(1)) for batch in self._batches)
        return [length for batch in lengths for length in batch.tolist()]

    @cached_property
    def _class_names(self) -> list[str]:
        task = self._predictor.task
        task = task.lead if isinstance(task, Ensemble) else task
        if not isinstance(task, TextClassification):
            raise InputError(
                f"the prefix was trained as {type(task).__name__}; this picture is for TextClassification only."
            )
        return task._label_names()

    @cached_property
    def _classified(self) -> tuple[list[Any], list[list[float]]]:
        """Labels, numbers or lists of zeros and ones, and the probabilities of all classes, of each row."""
        names = self._class_names
        raw, batches = self._rows
        labels_of(self.data, names)
        labels = [label for batch in batches for label in batch["labels"].tolist()]
        inputs = [raw[index] for batch in batches for index in batch["index"].tolist()]
        answers = self._predictor(inputs)
        return labels, [list(answer["probabilities"].values()) for answer in answers]


def _with_labels(task: PrefixTask, batch: Batch) -> Batch:
    """The batch, with labels where the head needs some: what an encoder-decoder writes; of a decoder, one."""
    if not isinstance(task.head, LanguageModelHead):
        return batch
    assert isinstance(task, TextGeneration)  # noqa: S101  # for the type checker
    if task.is_encoder_decoder:
        with torch.inference_mode():
            written = task.generate(**PrefixTask.inputs(task, batch), num_beams=1, num_return_sequences=1).sequences
        labels = written[:, 1:].clone()
        ended = (labels == task.tokenizer.eos_token_id).cumsum(1)
        labels[(ended > 1) | ((ended == 1) & (labels != task.tokenizer.eos_token_id))] = NO_LABEL
        return {**batch, "labels": labels}
    if batch["input_ids"].shape[1] == 1:  # a label follows a token
        batch = {**batch, **{name: pad(batch[name], (0, 1)) for name in ("input_ids", "attention_mask")}}
    labels = torch.full_like(batch["input_ids"], NO_LABEL)
    labels[:, 1] = 0  # logits of one position only
    return {**batch, "labels": labels}


@torch.inference_mode()
def _losses(task: TextGeneration, batch: Batch) -> list[float]:
    """Mean cross-entropy of the target's tokens of each row."""
    assert isinstance(task.head, LanguageModelHead)  # noqa: S101  # for the type checker
    labels = batch["labels"]
    losses = cross_entropy(task(batch), task.head.targets(labels), reduction="none")
    counts = task.head.wanted(labels).sum(1).tolist()
    return [float(row.mean()) for row in torch.split(losses, counts)]
