"""What turns a backbone into scores: its own head, a linear layer on pooled states or tokens, or label words."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone import BackboneOptions, PrefixedModel, load_backbone, load_tokenizer, logits_at
from lightning_prefix.errors import InputError
from lightning_prefix.prefix.precision import Float32Module

Pooling = Literal["cls", "mean", "last"]
HeadKind = Literal["auto", "cls", "mean", "last", "verbalizer"]

NO_LABEL = -100
"""A label that the loss leaves out, as everywhere in transformers."""


class Head(Float32Module, ABC):
    """Scores of each row, or of each token, from a prefixed model."""

    auto_class: str
    """The transformers class that the backbone is loaded as."""

    def scaled(self, outputs: Tensor) -> Tensor:
        """The outputs on the scale of the labels, where the head has a `label_scale`."""
        scale = getattr(self, "label_scale", None)
        return outputs if scale is None else cast("Tensor", scale(outputs))

    def configuration(self) -> dict[str, Any]:
        """Overrides of the backbone's configuration."""
        return {}

    def attach(self, backbone: Any) -> None:
        """Set what depends on the loaded backbone."""

    @abstractmethod
    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, outputs) or (batch, tokens, outputs) from the model's inputs."""

    def split(self, outputs: Tensor, batches: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The outputs of each batch, as if it had been read alone.

        Args:
            outputs: of `forward` for the rows of all batches, one batch after the other, padded to a common width.
            batches: as they are alone.
        """
        ids = [batch["input_ids"] for batch in batches]
        parts = torch.split(outputs, [len(tokens) for tokens in ids])
        if outputs.dim() < 3:
            return list(parts)
        return [part[:, : tokens.shape[1]] for part, tokens in zip(parts, ids, strict=True)]


class LabelScale(nn.Module):
    """deviation * output + mean, so that a head whose outputs are near 0 and 1 learns labels of any size."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, outputs: Tensor) -> Tensor:
        """The same shape."""
        return self.deviation * outputs + self.mean


class OwnHead(Head):
    """The classification head of the model's own class; what the checkpoint lacks of it is trained.

    Args:
        outputs: number of scores.
        problem_type: transformers' word for the task; None where it has none.
        auto_class: the transformers class, such as `AutoModelForTokenClassification`.
    """

    def __init__(
        self, outputs: int, problem_type: str | None = None, auto_class: str = "AutoModelForSequenceClassification"
    ) -> None:
        super().__init__()
        self.outputs, self.problem_type, self.auto_class = outputs, problem_type, auto_class

    def configuration(self) -> dict[str, Any]:
        """Number of labels, and the kind of problem."""
        return {"num_labels": self.outputs, "problem_type": self.problem_type}

    def attach(self, backbone: Any) -> None:
        """Decoders find the last token by the padding token; GPT-2-likes have none, so the end token stands in."""
        if backbone.config.pad_token_id is None:
            backbone.config.pad_token_id = backbone.config.eos_token_id

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, outputs), or (batch, tokens, outputs) of a class that scores tokens."""
        return self.scaled(cast("Tensor", model(**inputs).logits))


class PooledHead(Head):
    """A linear layer on the pooled last hidden states.

    Args:
        outputs: number of scores.
        pooling: `cls`: the first token; `mean`: the mean over the tokens; `last`: the last token.
    """

    auto_class = "AutoModel"
    linear: nn.Linear

    def __init__(self, outputs: int, pooling: Pooling) -> None:
        super().__init__()
        self.outputs, self.pooling = outputs, pooling

    def attach(self, backbone: Any) -> None:
        """Make the layer for the backbone's hidden size, in float32."""
        self.linear = _linear_layer(backbone, self.outputs, self.pooling)

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, outputs)."""
        states = model(**inputs).last_hidden_state  # (batch, tokens, hidden)
        pooled = pool(states, inputs["attention_mask"], self.pooling)
        return self.scaled(cast("Tensor", self.linear(pooled.to(self.linear.weight.dtype))))


class TokenHead(Head):
    """A linear layer on the last hidden state of every token.

    Args:
        outputs: number of scores of a token.
    """

    auto_class = "AutoModel"
    linear: nn.Linear

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def attach(self, backbone: Any) -> None:
        """Make the layer for the backbone's hidden size, in float32."""
        self.linear = _linear_layer(backbone, self.outputs, "linear")

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, tokens, outputs)."""
        states = model(**inputs).last_hidden_state  # (batch, tokens, hidden)
        return cast("Tensor", self.linear(states.to(self.linear.weight.dtype)))


class SpanHead(OwnHead):
    """The question-answering head of the model's own class; what the checkpoint lacks of it is trained."""

    def __init__(self) -> None:
        super().__init__(2, auto_class="AutoModelForQuestionAnswering")

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, tokens, 2): logits of the first and of the last token of an answer."""
        outputs = model(**inputs)
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)


class VerbalizerHead(Head):
    """The language model's scores of one word per label, after the text.

    Nothing is added to the backbone: the data's template asks the question, the next token answers it.

    Args:
        backbone: where the tokenizer is.
        words: one word per label, in their order; each is scored by its first token.
        options: how the tokenizer is loaded.
    """

    auto_class = "AutoModelForCausalLM"

    def __init__(self, backbone: str, words: Sequence[str], options: BackboneOptions) -> None:
        super().__init__()
        tokenizer = load_tokenizer(backbone, options)
        ids = [tokenizer(f" {word.strip()}", add_special_tokens=False)["input_ids"][:1] for word in words]
        first = [token for tokens in ids for token in tokens]
        if len(set(first)) < len(words):
            shown = ", ".join(
                f"{word!r} -> {tokenizer.convert_ids_to_tokens(i)}" for word, i in zip(words, ids, strict=True)
            )
            raise InputError(
                f"the label words must begin with different tokens of {backbone!r}, but are {shown}; "
                "choose others with label_words."
            )
        self.register_buffer("word_ids", torch.tensor(first), persistent=False)

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, labels): logits of the label words after each row's last token."""
        last = inputs["attention_mask"].sum(1) - 1
        # logits at the rows' last positions only; the vocabulary is large
        positions, column = torch.unique(last, return_inverse=True)
        logits = model(**inputs, logits_to_keep=positions).logits
        rows = torch.arange(len(last), device=last.device)
        return cast("Tensor", logits[rows, column][:, cast("Tensor", self.word_ids)])


class LanguageModelHead(Head):
    """The model's own language-model head, read at labelled positions only; nothing is added.

    Args:
        is_encoder_decoder: whether targets are the decoder's; else they follow the text in the same row.
    """

    def __init__(self, is_encoder_decoder: bool) -> None:
        super().__init__()
        self.is_encoder_decoder = is_encoder_decoder
        self.auto_class = "AutoModelForSeq2SeqLM" if is_encoder_decoder else "AutoModelForCausalLM"

    def wanted(self, labels: Tensor) -> Tensor:
        """Positions whose logits are needed, (batch, tokens), bool: a decoder's are one before their labels."""
        labelled = labels != NO_LABEL
        if self.is_encoder_decoder:
            return labelled
        return torch.cat([labelled[:, 1:], torch.zeros_like(labelled[:, :1])], dim=1)

    def targets(self, labels: Tensor) -> Tensor:
        """The labels of the wanted positions, (positions,)."""
        labels = labels if self.is_encoder_decoder else labels[:, 1:]
        return labels[labels != NO_LABEL]

    def split(self, outputs: Tensor, batches: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """The logits of each batch's wanted positions."""
        return list(torch.split(outputs, [len(self.targets(batch["labels"])) for batch in batches]))

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(positions, vocabulary): logits of the wanted positions, row by row."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        if self.is_encoder_decoder:
            inputs["decoder_input_ids"] = decoder_inputs(model.backbone, labels)
        with logits_at(model.backbone, self.wanted(labels)):
            return cast("Tensor", model(**inputs, use_cache=False).logits[0])


def decoder_inputs(backbone: Any, labels: Tensor) -> Tensor:
    """What the decoder reads before it writes each label, (batch, tokens), as in the backbone's own loss."""
    if hasattr(backbone, "prepare_decoder_input_ids_from_labels"):
        return cast("Tensor", backbone.prepare_decoder_input_ids_from_labels(labels))
    config = backbone.config  # M2M-100, NLLB and Blenderbot shift within their forward
    shifted = labels.roll(1, dims=1)
    shifted[:, 0] = config.decoder_start_token_id
    return shifted.masked_fill(shifted == NO_LABEL, config.pad_token_id)


def make_head(
    kind: HeadKind,
    outputs: int,
    problem_type: str,
    backbone: str,
    words: Sequence[str],
    options: BackboneOptions,
) -> Head:
    """The head of that kind, before the backbone is loaded."""
    if kind == "auto":
        return OwnHead(outputs, problem_type)
    if kind == "verbalizer":
        return VerbalizerHead(backbone, words, options)
    return PooledHead(outputs, kind)


def load_with_head(backbone: str, head: Head, options: BackboneOptions) -> tuple[Any, Sequence[str]]:
    """The backbone for this head, and the names of its parameters that are to be trained."""
    model, missing = load_backbone(backbone, head.auto_class, options, **head.configuration())
    if isinstance(head, VerbalizerHead | LanguageModelHead) and missing:
        raise InputError(
            f"{backbone!r} is no language model that writes text: it lacks {', '.join(missing[:4])}. Use a causal "
            "language model or an encoder-decoder; for a classification with an encoder, head='auto', 'cls' or 'mean'."
        )
    head.attach(model)
    return model, missing if isinstance(head, OwnHead) else ()


def _linear_layer(backbone: Any, outputs: int, kind: str) -> nn.Linear:
    if backbone.config.is_encoder_decoder:
        raise InputError(
            f"head={kind!r} is given for the encoder-decoder {backbone.name_or_path!r}; use head='auto', its own "
            "classification head."
        )
    return nn.Linear(backbone.config.get_text_config().hidden_size, outputs)


def pool(states: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector per row: (batch, hidden).

    Args:
        states: (batch, tokens, hidden), float.
        attention_mask: (batch, tokens), 1 for text and 0 for padding on the right.
        pooling: `cls`, `mean` or `last`.

    Example:
        >>> pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]), "mean")
        tensor([[2.]])
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1]
    weights = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
