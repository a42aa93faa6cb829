"""Which parts of a model come from transformers or tiny_transformer, and which are one's own."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping

from torch import Tensor, nn

from tiny_transformer.models import EncoderDecoder, Stack

LIBRARIES = ("transformers", "tiny_transformer")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what torch.compile, DataParallel or DistributedDataParallel gave back.

    Tuners are remembered by the model itself, whoever stands around it.
    """
    while True:
        inner = model._modules.get("_orig_mod")  # of torch.compile; its class is slow to import
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def is_tiny(model: nn.Module) -> bool:
    """A model of tiny_transformer, or of a subclass?"""
    return isinstance(model, Stack | EncoderDecoder)


def is_sharded(model: nn.Module) -> bool:
    """Does FSDP2 keep the model in pieces, so that a forward pass needs every process?"""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def is_sharded_tensor(tensor: Tensor) -> bool:
    """Are its numbers spread over processes?"""
    spread = sys.modules.get("torch.distributed.tensor")
    return spread is not None and isinstance(tensor, spread.DTensor)


def is_library_model(module: nn.Module) -> bool:
    """A model of transformers or of tiny_transformer, or a subclass of one?"""
    if is_tiny(module):
        return True
    hub = sys.modules.get("transformers.modeling_utils")
    return hub is not None and isinstance(module, hub.PreTrainedModel)


def is_of_library(kind: type) -> bool:
    """Was this class written there?"""
    return kind.__module__.partition(".")[0] in LIBRARIES


def own_modules(modules: Mapping[str, nn.Module]) -> list[str]:
    """Paths of what somebody put around a model of a library: heads, as a rule.

    modules: of the whole, by path. Empty for a model of a library as it is, and where nothing of a
    library is inside. What shares its numbers with the model inside belongs to that one.
    """
    model = modules[""]
    inside = [path for path, module in modules.items() if path and is_library_model(module)]
    if is_of_library(type(model)) or not inside:
        return []
    known = {id(p) for path in inside for p in modules[path].parameters()}
    theirs = names_of_library(type(model))
    paths: list[str] = []
    for path, module in modules.items():
        if not path or path.partition(".")[0] in theirs or lies_in(path, [*inside, *paths]):
            continue
        around = any(body.startswith(f"{path}.") for body in inside) or is_loose(module)
        parameters = {id(p) for p in module.parameters()}
        if parameters and not around and not parameters & known:
            paths.append(path)
    return paths


def unknown_head(modules: Mapping[str, nn.Module]) -> str | None:
    """Where all of a model is one's own: its last layer, if that is a linear map."""
    if any(is_library_model(module) for module in modules.values()):
        return None
    layers = [path for path, module in modules.items() if path and module._parameters]
    return layers[-1] if layers and isinstance(modules[layers[-1]], nn.Linear) else None


def own_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Numbers that stand in no layer, but beside the model of a library, by name."""
    inside = [path for path, module in modules.items() if path and is_library_model(module)]
    if is_of_library(type(modules[""])):
        return {}
    around = {""} | {body[:i] for body in inside for i, sign in enumerate(body) if sign == "."}
    layers = [*inside, *own_modules(modules)]
    around |= {path for path, m in modules.items() if is_loose(m) and not lies_in(path, layers)}
    return {
        f"{path}.{key}" if path else key: parameter
        for path in around
        if inside and not lies_in(path, inside)
        for key, parameter in modules[path]._parameters.items()
        if parameter is not None
    }


def is_loose(module: nn.Module) -> bool:
    """Is it never called, but read, such as an nn.ParameterList, or does it hold such a part?"""
    if type(module).forward is not nn.Module.forward:
        return False
    return bool(module._parameters) or any(map(is_loose, filter(None, module._modules.values())))


def lies_in(path: str, places: list[str]) -> bool:
    """Is this one of the modules at these paths, or inside one of them?"""
    return any(f"{path}.".startswith(f"{place}.") for place in places)


def names_of_library(kind: type) -> set[str]:
    """The parts that a class has from the library's class that it inherits from."""
    theirs = [each for each in kind.__mro__ if is_of_library(each)]
    sources = [inspect.getsource(each.__init__) for each in theirs if "__init__" in vars(each)]
    return set(re.findall(r"self\.(\w+)\s*=", "\n".join(sources)))
