"""Linear maps, whichever library wrote them: where a WeightDoor can stand, and what it reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.model.libraries import is_sharded_tensor


def is_transposed(linear: nn.Module) -> bool:
    """True for GPT-2's Conv1D: its weight is (in, out), and it computes x W instead of x W^T."""
    return any(kind.__name__ == "Conv1D" for kind in type(linear).__mro__)  # parametrized or not


def is_linear(module: nn.Module) -> bool:
    """Can a WeightDoor stand here? torch's Linear and transformers' Conv1D."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_map(module: nn.Module) -> bool:
    """Is this a linear map, or one that another library has quantized?"""
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return is_linear(module) or all(isinstance(size, int) for size in sizes)


def features(linear: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear map, whichever way it keeps its weight."""
    first, second = linear.weight.shape
    return (first, second) if is_transposed(linear) else (second, first)


@torch.no_grad()
def is_as_usual(module: nn.Module) -> bool:
    """Does a linear map or a layer norm whose class has a forward of its own turn (1, 2, in) into
    (1, 2, out), as torch's does? Routers of experts give back a pair, grouped maps less.
    """
    usual = next((k for k in (nn.Linear, nn.LayerNorm) if isinstance(module, k)), None)
    if usual is None or type(module).forward is usual.forward:
        return True
    n_in, n_out = features(module) if usual is nn.Linear else (module.weight.numel(),) * 2
    try:
        y = type(module).forward(module, module.weight.new_ones(1, 2, n_in))
    except Exception:  # it wants another shape
        return False
    return isinstance(y, Tensor) and y.shape == (1, 2, n_out)


def check_plain(path: str, module: nn.Module) -> None:
    """Refuse a layer whose own parameters are not plain floating-point numbers, 16 bits or more.

    Those of quantized layers are packed bytes (bitsandbytes), tensors of a class of their own
    (torchao), buffers (GPTQ, AWQ) or eight-bit floats with a scale elsewhere.

    Raises:
        ValueError: the layer is of that kind.
    """
    parameters = {key: p for key, p in module._parameters.items() if p is not None}
    if is_map(module):
        parameters["weight"] = getattr(module, "weight", None)
    for key, value in parameters.items():
        if value is None:
            what = f"has no {key}"
        elif type(value) not in (Tensor, nn.Parameter) and not is_sharded_tensor(value):
            what = f"keeps its {key} as {type(value).__name__}"
        elif not value.is_floating_point() or value.element_size() < 2:
            what = f"keeps its {key} as {str(value.dtype).removeprefix('torch.')}"
        elif key == "weight" and is_map(module) and value.dim() != 2:
            what = f"keeps its weight in the shape {tuple(value.shape)}"
        else:
            continue
        raise ValueError(
            f"{path} is a {type(module).__name__}, which {what}, not as a matrix of floating-point "
            "numbers: load the model unquantized (QLoRA quantizes it by itself), or take a method "
            "of the other doors, such as Prefix or PromptTuning."
        )


def is_adaptable(module: nn.Module) -> bool:
    """Does "all-linear" mean this module? Also one that is quantized, which `check_plain` refuses;
    not one that looks like a linear map but computes something else.
    """
    if not is_map(module):
        return False
    try:
        check_plain("", module)
    except ValueError:
        return True
    return is_linear(module) and is_as_usual(module)


def dtype_of(module: nn.Module) -> torch.dtype | None:
    """Of a module's first parameter; None where torch has quantized it and there is none."""
    return getattr(next(module.parameters(), None), "dtype", None)
