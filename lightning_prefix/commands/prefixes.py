"""The command `prefixes`: list the prefix variants."""

import argparse
import textwrap

import lightning_prefix
from lightning_prefix.commands.configs import first_sentence
from lightning_prefix.prefix import PrefixConfig

_WHERE = """\
per_position: kv_heads * (key_dim + value_dim), summed over the attention sites; heads: summed over them;
input_dim: of an input embedding; output_dim: of the last hidden state.

in numbers, of one backbone: python -m lightning_prefix backbones NAME
one of them: --model.prefix MLPPrefixConfig --model.prefix.length 20
all options: python -m lightning_prefix fit --model.prefix.help MLPPrefixConfig"""


def variants() -> list[type[PrefixConfig]]:
    """The options of all variants of this package."""
    public = (getattr(lightning_prefix, name) for name in lightning_prefix.__all__)
    return [
        cls for cls in public if isinstance(cls, type) and issubclass(cls, PrefixConfig) and cls is not PrefixConfig
    ]


def run(args: list[str]) -> None:
    """Run the command with these words."""
    argparse.ArgumentParser(prog="lightning_prefix prefixes", description="List the prefix variants.").parse_args(args)
    for cls in variants():
        print(
            f"{cls.__name__}\n"
            f"{textwrap.indent(first_sentence(cls), '  ')}\n"
            f"  learning rate  {cls.default_learning_rate:g} by default\n"
            f"  trained        {cls.parameters}\n"
        )
    print(_WHERE)
