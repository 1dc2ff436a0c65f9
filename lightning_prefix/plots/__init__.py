"""Pictures of training, of what a prefix does, and of its predictions; they need `lightning-prefix[plot]`."""

from lightning_prefix.plots.attention import attention_shares, plot_attention_shares, text_norms
from lightning_prefix.plots.classification import (
    calibration,
    confusion_matrix,
    plot_confusion_matrix,
    plot_reliability,
)
from lightning_prefix.plots.curves import plot_learning_curves, read_curves
from lightning_prefix.plots.lengths import by_length, plot_by_length
from lightning_prefix.plots.norms import plot_norms, prefix_norms
from lightning_prefix.plots.pictures import Pictures
from lightning_prefix.plots.words import nearest_words, plot_nearest_words

__all__ = [
    "Pictures",
    "attention_shares",
    "by_length",
    "calibration",
    "confusion_matrix",
    "nearest_words",
    "plot_attention_shares",
    "plot_by_length",
    "plot_confusion_matrix",
    "plot_learning_curves",
    "plot_nearest_words",
    "plot_norms",
    "plot_reliability",
    "prefix_norms",
    "read_curves",
    "text_norms",
]
