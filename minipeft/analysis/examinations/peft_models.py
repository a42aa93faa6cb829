"""A model that 🤗 PEFT has wrapped, as the doctor sees it.

PEFT is not imported: whoever has such a model has loaded it, and its classes are asked for there.

    BaseTunerLayer             around a layer of the base, `get_base_layer()`; its tensors stand in
                               the containers that `adapter_layer_names` lists, by adapter
    ModulesToSaveWrapper       a layer, `original_module`, and its trained copies by adapter
    prompt_encoder             of a PeftModel: what makes soft prompts and prefixes, by adapter
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from minipeft.analysis.examinations.subject import Part, Subject, Target

ANY_NUMBER = re.compile(r"\\d|\[0-9\]|\{[\d,]*\}")  # what a pattern says for any number
NAMED_LAYER = re.compile(r"(?<![A-Za-z_\d])\d")  # 3 in "h.3.attn", not in "fc1"


def classes() -> tuple[type, type, type] | None:
    """PeftModel, BaseTunerLayer and the class of its copies; None where PEFT is not loaded."""
    names = ("peft.peft_model", "peft.tuners.tuners_utils", "peft.utils.other")
    modules = [sys.modules.get(name) for name in names]
    if None in modules:
        return None
    return modules[0].PeftModel, modules[1].BaseTunerLayer, modules[2].AuxiliaryTrainingWrapper


def is_wrapped(model: nn.Module) -> bool:
    """Has PEFT put something around this model, or into it?"""
    known = classes()
    return known is not None and any(isinstance(module, known) for module in model.modules())


class WrappedByPeft(Subject):
    """The adapters of a model that are active."""

    advice = {
        "copy": 'modules_to_save=["{name}"] trains and saves a copy of it',
        "targets": "name every module you mean in target_modules=, or use layers_to_transform=",
        "experts": "name them in target_parameters=",
        "float32": "let get_peft_model keep them in float32 (autocast_adapter_dtype=True) and cast "
        "no model after it was wrapped",
        "reentrant": "call model.enable_input_require_grads(), or checkpoint with "
        'gradient_checkpointing_kwargs={{"use_reentrant": False}}',
        "prompt": "pad on the right, or attach minipeft.PromptTuning, whose words stand right "
        "before the text",
    }

    def __init__(self, model: nn.Module) -> None:
        wrapped, self.Layer, self.Copies = classes()
        self.model, self.whole = model, isinstance(model, wrapped)
        self.inner = model.get_base_model() if self.whole else model
        self.layers = {p: m for p, m in model.named_modules() if isinstance(m, self.Layer)}
        self.wrappers = {p: m for p, m in model.named_modules() if isinstance(m, self.Copies)}
        configs = model.peft_config
        if self.whole:
            active = model.active_adapters
        else:
            active = next(iter(self.layers.values())).active_adapters
        self.active = [name for name in active if name in configs]
        self.configs = [configs[name] for name in self.active]
        self.parts = [*self._parts_of_layers(), *self._copies(), *self._prompts()]
        self.hosts = [part.host for part in self.parts if part.host is not None]
        self.parts = [part for part in self.parts if part.tensors]
        self.prompt = sum(
            config.num_virtual_tokens for config in self.configs if config.is_prompt_learning
        )
        outside = {id(p) for p in self._added()}
        names: dict[nn.Parameter, str] = {}
        for name, parameter in model.named_parameters():
            if id(parameter) not in outside:
                names.setdefault(parameter, name)
        self.base = {name: parameter for parameter, name in names.items()}
        self.stored = self._stored()
        self.in_place = {p for p in self.base.values() if p.requires_grad and p in self.stored}
        self.targets = [t for config in self.configs for t in self._targets_of(config)]
        self.unmatched_copies = self._unmatched_copies()

    # ---- what is new ----

    def _parts_of_layers(self) -> Iterator[Part]:
        for path, layer in self.layers.items():
            if layer.disable_adapters:
                continue
            containers = {name.partition(".")[0] for name in layer.adapter_layer_names}
            for adapter in self.active:
                tensors = {}
                for name, tensor in layer.named_parameters():
                    first, *rest = name.split(".")
                    if first in containers and adapter in rest:
                        tensors[name] = tensor
                scales = getattr(layer, "scaling", {})  # LoRA and its kin have one
                scale = scales.get(adapter, 1.0) if isinstance(scales, dict) else 1.0
                yield Part(path, tensors, layer.get_base_layer(), float(scale), in_weight=True)

    def _copies(self) -> Iterator[Part]:
        for path, wrapper in self.wrappers.items():
            for adapter in self.active:
                copies = getattr(wrapper, "modules_to_save", None)  # else single rows, a layer
                if copies is not None and adapter in copies:
                    begin = f"modules_to_save.{adapter}."
                    tensors = {begin + k: p for k, p in copies[adapter].named_parameters()}
                    original = wrapper.original_module
                    yield Part(path, tensors, original, copy=True, in_weight=not self._ties())

    def _ties(self) -> bool:
        """Does PEFT keep tied what was tied?"""
        return any(getattr(config, "ensure_weight_tying", False) for config in self.configs)

    def _prompts(self) -> Iterator[Part]:
        encoders = self.model.prompt_encoder if self.whole and self._prompted() else {}
        for adapter in self.active:
            if adapter in encoders:
                tensors = dict(encoders[adapter].named_parameters())
                yield Part(f"prompt_encoder.{adapter}", tensors)

    def _prompted(self) -> bool:
        return any(config.is_prompt_learning for config in self.model.peft_config.values())

    def _added(self) -> Iterator[nn.Parameter]:
        """Every parameter that PEFT has put there, of adapters that are not active as well."""
        for layer in self.layers.values():
            for name, tensor in layer.named_parameters():
                if not name.startswith("base_layer."):
                    yield tensor
        for wrapper in self.wrappers.values():
            for name, tensor in wrapper.named_parameters():
                if not name.startswith("original_module."):
                    yield tensor
        if self.whole and self._prompted():
            yield from self.model.prompt_encoder.parameters()

    def _stored(self) -> set[nn.Parameter]:
        """What `save_pretrained` writes: PEFT itself is asked."""
        peft = sys.modules["peft"]
        places = set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in self.active:
                state = peft.get_peft_model_state_dict(
                    self.model, adapter_name=name, save_embedding_layers=False
                )
                places |= {tensor.data_ptr() for tensor in state.values()}
        written = {p for p in self.model.parameters() if p.data_ptr() in places}
        return written | set(self.new.values())

    # ---- what was asked for ----

    def _targets_of(self, config) -> Iterator[Target]:
        """The names that layers were to be found by, with what they matched."""
        names = getattr(config, "target_modules", None)  # prompts have none
        named = getattr(config, "layers_to_transform", None) is not None
        named = named or bool(getattr(config, "exclude_modules", None))
        paths = [path for path in self.layers if not path.endswith(".base_layer")]
        copied = [
            f"{path}.{inner}"
            for path, wrapper in self.wrappers.items()
            for inner, _ in wrapper.original_module.named_modules()
        ]
        if isinstance(names, str):
            layered = NAMED_LAYER.search(ANY_NUMBER.sub("", names))
            yield Target(names, paths, not named and not layered)
        elif names:
            for name in sorted(names):
                matched = [path for path in paths if ends(path, name)]
                if not matched and any(ends(path, name) for path in copied):
                    continue  # it stands in a layer that is trained whole
                layered = any(part.isdigit() for part in name.split("."))
                yield Target(name, matched, not named and not layered)

    def _unmatched_copies(self) -> list[str]:
        names = [n for c in self.configs for n in getattr(c, "modules_to_save", None) or ()]
        if not self.whole or self.configs[0].task_type in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
            names = [n for n in names if n not in ("classifier", "score", "qa_outputs")]  # PEFT's
        return [
            name
            for name in dict.fromkeys(names)
            if not any(ends(path, name) for path in self.wrappers)
        ]

    def modules(self) -> dict[str, nn.Module]:
        base = {}
        inside = tuple(f"{path}." for path in (*self.layers, *self.wrappers))
        for path, module in self.model.named_modules():
            if path in self.layers:
                base[path] = self.layers[path].get_base_layer()
            elif path in self.wrappers:
                base[path] = self.wrappers[path].original_module
            elif not path.startswith(inside) and not path.startswith("prompt_encoder"):
                base[path] = module
        return base

    # ---- switching ----

    @torch.no_grad()
    def untouched(self) -> bool:
        """LoRA's B and AdaLoRA's singular values are 0, and (IA)³'s factors 1, until a step."""
        if self.prompt or any(part.copy for part in self.parts):
            return False
        return bool(self.parts) and all(map(starts_at_identity, self.parts))

    def random_starts(self) -> list[str]:
        trained = any(tensor.requires_grad for tensor in self.new.values())
        starts = [getattr(config, "init_lora_weights", None) for config in self.configs]
        return [
            n for n, start in zip(self.active, starts, strict=True) if trained and start is False
        ]

    @contextmanager
    def disabled(self) -> Iterator[nn.Module]:
        if self.prompt:  # a prompt is given to the model inside, which knows nothing of it
            yield self.inner
            return
        with ExitStack() as stack:
            for layer in (*self.layers.values(), *self.wrappers.values()):
                stack.callback(layer.enable_adapters, not layer.disable_adapters)
                layer.enable_adapters(False)
            yield self.inner

    @contextmanager
    def merged(self) -> Iterator[None]:
        if self.prompt or not self.layers:
            raise ValueError("a prompt is no change of a weight")
        done = []
        try:
            for layer in self.layers.values():
                if not layer.merged:
                    done.append(layer)
                    layer.merge(adapter_names=self.active)
            yield
        except (AttributeError, NotImplementedError) as error:
            raise ValueError("PEFT cannot merge this method") from error
        finally:
            for layer in reversed(done):
                layer.unmerge()

    @torch.no_grad()
    def changes(self) -> Iterator[tuple[Tensor, Tensor, torch.dtype]]:
        for layer in self.layers.values():
            base = layer.get_base_layer()
            weight = getattr(base, "weight", None)  # experts have none
            delta = getattr(layer, "get_delta_weight", None)  # (IA)³ has none
            if delta is None or not isinstance(weight, Tensor) or not weight.is_floating_point():
                continue
            for adapter in self.active:
                if any(adapter in part.split(".") for part, _ in layer.named_parameters()):
                    change = delta(adapter).float()
                    if change.shape == weight.shape:
                        start = weight.float()
                        yield start, start + change, weight.dtype

    def describe(self) -> str:
        kinds = [str(getattr(c.peft_type, "value", c.peft_type)) for c in self.configs]
        return " and ".join(f"{kind} of PEFT" for kind in kinds) or "no adapter that is active"


def ends(path: str, name: str) -> bool:
    """Is it the path of a module of this name?"""
    return f".{path}".endswith(f".{name}")


def starts_at_identity(part: Part) -> bool:
    """Do the tensors of one of PEFT's layers change nothing yet?"""
    last = {"lora_B": 0, "lora_embedding_B": 0, "lora_E": 0, "ia3_l": 1}
    known = [(last[n.partition(".")[0]], t) for n, t in part.tensors.items()
             if n.partition(".")[0] in last]  # fmt: skip
    if any(name.startswith("lora_E") for name in part.tensors):
        known = [(0, t) for name, t in part.tensors.items() if name.startswith("lora_E")]
    return bool(known) and all(bool((tensor == value).all()) for value, tensor in known)
