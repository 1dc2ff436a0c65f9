"""The model card of an ensemble."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_prefix.backbone.card import signed

if TYPE_CHECKING:
    from lightning_prefix.ensemble.ensemble import Ensemble


def ensemble_card(ensemble: "Ensemble", weights: Sequence[float], directory: Path) -> str:
    """The card of a saved ensemble; those of its members are beside them.

    Args:
        ensemble: what was saved.
        weights: of the saved members.
        directory: where it was saved.
    """
    from huggingface_hub import ModelCardData

    task = type(ensemble.lead).__name__
    head = ModelCardData(
        library_name="lightning_prefix",
        pipeline_tag=ensemble.lead.pipeline_tag,
        tags=["prefix-tuning", "lightning", "ensemble", task],
    )
    members = [
        f"| [member_{number}](member_{number}/README.md) | {weight:.4g} |" for number, weight in enumerate(weights)
    ]
    sections = [
        f"---\n{head.to_yaml()}\n---",
        f"# Ensemble of {len(members)} prefixes for {task}",
        f"Their scores are combined by the rule `{ensemble.rule}`; trained with `lightning_prefix`.",
        "## Use\n\n```python\nimport lightning_prefix as lp\n\n"
        f'predict = lp.Predictor.from_pretrained("{directory.as_posix()}")\n```',
        "\n".join(["| member | weight |", "|---|---|", *members]),
    ]
    return signed("\n\n".join(sections))
