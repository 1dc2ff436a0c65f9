"""The contract of `tests/contract.py` on PEFT's prefix tuning: which families pass which property.

    pip install '.[test]' && python tests/benchmarks/peft_contract.py

Prints one Markdown table: families that pass of those to which the property applies, ours (from `contract.md`, which
the tests keep up to date) beside PEFT's, and why PEFT's others fail. Models are tiny and random; some minutes on a CPU.
"""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import peft
import torch
import transformers
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from contract import ONCE, PROPERTIES, WITHOUT_CONTROL, Case, NotApplicableError, frozen_fails
from tiny_backbones import BACKBONES, REFUSED

TABLE = Path(__file__).parents[1] / "backbone" / "contract.md"
OURS_ONLY = ("closed gate", "mixed rows", "mixed beams", "packing", "no graph below")


class Peft:
    """PEFT's prefix tuning."""

    configs: ClassVar = {"flat": {}, "mlp": {"prefix_projection": True, "encoder_hidden_size": 8}}

    def wrap(self, backbone: Any, variant: str) -> Any:
        return self._wrap(backbone, 4, **self.configs[variant])

    def _wrap(self, backbone: Any, length: int, **options: Any) -> Any:
        config = peft.PrefixTuningConfig(task_type=_task_type(backbone), num_virtual_tokens=length, **options)
        model = peft.get_peft_model(backbone, config)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for _, parameter in self.trained(model):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        return model

    def trained(self, model: Any) -> list[tuple[str, nn.Parameter]]:
        return list(model.prompt_encoder.named_parameters())

    def disabled(self, model: Any) -> Any:
        return model.disable_adapter()

    def save(self, model: Any, folder: str) -> None:
        model.save_pretrained(folder)

    def load(self, folder: str, backbone: Any) -> Any:
        return peft.PeftModel.from_pretrained(backbone, folder)

    def with_text(self, backbone: Any, text: list[int], layers: Sequence[Any]) -> Any:
        model = self._wrap(backbone, len(text)).eval()
        # (length, layers * 2 * kv_heads * head_dim)
        rows = [tensor[0].transpose(0, 1).flatten(1) for layer in layers for tensor in (layer.keys, layer.values)]
        with torch.no_grad():
            model.prompt_encoder["default"].embedding.weight.copy_(torch.cat(rows, 1))
        return model


def _task_type(backbone: Any) -> str:
    if type(backbone).__name__.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    if backbone.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if backbone.can_generate() else "FEATURE_EXTRACTION"


def judge(family: str, name: str) -> str:
    """`ok`, `-` where it means nothing, or the error."""
    if name in OURS_ONLY:
        return "PEFT has no such feature"
    results = [
        _judge_one(Case(PEFT, family, variant), name) for variant in (["flat"] if name in ONCE else PEFT.configs)
    ]
    return next((result for result in results if result != "ok"), "ok")


def _judge_one(case: Case, name: str) -> str:
    try:
        PROPERTIES[name](case)
    except NotApplicableError:
        return "-"
    except Exception as error:
        return "-" if name not in WITHOUT_CONTROL and frozen_fails(case.family, name) else _first_line(error)
    return "ok"


PEFT = Peft()


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).split("\n")[0]
    return f"{type(error).__name__}: {line[:90]}"


def ours() -> dict[str, dict[str, str]]:
    """Cells of the table that the tests write, by family and property."""
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    names = [cell.strip() for cell in rows[0].strip("|").split("|")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]
    return {family: dict(zip(names, values, strict=True)) for family, *values in cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(BACKBONES))
    parser.add_argument("--properties", nargs="*", default=list(PROPERTIES))
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    mine = ours()
    print(f"PEFT {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}\n")
    print("| property | lightning_prefix | PEFT prefix tuning | PEFT's failures, most frequent first |")
    print("|---|---|---|---|")
    failed: dict[str, list[str]] = {family: [] for family in options.families}
    for name in options.properties:
        results = {family: judge(family, name) for family in options.families}
        own = [mine[family][name] for family in options.families]
        applicable = [r for family, r in results.items() if r != "-" and not mine[family][name].startswith("-")]
        reasons = Counter(result for result in applicable if result != "ok")
        for family, result in results.items():
            failed[family] += [name] if result not in ("ok", "-") and name not in OURS_ONLY else []
        print(
            f"| {name} | {sum(c.startswith('ok') for c in own)}/{sum(c != '' and c[0] != '-' for c in own)} "
            f"| {applicable.count('ok')}/{len(applicable)} "
            f"| {'; '.join(f'{reason} ({count})' for reason, count in reasons.most_common(2))} |".replace("\n", " "),
            flush=True,
        )
    whole = [family for family, names in failed.items() if not names]
    print(f"\nFamilies that pass everything that PEFT has: {', '.join(whole) or 'none'}.")
    print(f"Families refused by lightning_prefix: {', '.join(REFUSED)}; PEFT runs some of them.")


if __name__ == "__main__":
    main()
