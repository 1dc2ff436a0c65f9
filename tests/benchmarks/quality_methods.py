"""The methods that are compared: variants of this package, PEFT's prefix and LoRA, full fine-tuning, the head alone."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from quality_tasks import QualityTask
from torch import nn

import lightning_prefix as lp
from lightning_prefix.backbone import load_tokenizer
from lightning_prefix.tasks.heads import load_with_head

LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to train.

    Args:
        title: for the report.
        rate: the usual learning rate; the grid is a third of it, it, and three times it.
        make: the task at this learning rate; the head's is that of `QualityTask`.
        needs_peft_prefix: whether it is PEFT's prefix tuning.
        only: tasks on which it runs; all when empty.
    """

    title: str
    rate: float
    make: Callable[[QualityTask, float], lp.PrefixTask]
    needs_peft_prefix: bool = False
    only: Sequence[str] = ()

    @property
    def rates(self) -> list[float]:
        """The grid."""
        return [float(f"{self.rate * factor:.2g}") for factor in (1, 1 / 3, 3)]

    def runs_on(self, name: str, task: QualityTask) -> bool:
        """Whether it can be trained on this task, here."""
        if self.only and name not in self.only:
            return False
        return not self.needs_peft_prefix or (task.can_peft and has_peft_prefix())


class PeerParameters(nn.ParameterList):
    """What another method trains, where a task expects a `Prefix`."""

    def key_parameters(self) -> list[nn.Parameter]:
        return []


class PeerModel(nn.Module):
    """Another method's model where a task expects a `PrefixedModel`.

    Args:
        model: what is called.
        backbone: the transformers model in it.
        trained: parameters without the head's.
    """

    def __init__(self, model: nn.Module, backbone: nn.Module, trained: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.model, self.backbone = model, backbone
        self.prefix = PeerParameters(trained)

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def generate(self, input_ids: torch.Tensor, **options: Any) -> Any:
        return self.model.generate(input_ids=input_ids, **options)


def peer(build: Callable[[Any, QualityTask], tuple[nn.Module, Sequence[nn.Parameter]]]) -> Callable[..., lp.PrefixTask]:
    """Trains what `build` makes of the backbone; data, head, optimiser and schedule are ours."""

    def make(setting: QualityTask, rate: float) -> lp.PrefixTask:
        class PeerTask(setting.task):
            def configure_model(self) -> None:
                if self.model is None:
                    self.head = self.make_head()
                    backbone, _ = load_with_head(self.backbone_name, self.head, self.backbone_options)
                    model, trained = build(backbone, setting)
                    for module in model.modules():  # as ours: no dropout in the frozen model
                        if isinstance(module, nn.Dropout):
                            module.p = 0.0
                    self.model = PeerModel(model, backbone, trained)
                    self._make_metrics()

        return PeerTask(learning_rate=rate, head_learning_rate=setting.head_rate, **setting.options)

    return make


def head_alone(setting: QualityTask, rate: float) -> lp.PrefixTask:
    """The head on the frozen model; the rate is the head's."""
    task = peer(_head_only)(setting, rate)
    task.optimization = replace(task.optimization, head_learning_rate=rate)
    return task


def ours(prefix: lp.PrefixConfig | None) -> Callable[[QualityTask, float], lp.PrefixTask]:
    """This package's method; the task's default prefix when None."""

    def make(setting: QualityTask, rate: float) -> lp.PrefixTask:
        chosen = {} if prefix is None else {"prefix": prefix}
        return setting.task(learning_rate=rate, head_learning_rate=setting.head_rate, **chosen, **setting.options)

    return make


def has_peft_prefix() -> bool:
    """Whether PEFT is here, and its prefix runs; it rides on an argument that transformers 5.24 renamed."""
    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    return version < (5, 24) and importlib.util.find_spec("peft") is not None


def _peft_prefix(text: str | None = None, **options: Any) -> Callable[..., Any]:
    def build(backbone: Any, setting: QualityTask) -> tuple[nn.Module, list[nn.Parameter]]:
        from peft import PrefixTuningConfig, get_peft_model

        kind = "CAUSAL_LM" if issubclass(setting.task, lp.TextGeneration) else "FEATURE_EXTRACTION"
        model = get_peft_model(backbone, PrefixTuningConfig(task_type=kind, num_virtual_tokens=LENGTH, **options))
        if text is not None:
            from peft.tuners.cartridge.utils import initialize_kv_prefix_from_text

            tokenizer = load_tokenizer(setting.options["backbone"])
            initialize_kv_prefix_from_text(model, tokenizer, text=text)
        return model, [parameter for parameter in model.parameters() if parameter.requires_grad]

    return build


def _lora(backbone: Any, setting: QualityTask) -> tuple[nn.Module, list[nn.Parameter]]:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(backbone, LoraConfig(r=8, target_modules=list(setting.linear)))
    return model, [parameter for parameter in model.parameters() if parameter.requires_grad]


def _full(backbone: Any, setting: QualityTask) -> tuple[nn.Module, list[nn.Parameter]]:
    return backbone, list(backbone.float().requires_grad_(True).parameters())


def _head_only(backbone: Any, setting: QualityTask) -> tuple[nn.Module, list[nn.Parameter]]:
    return backbone.requires_grad_(False), []


METHODS = {
    "head": Method(
        title="head alone, frozen model",
        rate=1e-2,
        make=head_alone,
        only=("sst2", "stsb", "xquad", "news"),
    ),
    "default": Method(title="**lightning_prefix, default**", rate=3e-2, make=ours(None)),
    "mlp": Method(title="lightning_prefix, MLP", rate=1e-3, make=ours(lp.MLPPrefixConfig(length=LENGTH))),
    "gated": Method(title="lightning_prefix, gated", rate=3e-2, make=ours(lp.GatedPrefixConfig(length=LENGTH))),
    "peft": Method(title="PEFT prefix, flat", rate=3e-2, make=peer(_peft_prefix()), needs_peft_prefix=True),
    "peft-mlp": Method(
        title="PEFT prefix, MLP", rate=1e-3, make=peer(_peft_prefix(prefix_projection=True)), needs_peft_prefix=True
    ),
    "peft-zero": Method(
        title="PEFT prefix, zero", rate=1e-2, make=peer(_peft_prefix(init_weights="zero")), needs_peft_prefix=True
    ),
    "peft-text": Method(
        title="PEFT prefix, of a text",
        rate=1e-2,
        make=peer(_peft_prefix(text="Continue the conversation with a fitting and natural reply to what was said:")),
        needs_peft_prefix=True,
        only=("dialogue",),  # it refuses encoders
    ),
    "lora": Method(title="LoRA r=8", rate=1e-3, make=peer(_lora)),
    "full": Method(title="full fine-tuning", rate=1e-4, make=peer(_full)),
}
