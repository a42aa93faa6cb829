"""Where a model keeps its words, its memory and its weights: one small table per architecture.

This file and its tables (`families.py`) alone know names of modules. Everybody else asks for
"query" or "down".

| word of the field | what it is                            | GPT-2           | Llama              |
|-------------------|---------------------------------------|-----------------|--------------------|
| query, key, value | what attention makes of its input     | attn.c_attn 1/3 | self_attn.q_proj.. |
| qkv               | the three at once (fused or not)      | attn.c_attn     | the three          |
| output            | attention's output projection         | attn.c_proj     | self_attn.o_proj   |
| up, gate, down    | the maps of the feed-forward layer    | mlp.c_fc ..     | mlp.up_proj ..     |
| all-linear        | every linear map of every block       |                 |                    |
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cached_property

from torch import Tensor, nn

from minipeft.doors.door import bottom, walk
from minipeft.doors.layers import check_plain, features, is_linear, is_map
from minipeft.model.described import check_family
from minipeft.model.families import (
    COUNT_OWN_TOKENS,
    FAMILIES,
    NO_FIRST_TOKEN,
    TARGETS,
    TASK_HEADS,
    TINY_TASK_HEADS,
    Family,
    Slice,
)
from minipeft.model.kind import config_of, kind_of
from minipeft.model.libraries import own_modules, own_parameters


@dataclass(frozen=True, eq=False)
class Place:
    """One linear map, or one part of a fused one, where a patch can sit.

    target: as it was asked for, "query".  path: of the linear map.  columns: the output features
    of the part, None for all.  stack, layer: the list of blocks it stands in, the block's number.
    """

    target: str
    path: str
    module: nn.Module
    columns: Tensor | None
    in_features: int
    out_features: int
    stack: str
    layer: int | None


@dataclass(frozen=True, eq=False)
class AttentionSite:
    """An attention layer, which can be given a memory.

    target: "memory" or, for cross-attention, "cross memory".  path, module: of the layer.  stack,
    layer: the list of blocks it stands in, the block's number.  heads, head_width: H of keys and
    values, D.  width: C, features of what enters the layer.
    """

    target: str
    path: str
    module: nn.Module
    stack: str
    layer: int | None
    heads: int
    head_width: int
    width: int
    columns = None  # a patch acts on all of the layer


@dataclass(frozen=True, eq=False)
class EmbeddingSite:
    """A token embedding, which can be given new words.

    path, module: of the embedding.  width: C, features of a word's vector.
    """

    path: str
    module: nn.Module
    width: int
    target = "words"
    stack, layer, columns = "", None, None  # it stands in no block; a patch acts on all of it


Site = AttentionSite | EmbeddingSite


def name_of(place: Place | Site) -> str:
    """<module>.<target>, what tensors and ranks of a patch at this place are called."""
    return f"{place.path}.{place.target.replace('.', '/')}"


def keys_at(place: Place, table: Iterable[str]) -> list[str]:
    """What a table calls this place, its target or the end of its path: the longest name first."""
    keys = [k for k in table if k == place.target or f".{place.path}".endswith(f".{k}")]
    return sorted(keys, key=len, reverse=True)


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """What T5's table adds to the scores of P keys before S tokens: see `Anatomy.relative_bias`."""

    table: nn.Module

    def __call__(self, P: int, T: int, S: int) -> Tensor:
        return self.table.compute_bias(T, P, past_seen_tokens=P + S - T)


class Anatomy:
    """A model's modules by name, doors looked through, and the words of the field for them."""

    def __init__(self, model: nn.Module, family: Family | None = None) -> None:
        config = config_of(model)
        tiny = getattr(config, "kind", None)  # a tiny_transformer has a kind, not a model_type
        self.model, self.config = model, config
        self.kind = kind_of(model)  # "decoder", "encoder" or "encoder-decoder"
        self.model_type = f"tiny-{tiny}" if tiny else getattr(config, "model_type", None)
        self.family = family or next(
            (known for known in FAMILIES if self.model_type in known.model_types), None
        )
        self.heads_count = getattr(config, "num_attention_heads", None) or 1
        self.modules = dict(walk(model))
        self.lists = [path for path, m in self.modules.items() if isinstance(m, nn.ModuleList)]
        if family is not None:
            check_family(self)

    # ---- linear maps ----

    def find(self, targets: Iterable[str], layers: Iterable[int] | None = None) -> list[Place]:
        """The linear maps that the targets name, in the model's order.

        Raises ValueError for a target that matches nothing, or only some of the layers, TypeError
        for one that is no linear map; the sentence lists what there is.
        """
        places = []
        for target in self._spelt_out(targets):
            of_target = self._by_word(target) if self._is_word(target) else self._by_name(target)
            if layers is not None:
                of_target = self._of_layers(of_target, target, set(layers))
            places += of_target
        order = {path: number for number, path in enumerate(self.modules)}
        places.sort(key=lambda place: order[place.path])
        taken = {}
        for place in places:
            for other in taken.setdefault(place.path, []):
                if place.columns is None or other.columns is None or place.target == other.target:
                    raise ValueError(
                        f"The targets {other.target!r} and {place.target!r} both name "
                        f"{place.path}: keep one of them."
                    )
            taken[place.path].append(place)
        return places

    def _spelt_out(self, targets: Iterable[str]) -> Iterator[str]:
        """The targets; for "all-linear" the words that name every linear map of a block, once."""
        for target in targets:
            if target != "all-linear":
                yield target
                continue
            twice = ("query", "key", "value") if self._known_family(target).qkv else ("qkv",)
            spelt = self._targets_here()
            yield from (word for word in TARGETS if repr(word) in spelt and word not in twice)

    def _is_word(self, target: str) -> bool:
        """Is it a word of the field? A model of unknown family may call its modules so itself."""
        if self.family is None and self.matching(f"*.{target}", target):
            return False
        return target in TARGETS

    def _by_word(self, target: str) -> list[Place]:
        family = self._known_family(target)
        places = []
        without = []
        blocks = self.blocks()
        for path, _ in blocks:
            in_block = []
            for name in family.names(target):
                module = name.module if isinstance(name, Slice) else name
                for full in self.matching(f"{path}.{module}"):
                    in_block.append(self._place(target, full, name))
            places += in_block
            if not in_block:
                without.append(path)
        if without:
            targets = ", ".join(self._targets_here())
            some = "no layer" if len(without) == len(blocks) else f"{len(without)} layers lack it"
            raise ValueError(
                f"The target {target!r} is not in this model ({self.model_type}: {some}, "
                f"such as {without[0]}); it has {targets}, or give the name of a module."
            )
        return places

    def _by_name(self, target: str) -> list[Place]:
        """A module's path, the end of it, or a pattern with * in it."""
        paths = self.matching(target, f"*.{target}")
        if not paths:
            raise ValueError(
                f"The target {target!r} matches nothing in this model{self.near(target)}"
            )
        places = [self._place(target, path) for path in paths]
        if not re.search(r"(^|\.)(\d+|\[.*\])(\.|$)", target):  # no layer is named on purpose
            for stack in dict.fromkeys(place.stack for place in places if place.stack):
                have = {place.layer for place in places if place.stack == stack}
                lack = [i for i in range(len(self.modules[stack])) if i not in have]
                if lack:
                    raise ValueError(
                        f"The target {target!r} is in layers {sorted(have)} of {stack} but not in "
                        f"{lack}: name every module you mean, or use layers=."
                    )
        return places

    def matching(self, *patterns: str) -> list[str]:
        """The paths that the first pattern that matches anything matches."""
        for pattern in patterns:
            if pattern in self.modules:
                return [pattern]
            if re.search(r"[*?\[]", pattern):
                paths = [path for path in self.modules if path and fnmatchcase(path, pattern)]
                if paths:
                    return paths
        return []

    def _place(self, target: str, path: str, name: str | Slice | None = None) -> Place:
        module = self.modules[path]
        if is_map(module):
            check_plain(path, module)
        if not is_linear(module):
            raise TypeError(
                f"The target {target!r} names {path}, a {type(module).__name__}: a weights door "
                "needs a linear map (torch.nn.Linear or transformers' Conv1D)."
            )
        parents = [path[: i.start()] for i in re.finditer(r"\.", path)]
        if any(isinstance(self.modules[parent], nn.MultiheadAttention) for parent in parents):
            raise TypeError(
                f"{path} belongs to torch.nn.MultiheadAttention, which reads the weights without "
                "calling the layer, so that a patch there would have no effect."
            )
        columns, (n_in, n_out) = None, features(module)
        if isinstance(name, Slice):
            columns = name.columns(n_out, self.heads_count)
            n_out = len(columns)
        stack, layer = self._where(path)
        return Place(target, path, module, columns, n_in, n_out, stack, layer)

    def _where(self, path: str) -> tuple[str, int | None]:
        """The outermost list of blocks that this path runs through, and the number of the block."""
        for stack in self.lists:
            if path.startswith(stack + "."):
                return stack, int(path[len(stack) + 1 :].split(".")[0])
        return "", None

    def _of_layers(self, places: list[Place], target: str, layers: set[int]) -> list[Place]:
        kept = [place for place in places if place.layer in layers]
        missing = sorted(layers - {place.layer for place in kept})
        if missing:
            have = sorted({place.layer for place in places if place.layer is not None})
            raise ValueError(
                f"The target {target!r} has no layer {missing}; its layers are {have}."
            )
        return kept

    def _targets_here(self) -> list[str]:
        blocks = self.blocks()
        spelt = []
        for target in self.family.targets():
            names = [n.module if isinstance(n, Slice) else n for n in self.family.names(target)]
            if all(any(self.matching(f"{path}.{name}") for name in names) for path, _ in blocks):
                spelt.append(repr(target))
        return spelt

    # ---- words and memory ----

    def attentions(self, layers: Iterable[int] | None = None) -> list[AttentionSite]:
        """The attention layers of all stacks in the model's order, cross-attention included.

        Raises ValueError where attention cannot be extended, or has no such layer.
        """
        family = self._known_family("attention")
        if not family.attention:
            raise ValueError(
                f"{self.model_type} has no memory door: its attention cannot be extended from "
                "outside. Methods of the words and weights doors do work on it: PromptTuning, "
                "PTuning, LoRA, Adapter, IA3, BitFit."
            )
        sites = []
        for path, _ in self.blocks():
            for target, names in (
                ("memory", family.attention),
                ("cross memory", family.cross_attention),
            ):
                for name in names:
                    sites += [
                        self._attention_site(target, p) for p in self.matching(f"{path}.{name}")
                    ]
        if layers is not None:
            have = sorted({site.layer for site in sites})
            missing = sorted(set(layers) - set(have))
            if missing:
                raise ValueError(f"There is no layer {missing} to give a memory; there are {have}.")
            sites = [site for site in sites if site.layer in set(layers)]
        return sites

    def _attention_site(self, target: str, path: str) -> AttentionSite:
        module = self.modules[path]
        config = getattr(module, "config", None) or self.config
        width = getattr(config, "hidden_size", None) or config.width
        heads = next(
            getattr(place, name)
            for name in ("num_heads", "n_heads", "num_attention_heads", "heads")
            for place in (module, config)
            if isinstance(getattr(place, name, None), int)
        )
        named = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
        D = next((getattr(module, n) for n in named if hasattr(module, n)), width // heads)
        groups = getattr(module, "num_key_value_groups", 1)
        return AttentionSite(target, path, module, *self._where(path), heads // groups, D, width)

    def relative_bias(self, site: AttentionSite) -> Callable | None:
        """T5: (P, T, S) -> (1, H, T, P), what it adds to the scores of P keys that stand right
        before S tokens, the last T of which ask. None where positions are no part of attention.
        """
        table = self.modules.get(f"{site.stack}.0{site.path[len(f'{site.stack}.{site.layer}') :]}")
        if not hasattr(table, "compute_bias") or not table.has_relative_attention_bias:
            return None
        return RelativeBias(table)

    def window(self, site: AttentionSite) -> int | None:
        """How many tokens a query of this layer can look at, itself included, counted back from
        it: W of a sliding window; None where it sees all that came before.

        Raises ValueError for attention in chunks, whose borders are places in the text.
        """
        config = getattr(site.module, "config", None) or self.config
        kinds = getattr(config, "layer_types", None)
        kind = kinds[site.layer] if kinds else "sliding" if site.target == "memory" else "full"
        if "chunk" in kind or (not kinds and getattr(config, "attention_chunk_size", None)):
            raise ValueError(
                f"{self.model_type} attends in chunks, whose borders a prefix in PEFT's layout "
                'would move: attach a Prefix of compatibility="minipeft".'
            )
        if "sliding" not in kind:
            return None
        windows = (getattr(at, "sliding_window", None) for at in (site.module, config))
        return next((window for window in windows if window), None)

    def words(self) -> EmbeddingSite:
        """The token embedding; in an encoder-decoder the encoder's."""
        return self.embeddings()[0]

    def embeddings(self) -> list[EmbeddingSite]:
        """Every token embedding, the one first that reads the input.

        Some models keep several which share one matrix; a classifier made of an encoder-decoder
        hands the input to both.
        """
        family = self._known_family("words")
        ends = tuple(f".{name}" for name in family.words)
        paths = [p for p, m in self.modules.items() if f".{p}".endswith(ends)]
        paths = [p for p in paths if hasattr(self.modules[p], "num_embeddings")]
        if not paths:
            raise ValueError(
                f"This model has no token embedding called {' or '.join(family.words) or '?'}: "
                "describe it with attach(..., family=minipeft.Family(..., words=(...)))."
            )
        paths.sort(key=lambda path: ".encoder." not in f".{path}" or ".decoder." in f".{path}")
        modules = [self.modules[path] for path in paths]
        return [
            EmbeddingSite(path, m, m.embedding_dim) for path, m in zip(paths, modules, strict=True)
        ]

    def tables(self, targets: Iterable[str]) -> list[Place]:
        """Embeddings by their names, "words" for those of tokens, as places in the weights door.

        Raises ValueError for a target that names none.
        """
        places = []
        for target in targets:
            if target == "words":
                paths = [site.path for site in self.embeddings()]
            else:
                paths = [p for p in self.matching(target, f"*.{target}") if self._is_table(p)]
            if not paths:
                have = ", ".join(path for path in self.modules if self._is_table(path)) or "none"
                raise ValueError(f"{target!r} is no embedding of this model; it has {have}.")
            places += [self._table(target, path) for path in paths]
        return places

    def tied(self, place: Place) -> list[Place]:
        """The other modules that compute with the matrix of an embedding: the head, as a rule."""
        paths = self.uses()[place.module.weight]
        return [self._table(place.target, path) for path in paths if path != place.path]

    def _is_table(self, path: str) -> bool:
        return isinstance(self.modules[path], nn.Embedding)

    def _table(self, target: str, path: str) -> Place:
        module = self.modules[path]
        size = tuple(module.weight.shape)  # (V, C)
        return Place(target, path, module, None, *size, *self._where(path))

    def position_layers(self) -> list[tuple[str, nn.Module]]:
        """(path, module) where positions are looked up; empty where there are none (T5)."""
        ends = tuple(f".{name}" for name in self._known_family("positions").positions)
        return [(p, m) for p, m in self.modules.items() if ends and f".{p}".endswith(ends)]

    @cached_property
    def limit(self) -> int | None:
        """How many tokens of input the table of positions is for; None where there is no table."""
        if self.family is None:
            return None
        sizes = []
        for _, module in self.position_layers():
            rows = getattr(module, "num_embeddings", None)
            if rows is not None:
                kept = getattr(module, "offset", None)  # rows that no token uses: BART, RoBERTa
                if not isinstance(kept, int):
                    kept = 0 if module.padding_idx is None else module.padding_idx + 1
                sizes.append(rows - kept)
        if self.model_type.startswith("tiny-"):
            sizes = [self.config.positions]
        return min(sizes, default=None)

    def positions(self) -> int | None:
        """How many numbers position_ids may have, from 0; None where there is no table."""
        tables = [m for _, m in self.position_layers() if isinstance(m, nn.Embedding)]
        offsets = [getattr(table, "offset", None) or 0 for table in tables]  # OPT adds 2 by itself
        rows = [t.num_embeddings - o for t, o in zip(tables, offsets, strict=True)]
        return min(rows, default=None)

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
        ask = getattr(self.model, "get_output_embeddings", None)
        head = type(self.modules.get("head")).__name__ == "LanguageHead"
        return self.is_decoder() and (ask() is not None if ask else head)

    def takes_positions(self) -> bool:
        """Must the model be told positions where a row's own tokens are to count, from 0?"""
        takes = "position_ids" in inspect.signature(self.model.forward).parameters
        return takes and self.model_type not in COUNT_OWN_TOKENS

    def is_causal(self, place: Place | Site) -> bool:
        """Does a token at this place know nothing of the tokens that follow it?"""
        if self.is_encoder_decoder():
            return "decoder" in place.stack
        return self.is_decoder()

    def padding(self) -> int:
        """The id of a padding token, or one that does no harm."""
        config = self.config
        return getattr(config, "pad_token_id", None) or 0

    # ---- names for errors ----

    def near(self, target: str) -> str:
        """'; did you mean ...? It has ...' for an error about a name."""
        linear = {re.sub(r"\b\d+\b", "*", p) for p, m in self.modules.items() if is_linear(m)}
        ends = {path.split(".")[-1] for path in linear}
        words = self._targets_here() if self.family else []
        candidates = [word.strip("'") for word in words] + sorted(ends) + sorted(linear)
        near = difflib.get_close_matches(target, candidates, n=3, cutoff=0.6)
        guess = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
        known = ", ".join(words + sorted(linear)) or "no linear map at all"
        return f"{guess} It has {known}."

    # ---- blocks, heads, parameters ----

    def _known_family(self, target: str = "") -> Family:
        if self.family is None:
            what = f"Nobody has told minipeft where {self.model_type or 'this model'}"
            known = ", ".join(name for family in FAMILIES for name in family.model_types)
            names = ", ".join(field.name for field in fields(Family))
            raise ValueError(
                f"{what} keeps its {target or 'blocks'!r} (known: {known}): target a module by its "
                f"name, or describe the model with attach(..., family=minipeft.Family({names}))."
            )
        return self.family

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """(path, block) of all layers of all stacks, in the model's order."""
        family = self._known_family()
        stacks = [p for p in self.lists if any(f".{p}".endswith(f".{s}") for s in family.blocks)]
        if not stacks:
            raise ValueError(
                f"This model has no list of blocks called {' or '.join(family.blocks)}: describe "
                "it with attach(..., family=minipeft.Family(...))."
            )
        numbers = [(s, str(i)) for s in stacks for i in range(len(self.modules[s]))]
        return [(f"{s}.{i}", self.modules[f"{s}.{i}"]) for s, i in numbers]

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
        for path, module in self.modules.items():
            if any(f".{path}".endswith(f".{name}") for name in self._known_family().top):
                if path.rpartition(".")[0] == prefix:
                    modules.append(module)
        parameters = set(self.parameters())
        inside = dict.fromkeys(p for module in modules for p in module.parameters())
        return [p for p in inside if p in parameters]

    def heads(self) -> list[str]:
        """Paths of the task heads (classification, tagging, question answering), if any; in a
        module of one's own, of what stands around the model inside.
        """
        names = [name for name in TASK_HEADS if name in self.modules]
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
        ask = getattr(self.model, "get_output_embeddings", None)
        module = ask() if ask else self.modules.get("head")
        module = bottom(module)
        paths = [path for path, other in self.modules.items() if other is module]
        if not paths:
            raise ValueError("This model has no head: name the modules to train, heads=(...).")
        return paths

    def uses(self) -> dict[nn.Parameter, list[str]]:
        """Every parameter of the model itself -> the modules that use it, the first one first."""
        uses: dict[nn.Parameter, list[str]] = {}
        for path, module in self.modules.items():
            for parameter in module._parameters.values():
                if parameter is not None:
                    uses.setdefault(parameter, []).append(path)
        return uses

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
