"""The words of the vocabulary that are next to the embeddings of a prompt."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import normalize

from lightning_prefix.backbone import PrefixedModel
from lightning_prefix.errors import InputError
from lightning_prefix.plots.figure import COLOURS, subplots
from lightning_prefix.plots.fonts import use_fonts
from lightning_prefix.prefix import PromptPrefix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class NearWord(NamedTuple):
    """A token of the vocabulary.

    Attributes:
        token: its text, a blank as ␣.
        similarity: cosine of the angle between its embedding and the prompt's.
    """

    token: str
    similarity: float


@torch.no_grad()
def nearest_words(model: PrefixedModel, tokenizer: Any, count: int = 5) -> list[list[NearWord]]:
    """The tokens whose embeddings point most nearly in the direction of each embedding of a prompt, nearest first.

    Many are no words that a person would choose: a trained prompt often lies far from all of them (Khashabi et al.
    2022).

    Args:
        model: its set prefix is a prompt.
        tokenizer: of the backbone.
        count: of tokens for each position, >= 1.

    Returns:
        For each position of the prompt `count` tokens.

    Raises:
        InputError: if the prefix is no prompt.
    """
    prefix = model.prefix
    if not isinstance(prefix, PromptPrefix):
        raise InputError(
            f"the prefix is one of variant {prefix.variant!r}; words are near to the embeddings of a prompt "
            "(PromptPrefixConfig) only."
        )
    backbone: Any = model.backbone
    table = normalize(backbone.get_input_embeddings().weight.float())
    similar, tokens = (normalize(prefix.embeddings.to(table.device)) @ table.T).topk(min(count, len(table)))
    return [
        [NearWord(_shown(tokenizer.decode([token])), cosine) for token, cosine in zip(*row, strict=True)]
        for row in zip(tokens.tolist(), similar.tolist(), strict=True)
    ]


def plot_nearest_words(words: list[list[NearWord]]) -> "tuple[Figure, Axes]":
    """A table of the words, one line for each position of the prompt, coloured by their similarity.

    Args:
        words: of `nearest_words`.
    """
    cosines = [[word.similarity for word in row] for row in words]
    figure, axes = subplots(1, 1, 1.8 + 1.5 * len(words[0]), 1.2 + 0.28 * len(words))
    panel = axes[0, 0]
    image = panel.imshow(cosines, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    for place, row in enumerate(words):
        for rank, word in enumerate(row):
            colour = "white" if word.similarity < 0.5 else "black"
            panel.text(rank, place, word.token, ha="center", va="center", color=colour, fontsize=9, parse_math=False)
    panel.set_xticks(range(len(words[0])), range(1, len(words[0]) + 1))
    panel.set_yticks(range(len(words)))
    panel.set(xlabel="rank", ylabel="position of the prompt", title="nearest tokens of the vocabulary")
    figure.colorbar(image, ax=panel, label="cosine similarity")
    use_fonts(figure)
    return figure, panel


def _shown(text: str) -> str:
    return "".join(
        letter if letter.isprintable() and letter != " " else "␣" if letter == " " else repr(letter)[1:-1]
        for letter in text
    )
