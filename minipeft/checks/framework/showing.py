"""A failing case in a few short lines: what came in, what is wanted, what was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minipeft.checks.framework.cases import OMIT, Case
from minipeft.checks.framework.comparing import Difference, place_of_first

WRITTEN_OUT = 12  # a tensor of so many numbers is written out


def show(value: Any, most: int = WRITTEN_OUT) -> str:
    """A value in one short line."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return _tensor(value, most)
    if isinstance(value, nn.Parameter):
        return f"a parameter {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, torch.Generator):
        return "a generator"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {show(v, 4)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        inside = [show(v, 4) for v in value[:8]] + ["..."] * (len(value) > 8)
        return ("[" + ", ".join(inside) + "]")[:200]
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {first_line(value)}"
    if value is None or isinstance(value, str | int | bool):
        return repr(value)[:200]
    return f"a {type(value).__name__}" if len(repr(value)) > 60 else repr(value)


def with_article(name: str) -> str:
    """ "a list", "an int" """
    return f"{'an' if name[:1] in 'aeiou' or name == 'ndarray' else 'a'} {name}"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _tensor(value: Tensor, most: int) -> str:
    shape = f"({', '.join(map(str, value.shape))})"
    kind = "" if value.dtype in (torch.float32, torch.int64) else f" {short(value.dtype)}"
    if value.numel() > most:
        start = ", ".join(_number(n) for n in value.flatten()[: min(4, most)].tolist())
        return f"{shape}{kind} {start}, ..."
    return f"{shape}{kind} {_nested(value.tolist())}" if value.dim() else _number(value.item())


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_nested, value)) + "]"
    return _number(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(dtype: torch.dtype) -> str:
    """ "bfloat16" """
    return str(dtype).removeprefix("torch.")


def conditions(case: Case, axes: Mapping[str, tuple]) -> str:
    """The options of a case that are not plain: "T=1, causal=True"."""
    words = []
    for name, values in axes.items():
        if case[name] is values[0]:
            continue
        if name == "layout":
            kinds = {"strided": "inputs not contiguous in memory", "expanded": "expanded inputs"}
            words.append(kinds[case[name]])
        elif name == "magnitude":
            words.append("large numbers")
        elif name == "phase":
            words.append("in eval mode")
        elif name == "gradients":
            words.append({"frozen": "inputs without gradient", "off": "no_grad"}[case[name]])
        elif case[name] is OMIT:
            words.append(f"{name} left out")
        else:
            value = case[name]
            words.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return ", ".join(words)


def small_case(
    case: Case, axes: Mapping[str, tuple], inputs: Mapping[str, Any], difference: Difference
) -> str:
    """The lines that are shown below a sentence."""
    given_in = [f"{name} = {show(value)}" for name, value in inputs.items()]
    options = conditions(case, axes)
    lines = [f"  the smallest case{f' ({options})' if options else ''}:"]
    lines += [f"    {text}" for text in given_in[:8]]
    wanted, given = difference.wanted, difference.given
    where = f" {difference.where}" if difference.where else ""
    if difference.kind.startswith("gradient"):
        where = f" gradient of {difference.where}"
    if isinstance(wanted, Tensor) and isinstance(given, Tensor) and wanted.shape == given.shape:
        if wanted.numel() > WRITTEN_OUT and not isinstance(wanted, nn.Parameter):
            place = place_of_first(wanted, given)
            spot = ", ".join(map(str, place))
            return "\n".join(
                [
                    *lines,
                    f"  wanted{where} at [{spot}]: {_number(wanted[place].item())}",
                    f"  given{where} at [{spot}]:  {_number(given[place].item())}",
                ]
            )
    return "\n".join(
        [*lines, f"  wanted{where}: {show(wanted)}", f"  given{where}:  {show(given)}"]
    )
