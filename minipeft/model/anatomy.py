"""Where a model keeps its words, its memory and its weights: one small table per architecture.

This room and its tables (families.py) alone know names of modules. Everybody else asks for "query"
or "down": linear_maps.py finds these, attention_layers.py what can be given a memory, embeddings.py
what is looked up; names.py has what all of them begin with.

| word of the field | what it is                            | GPT-2           | Llama              |
|-------------------|---------------------------------------|-----------------|--------------------|
| query, key, value | what attention makes of its input     | attn.c_attn 1/3 | self_attn.q_proj.. |
| qkv               | the three at once (fused or not)      | attn.c_attn     | the three          |
| output            | attention's output projection         | attn.c_proj     | self_attn.o_proj   |
| up, gate, down    | the maps of the feed-forward layer    | mlp.c_fc ..     | mlp.up_proj ..     |
| all-linear        | every linear map of every block       |                 |                    |
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from minipeft.doors.layers import check_plain, features, is_as_usual, is_linear, is_map
from minipeft.model.attention_layers import AttentionLayers
from minipeft.model.embeddings import Embeddings
from minipeft.model.families import FAMILIES, NO_FIRST_TOKEN, TASK_HEADS, TINY_TASK_HEADS
from minipeft.model.family import Family
from minipeft.model.family_check import check_family
from minipeft.model.kind import head_of
from minipeft.model.libraries import own_modules, own_parameters
from minipeft.model.linear_maps import LinearMaps
from minipeft.model.sites import Place, Site


class Anatomy(LinearMaps, AttentionLayers, Embeddings):
    """A model's modules by name, doors looked through, and the words of the field for them."""

    def __init__(self, model: nn.Module, family: Family | None = None) -> None:
        super().__init__(model, family)
        if family is not None:
            check_family(self)
            self.kind = family.kind or self.kind

    def is_listed(self) -> bool:
        """Is its family one of minipeft.model.families?"""
        return self.family in FAMILIES

    def rowless(self) -> list[nn.Module]:
        """Modules in which layers read what belongs to no row of the batch."""
        ends = tuple(f".{name}" for name in self.family.rowless) if self.family else ()
        return [m for p, m in self.modules.items() if ends and f".{p}".endswith(ends)]

    def is_encoder_decoder(self) -> bool:
        return self.kind == "encoder-decoder"

    def is_decoder(self) -> bool:
        """Causal, so that prompts to be continued are padded on the left."""
        return self.kind == "decoder"

    def is_encoder(self) -> bool:
        """Every token sees every token."""
        return self.kind == "encoder"

    def has_first_token(self) -> bool:
        """Do rows begin with a token that heads read, [CLS]? Not in T5's encoder."""
        return self.is_encoder() and self.model_type not in NO_FIRST_TOKEN

    def writes(self) -> bool:
        """A decoder with a language head: what has labels in a row is what it writes."""
        head = type(self.modules.get("head")).__name__ == "LanguageHead"  # of a tiny_transformer
        return self.is_decoder() and (head or self.output_embedding() is not None)

    def is_causal(self, place: Place | Site) -> bool:
        """Does a token at this place know nothing of the tokens that follow it?"""
        if self.is_encoder_decoder():
            return "decoder" in place.stack
        return self.is_decoder()

    def biased(self, maps: bool, norms: bool, layers: Iterable[int] | None = None) -> list[Place]:
        """Linear maps and layer norms that have a bias, task heads left out, in the model's order.

        maps, norms: which of the two.  layers: only those in these blocks; None for all there are.
        """
        heads, places = tuple(f"{head}." for head in self.heads()), []
        for path, module in self.modules.items():
            norm = isinstance(module, nn.LayerNorm)
            wanted = (maps and is_map(module)) or (norms and norm)
            if not wanted or getattr(module, "bias", None) is None or f"{path}.".startswith(heads):
                continue
            check_plain(path, module)
            if not (norm or is_linear(module)):
                continue
            if not is_as_usual(module):
                raise ValueError(
                    f"{path} is a {type(module).__name__}, whose bias is not added to the features "
                    "as torch's is: take LoRA, or name the maps, BitFit(targets=(...))."
                )
            stack, layer = self._where(path)
            if layers is None or layer in layers:
                size = (module.bias.numel(),) * 2 if norm else features(module)
                places.append(Place("bias", path, module, None, *size, stack, layer))
        missing = set(layers or ()) - {place.layer for place in places}
        if missing and places:
            raise ValueError(f"There are no biases in layer {sorted(missing)}: leave it out.")
        return places

    def norms(self, layers: Iterable[int] | None = None) -> list[str]:
        """Paths of the layer norms in and around the blocks, not of a head's; with `layers`, of
        those inside these blocks only.
        """
        family, blocks = self._known_family("norms"), [path for path, _ in self.blocks()]
        roots = [path for path in blocks if layers is None or self._where(path)[1] in layers]
        if layers is None:  # what the stacks stand in: "", "bert", "bert.encoder"
            parts = [self._where(path)[0].split(".") for path in blocks]
            roots += dict.fromkeys(".".join(p[:i]) for p in parts for i in range(len(p)))
        paths = {
            full
            for root in roots
            for name in family.norms
            for full in self.matching(f"{root}.{name}" if root else name)
            if any(True for _ in self.modules[full].parameters())  # ModernBERT's first is none
        }
        if not paths:
            raise ValueError(
                "Nobody has told minipeft the layer norms of this model: pass norms=False, or "
                "describe them with attach(..., family=minipeft.Family(..., norms=(...)))."
            )
        return [path for path in self.modules if path in paths]

    def top(self, count: int) -> list[nn.Parameter]:
        """Parameters of the last `count` blocks of the last stack, and of what lies above them."""
        blocks = self.blocks()
        stack = self._where(blocks[-1][0])[0]
        last = [block for block in blocks if self._where(block[0])[0] == stack]
        if count > len(last):
            raise ValueError(f"{stack} has {len(last)} layers, so the top {count} do not exist.")
        modules = [module for _, module in last[-count:]]
        prefix = stack.rpartition(".")[0]  # the norm must belong to the same stack
        ends = tuple(f".{name}" for name in self._known_family().top)
        for path, module in self.modules.items():
            if f".{path}".endswith(ends) and path.rpartition(".")[0] == prefix:
                modules.append(module)
        parameters = set(self.parameters())
        inside = dict.fromkeys(p for module in modules for p in module.parameters())
        return [p for p in inside if p in parameters]

    def heads(self) -> list[str]:
        """Paths of the task heads (classification, tagging, question answering), if any; in a
        module of one's own, of what stands around the model inside. A classifier whose head has
        none of the usual names (XLNet's) has everything beside its body as its head.
        """
        names = [name for name in TASK_HEADS if name in self.modules]
        body = getattr(self.model, "base_model_prefix", None)
        if not names and body in self.modules and head_of(self.model) != "language":
            names = [name for name, _ in self.model.named_children() if name != body]
        names += [path for path in self.own_modules() if path not in names]
        if "head" in self.modules and type(self.modules["head"]).__name__ in TINY_TASK_HEADS:
            names.append("head")
        return [name for name in names if any(True for _ in self.modules[name].parameters())]

    def own_modules(self) -> list[str]:
        """Paths of what somebody put around a model of a library."""
        return own_modules(self.modules)

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Numbers of a module of one's own that stand in no layer, by name."""
        return own_parameters(self.modules)

    def language_head(self) -> list[str]:
        """Path of the module that turns states into logits over words."""
        module = self.output_embedding() or self.modules.get("head")
        paths = [path for path, other in self.modules.items() if other is module]
        if not paths:
            raise ValueError("This model has no head: name the modules to train, heads=(...).")
        return paths

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter of the model itself; a tied one once, none of what was attached."""
        return list(self.uses())

    def parameter_names(self) -> dict[nn.Parameter, str]:
        """Every parameter of the model itself -> its name before anything was attached."""
        names: dict[nn.Parameter, str] = {}
        for path, module in self.modules.items():
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    names.setdefault(parameter, f"{path}.{key}" if path else key)
        return names
