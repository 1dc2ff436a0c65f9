"""What turns a backbone into scores: its own head, a linear layer on pooled states, or label words."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone import BackboneOptions, PrefixedModel, load_backbone, load_tokenizer
from lightning_prefix.errors import InputError

Pooling = Literal["cls", "mean", "last"]
HeadKind = Literal["auto", "cls", "mean", "last", "verbalizer"]


class Head(nn.Module, ABC):
    """Scores of each row from a prefixed model."""

    auto_class: str
    """The transformers class that the backbone is loaded as."""

    def configuration(self) -> dict[str, Any]:
        """Overrides of the backbone's configuration."""
        return {}

    def attach(self, backbone: Any) -> None:
        """Set what depends on the loaded backbone."""

    @abstractmethod
    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, outputs) from the model's inputs."""


class OwnHead(Head):
    """The sequence-classification head of the model's own class; what the checkpoint lacks of it is trained.

    Args:
        outputs: number of scores.
        problem_type: transformers' word for the task.
    """

    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, outputs: int, problem_type: str) -> None:
        super().__init__()
        self.outputs, self.problem_type = outputs, problem_type

    def configuration(self) -> dict[str, Any]:
        """Number of labels, and the kind of problem."""
        return {"num_labels": self.outputs, "problem_type": self.problem_type}

    def attach(self, backbone: Any) -> None:
        """Decoders find the last token by the padding token; GPT-2-likes have none, so the end token stands in."""
        if backbone.config.pad_token_id is None:
            backbone.config.pad_token_id = backbone.config.eos_token_id

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, outputs)."""
        return cast("Tensor", model(**inputs).logits)


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
        if backbone.config.is_encoder_decoder:
            raise InputError(
                f"head={self.pooling!r} is given for the encoder-decoder {backbone.name_or_path!r}; use head='auto', "
                "its own classification head."
            )
        self.linear = nn.Linear(backbone.config.get_text_config().hidden_size, self.outputs)

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(batch, outputs)."""
        states = model(**inputs).last_hidden_state  # (batch, tokens, hidden)
        pooled = pool(states, inputs["attention_mask"], self.pooling)
        return cast("Tensor", self.linear(pooled.to(self.linear.weight.dtype)))


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
    if isinstance(head, VerbalizerHead) and missing:
        raise InputError(
            f"head='verbalizer' needs a causal language model; {backbone!r} lacks {', '.join(missing[:4])}. "
            "Use head='auto', 'cls' or 'mean' for an encoder."
        )
    head.attach(model)
    return model, missing if isinstance(head, OwnHead) else ()


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
