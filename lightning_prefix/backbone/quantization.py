"""Frozen weights in 8 or 4 bits, made by transformers while it loads them."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_prefix.errors import InputError

Quantization = Literal["int8", "nf4", "int8-weight-only"]


def quantization_config(quantization: Quantization, dtype: str) -> Any:
    """What `from_pretrained` takes.

    Args:
        quantization: which.
        dtype: of what is not quantised, in which `nf4` computes too.

    Raises:
        InputError: if a package is missing or too old.
    """
    from transformers import BitsAndBytesConfig, TorchAoConfig
    from transformers.utils import is_accelerate_available, is_bitsandbytes_available, is_torchao_available

    is_torchao = quantization == "int8-weight-only"
    if not (is_accelerate_available() and (is_torchao_available() if is_torchao else is_bitsandbytes_available())):
        package = "torchao" if is_torchao else "bitsandbytes"
        raise InputError(
            f"backbone_options.quantization {quantization!r} is given, for which {package} and accelerate have to be "
            "installed, in versions that this transformers takes: pip install -U 'lightning-prefix[quantization]'."
        )
    if is_torchao:
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    if quantization == "int8":
        # it says at every call of every layer that it computes in float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def keep_missing_layers(model: nn.Module, missing: Sequence[str]) -> None:
    """Ordinary linear layers in place of quantised ones whose weights the file does not bring: they are to be trained.

    Args:
        model: loaded with a quantisation, which changes such layers but not their new weights.
        missing: names of the parameters that the file does not bring.
    """
    for path in dict.fromkeys(name.rpartition(".")[0] for name in missing):
        layer = model.get_submodule(path)
        if isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
            plain.weight, plain.bias = layer.weight, layer.bias
            model.set_submodule(path, plain)


def is_quantized(parameter: Tensor) -> bool:
    """Whether its values are not the weights themselves."""
    return type(parameter).__name__ in ("Params4bit", "Int8Params") or _is_torchao(parameter)


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """The shape of the weights that it stands for."""
    state = getattr(parameter, "quant_state", None)  # of 4-bit weights, which are packed
    return tuple(parameter.shape if state is None else state.shape)


def weights_of(backbone: nn.Module, name: str) -> Tensor:
    """The weights that a parameter of the backbone stands for, rounded."""
    module, _, own = name.rpartition(".")
    owner = backbone.get_submodule(module)
    parameter: Any = getattr(owner, own)
    if _is_torchao(parameter):
        return parameter.dequantize()  # type: ignore[no-any-return]
    if not is_quantized(parameter):
        return parameter  # type: ignore[no-any-return]
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    # int8 scales move there in the first forward
    return dequantize_bnb_weight(parameter, getattr(owner, "state", None))  # type: ignore[no-any-return]


def _is_torchao(parameter: Tensor) -> bool:
    return type(parameter).__module__.startswith("torchao.")
