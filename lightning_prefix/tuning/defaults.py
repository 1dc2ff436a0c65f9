"""The space that is searched where none is given, by the class of the prefix; `configs/tune` has the same as YAMLs."""

from typing import Any

__all__ = ["DEFAULT_SPACES", "PREFIX_SPACE"]

_FLAT_RATE = {"low": 5e-3, "high": 1e-2, "log": True}
_GATED_RATE = {"low": 1e-2, "high": 4e-2, "log": True}
_MLP_RATE = {"low": 5e-5, "high": 1e-4, "log": True}
_LENGTH = {"low": 5, "high": 200, "log": True}
_HIDDEN = {"choices": [512, 800]}

DEFAULT_SPACES: dict[str, dict[str, Any]] = {
    "FlatPrefixConfig": {
        "model.learning_rate": _FLAT_RATE,
        "model.prefix.length": _LENGTH,
        "model.prefix.dropout": {"choices": [0.0, 0.1]},
    },
    "MLPPrefixConfig": {
        "model.learning_rate": _MLP_RATE,
        "model.prefix.length": _LENGTH,
        "model.prefix.hidden_dim": _HIDDEN,
    },
    "GatedPrefixConfig": {"model.learning_rate": _GATED_RATE, "model.prefix.length": _LENGTH},
}
"""Rates and lengths as the papers searched: P-tuning v2 (flat), Li & Liang 2021, table 6 (MLP); gated: as ours."""

PREFIX_SPACE: dict[str, Any] = {
    "model.prefix": {"choices": ["FlatPrefixConfig", "MLPPrefixConfig", "GatedPrefixConfig"]},
    "model.prefix.length": _LENGTH,
    "model.prefix.hidden_dim": {**_HIDDEN, "only_if": {"model.prefix": "MLPPrefixConfig"}},
    "model.learning_rate": [
        {**_FLAT_RATE, "only_if": {"model.prefix": "FlatPrefixConfig"}},
        {**_GATED_RATE, "only_if": {"model.prefix": "GatedPrefixConfig"}},
        {**_MLP_RATE, "only_if": {"model.prefix": "MLPPrefixConfig"}},
    ],
}
"""The variant too, each with its own rates."""
