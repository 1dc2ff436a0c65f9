"""The command `backbones`: list those that can carry a prefix, or say what it finds and costs in one."""

import argparse
import textwrap
from collections import Counter

from lightning_prefix.assets.registry import ASSETS
from lightning_prefix.backbone.survey import Survey, model_types, survey
from lightning_prefix.commands.prefixes import variants
from lightning_prefix.commands.table import table
from lightning_prefix.prefix import OutputPrefixConfig

_LENGTH = 20


def run(args: list[str]) -> None:
    """Run the command with these words.

    Raises:
        InputError: if the backbone cannot be found, or cannot carry a prefix.
    """
    parser = argparse.ArgumentParser(
        prog="lightning_prefix backbones",
        description="Without a name, list the backbones that need no hub, and the model types of the installed "
        "transformers whose files call its attention interface. With a name, read that configuration (not the "
        "weights) and say where a prefix stands and what it costs.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="hub id, folder, or asset:minilm-l6")
    name = parser.parse_args(args).name
    print(_described(name) if name else _listed())


def _listed() -> str:
    assets = [(f"asset:{asset.name}", asset.description) for asset in ASSETS.values() if asset.kind == "backbone"]
    lines = ["without a hub:", textwrap.indent(table(assets), "  ")]
    for kind, types in model_types().items():
        names = textwrap.fill(", ".join(types), 100, break_on_hyphens=False)
        lines += [f"\n{kind} of the hub, by model type:", textwrap.indent(names, "  ")]
    return "\n".join([*lines, "\none of them, or your own: python -m lightning_prefix backbones NAME"])


def _described(name: str) -> str:
    prefixes = [
        cls() if cls is OutputPrefixConfig else cls(init="zero", length=_LENGTH)  # type: ignore[call-arg]
        for cls in variants()
    ]
    found = survey(name, prefixes)
    limit = "no limit in its configuration" if found.max_positions is None else f"{found.max_positions:,} tokens"
    rows = [
        ("backbone", name),
        ("model type", f"{found.model_type}, {found.parameters:,} parameters without a head"),
        ("context", limit),
        *_sites(found),
        *(("note", note) for note in found.notes),
        ("prefixes", f"work; trained numbers with length {_LENGTH}:"),
        *((f"  {type(prefix).__name__}", f"{n:,}") for prefix, n in zip(prefixes, found.trained, strict=True)),
    ]
    return table(rows)


def _sites(found: Survey) -> list[tuple[str, str]]:
    """One row for each kind and shape."""
    shapes = Counter((site.kind, site.heads, site.kv_heads, site.key_dim, site.value_dim) for site in found.sites)
    rows = []
    for (kind, heads, kv_heads, key_dim, value_dim), count in shapes.items():
        dims = f"size {key_dim}" if key_dim == value_dim else f"keys of size {key_dim}, values of {value_dim}"
        groups = "" if heads == kv_heads else f" ({kv_heads} of keys and values)"
        rows.append((f"{kind} sites", f"{count}, each with {heads} heads{groups} of {dims}"))
    return rows
