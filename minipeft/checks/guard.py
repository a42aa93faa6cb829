"""Notice when a submission replaces functions that its check relies on, or submits the package's.

A picture is taken before the submission runs and compared after the check has run: the functions
and classes of this package, and those of torch and the standard library that checks call. It finds
`torch.allclose = lambda *_, **__: True`. It does not find somebody who puts things back.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType

import torch

PACKAGES = ("minipeft", "tiny_transformer")
CHECKS = "minipeft.checks"
LIBRARIES = (
    "builtins", "copy", "functools", "inspect", "itertools", "json", "math", "os", "random",
    "torch", "torch.autograd", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init",
    "torch.random", "torch.testing",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
SOURCES = tuple(str(ROOT / name) + os.sep for name in PACKAGES)  # where the package's code stands
TORCH = str(Path(torch.__file__).parent)
CLASSES = (torch.Tensor, torch.nn.Module, torch.nn.Parameter, torch.Generator)


def picture() -> dict[str, object]:
    """Name -> what it stands for now, for everything that is watched."""
    seen: dict[str, object] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES:
            seen[name] = module
            _module(seen, name, module)
        elif name in LIBRARIES:
            _module(seen, name, module)
    for kind in CLASSES:
        for key in dir(kind):
            owner = next((c for c in kind.__mro__ if key in vars(c)), None)
            if owner is not None:  # also where the method comes from: one may be put in front
                seen[f"{kind.__module__}.{kind.__qualname__}.{key}"] = vars(owner)[key]
    return seen


def replaced(before: dict[str, object]) -> str | None:
    """The name of something that is not what it was; None when all is as before."""
    for name, value in before.items():  # first, since what follows needs them
        place, _, key = name.partition(".")
        if place == "builtins" and vars(builtins).get(key) is not value:
            setattr(builtins, key, value)
            return name
    now = picture()
    for name, value in before.items():
        if name not in now or (now[name] is not value and not _wrapped_by_torch(name, now[name])):
            return name.partition(" ")[0]
    return None


def _wrapped_by_torch(name: str, value: object) -> bool:
    """torch wraps some of its functions itself when its compiler is loaded."""
    return (
        name.startswith("torch.")
        and isinstance(value, FunctionType)
        and value.__code__.co_filename.startswith(TORCH)
    )


def _module(seen: dict[str, object], name: str, module: ModuleType) -> None:
    for key, value in list(vars(module).items()):
        if isinstance(value, (FunctionType, BuiltinFunctionType, type)) or (
            name.startswith(CHECKS) and isinstance(value, (int, float, str, tuple))
        ):
            seen[f"{name}.{key}"] = value
        if name.partition(".")[0] in PACKAGES:
            if isinstance(value, FunctionType):
                _function(seen, f"{name}.{key}", value)
            elif type(value).__module__.startswith(CHECKS):
                _instance(seen, f"{name}.{key}", value)
            elif isinstance(value, type) and value.__module__ == name:
                for part, method in list(vars(value).items()):
                    if isinstance(method, (FunctionType, property, classmethod, staticmethod)):
                        seen[f"{name}.{key}.{part}"] = method
                    if isinstance(method, FunctionType):
                        _function(seen, f"{name}.{key}.{part}", method)


def _instance(seen: dict[str, object], name: str, value: object) -> None:
    """A check: its methods, also when one is put in front of them, and what it tries."""
    for part in dir(type(value)):
        method = getattr(type(value), part)
        if isinstance(method, FunctionType):
            seen[f"{name}.{part}"] = vars(value).get(part, method)
    for part, held in list(vars(value).items()):
        if isinstance(held, (tuple, str, int, float, FunctionType)):
            seen[f"{name}.{part}"] = held


def _function(seen: dict[str, object], name: str, function: FunctionType) -> None:
    seen[f"{name} code"] = function.__code__
    seen[f"{name} defaults"] = function.__defaults__
    seen[f"{name} keywords"] = function.__kwdefaults__


def part_of_package(candidate, original, blanked: set[str]) -> str:
    """Which part of the candidate is the package's: "" none, ".forward" a method, or all of it."""
    if candidate is original:
        return " itself"
    if not isinstance(candidate, type):
        return " itself" if _of_package(candidate) else ""
    for method in sorted(blanked):
        if _of_package(getattr(candidate, method, None)):
            return f".{method}"
    return ""


def _of_package(value) -> bool:
    while not isinstance(value, FunctionType):
        if isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, property):
            value = value.fget
        else:
            value = getattr(value, "__func__", None) or getattr(value, "__wrapped__", None)
            if value is None:
                return False
    return value.__code__.co_filename.startswith(SOURCES)
