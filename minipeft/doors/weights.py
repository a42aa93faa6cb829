"""The doors of a frozen transformer: places where small named patches sit.

A door stands in the module tree where the frozen module stood, and keeps it inside as `base`:

    WeightDoor   a linear map          y = base(x), then every active patch:  y = patch(x, y);
                                       a patch may also change x on its way in:  x = before(x)
    CopyDoor     any small module      y = copy(x) instead of base(x)  (heads, layer norms)

Each door holds patches by *name* (the name given to `attach`). A patch may be off, merged into the
base, or on for some rows of the batch only (`routing`, set by `minipeft.route`). All the rest that
a reader needs is in `forward`.

Shapes: B batch, T tokens, in / out the features of the linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from minipeft.doors.marks import Mark
from minipeft.model.libraries import is_sharded_tensor


class Routing(list):
    """For each row of the batch the names that act on it; shared by all doors of a model.

    known: every layer reads row after row; else followed_rows.py looks first, and sets `verified`.
    """

    def __init__(self, rows: Iterable[tuple[str, ...]], known: bool = True) -> None:
        super().__init__(rows)
        self.known = self.verified = known
        self.uniform = (
            len({frozenset(names) for names in self}) == 1
        )  # so nobody need tell them apart
        self.disjoint = all(len(set(names)) < 2 for names in self)  # no row has two names
        self._row_indices: dict[int, dict[str, Tensor]] = {}

    def row_indices(self, size: int) -> dict[str, Tensor | None]:
        """Name -> the rows that are its, in a first dimension of this size; None: all of them."""
        if self.uniform:
            return dict.fromkeys(self[0])
        if not self.verified:
            raise ValueError(
                "route() has not seen how this model's layers lay out their rows: call the model "
                "itself, not a part of it."
            )
        if size not in self._row_indices:
            if size % len(self):
                raise ValueError(
                    f"route() names {len(self)} rows, but a layer got a batch of {size}: "
                    "give one name per row."
                )
            each, indices = size // len(self), {}
            for i, names in enumerate(self):
                for name in dict.fromkeys(names):
                    indices.setdefault(name, []).extend(range(i * each, (i + 1) * each))
            self._row_indices[size] = {name: torch.tensor(rows) for name, rows in indices.items()}
        return self._row_indices[size]


class Originals:
    """What merging has taken out of a base, to be put back: one for all doors of a model.

    values: base parameter -> its value before the first of the merges that have written over it.
    tensors: module -> its parameters and its buffers, where a trained copy's stand in their place.
    """

    def __init__(self) -> None:
        self.values: dict[nn.Parameter, Tensor] = {}
        self.tensors: dict[nn.Module, tuple[dict, dict]] = {}

    def value(self, parameter: nn.Parameter) -> Tensor:
        """The parameter without what is merged into it."""
        return self.values.get(parameter, parameter).detach()


class Door(nn.Module):
    """A frozen module, `base`, and the named patches that change what comes out of it.

    Reading or tying an attribute goes through to the base (`door.weight`, `door.in_features`,
    `door.nf`), because models look at their layers: T5 asks for `wo.weight.dtype` in every pass.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.patches = nn.ModuleDict()  # name -> patch, in the order they were attached
        self.marks: dict[str, Mark] = {}  # name -> was its patch used? See minipeft.reach
        self.path = ""  # where the door stands
        self.off: set[str] = set()  # names that are attached but disabled
        self.merged: list[str] = []  # names whose effect is inside the base's weights now
        self.originals = Originals()  # the model's, where the door belongs to one
        self.routing: Routing | None = None  # see `route`
        self.training = base.training

    def __getstate__(self) -> dict:
        """A copy of the model is not inside the `route` that this one is in."""
        return {**self.__dict__, "routing": None}

    def add(self, name: str, patch: nn.Module) -> None:
        """Let a patch in under a name that is not taken yet."""
        if name in self.patches:
            raise ValueError(
                f"This door already has a patch named {name!r}: detach it or choose another name."
            )
        self.marks[name] = Mark()
        self.patches[name] = patch.train(self.training)

    def remove(self, name: str) -> None:
        """Take the patch of this name out; may be repeated, also after half of an `add`."""
        self.patches._modules.pop(name, None)
        self.marks.pop(name, None)
        self.off.discard(name)

    def check_merge(self, name: str) -> None:
        """ValueError where the patch of this name cannot be merged as things are."""

    def merge(self, name: str) -> None:
        """The patch acts through the base's own tensors from now on."""
        self.check_merge(name)
        self.merged.append(name)
        self.write()

    def unmerge(self, name: str) -> None:
        """Take the patch out of the base again; one that is not merged is no error."""
        if name in self.merged:
            self.merged.remove(name)
        self.write()

    def write(self) -> None:
        """Let the base's tensors be what `merged` says. May be repeated."""

    def rejoin(self) -> None:
        """Patches that stood aside are where the base is now, and in its mode."""
        module = bottom(self)
        self.training = module.training
        self.patches.train(module.training)
        parameter = next(module.parameters(), None)
        if parameter is not None:
            self.patches.to(parameter.device)

    def blocked(self, name: str) -> str | None:
        """A merged patch before which this one can no longer act; there is none by default."""
        return None

    def is_replaced(self) -> bool:
        """Is the base replaced by a module of a patch (`replacement`)?"""
        return any(
            getattr(patch, "replacement", None) is not None for patch in self.patches.values()
        )

    def active(self, size: int) -> Iterator[tuple[nn.Module, Tensor | None]]:
        """The patches that act now, in order, each with the rows it acts on (None: on every row).

        size: the first dimension of the input. It is a multiple of the routed rows where a model
        folds something into the batch, always row by row: beams (B*beams, T, in), or all tokens
        (B*T, in).
        """
        rows_of = None if self.routing is None else self.routing.row_indices(size)
        for name, patch in self.patches.items():
            if name in self.off or name in self.merged:
                continue
            if rows_of is None or name in rows_of:
                self.marks[name].read = True
                yield patch, None if rows_of is None else rows_of[name]

    def state_dict(self, *args, destination=None, prefix="", keep_vars=False):
        """The base's tensors, by the names they have without the door; see minipeft.state."""
        return self.base.state_dict(
            *args, destination=destination, prefix=prefix, keep_vars=keep_vars
        )

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, *lists) -> None:
        """torch calls it before what `base` and `patches` hold is read from the state.

        What the state lacks is given to it as it is: of the base it is reported as missing.
        """
        base, patches = f"{prefix}base.", f"{prefix}patches."
        for key in [k for k in state if k.startswith(prefix)]:
            if not key.startswith((base, patches)):
                state[base + key.removeprefix(prefix)] = state.pop(key)
        for key, tensor in self.base.state_dict(prefix=base, keep_vars=True).items():
            if key not in state:
                missing.append(prefix + key.removeprefix(base))
                state[key] = tensor
        state |= self.patches.state_dict(prefix=patches, keep_vars=True) | state
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, *lists)

    def __getattr__(self, key: str):
        try:
            return super().__getattr__(key)
        except AttributeError:
            if key in ("base", "patches"):  # not there yet: do not look for it inside itself
                raise
            if key == "weight":
                for mark in self.marks.values():
                    mark.weight_read = True
            return getattr(self.behind(), key)

    def behind(self) -> nn.Module:
        """The layer that answers for what the door itself does not have."""
        return self.base

    def __setattr__(self, key: str, value) -> None:
        base = bottom(self.__dict__.get("_modules", {}).get("base"))
        if (
            base is not None and key in base._parameters
        ):  # tying weights: model.lm_head.weight = embedding.weight
            setattr(base, key, value)
        else:
            super().__setattr__(key, value)


class WeightDoor(Door):
    """A linear map x -> y with patches around it.

    y = base(x); then for each active patch, in the order of attachment, y = patch(x, y).
    A patch sees the input and the output, so one door is enough for LoRA (adds B A x), for an
    adapter behind an output projection (reads y only) and for a rescaling (multiplies y).

    What a patch may have besides `forward(x, y)`:

        before(x) -> x                          the map, and the patches attached before, read this
        delta() -> (out, in)                    it adds delta x: can be merged, in any order
        fold(weight, bias) -> (weight, bias)    it makes another linear map of one: can be merged
        bind_base(frozen)                       it wants to know the weight: frozen() -> (out, in)
        needs_bias = True                       its fold needs a bias that the map has
        changes_weight = False                  its fold leaves the weight alone, even a shared one
        replacement(x, bias) -> y               a module that is called in place of base; or None
        can_group(patches)                      are these S patches so equal that one operation
                                                computes all of them?
        forward_grouped(patches, x, y)          it: each on its own S-th of the rows, x (S, n, T,
                                                in), y (S, n, T, out)

    A base that is a layer norm is welcome too, if its patches only read y.

    x (B, T, in) -> y (B, T, out); any number of dimensions between the first and the last.
    """

    def forward(self, x: Tensor) -> Tensor:
        acting = list(self.active(x.shape[0]))
        if len(acting) > 1 and self.routing is not None and self.routing.disjoint and plain(acting):
            return self.forward_disjoint(x, acting)
        seen = []  # what each patch reads; the last one stands outermost and reads x itself
        for patch, rows in reversed(acting):
            seen.append(x)
            if hasattr(patch, "before"):
                x = on(rows, x, patch.before, x)
        y = self.base_output(x, acting)
        for patch, rows in acting:
            y = on(rows, y, patch, seen.pop(), y)
        return y

    def forward_disjoint(self, x: Tensor, acting: list) -> Tensor:
        """The same where no row has two patches; y is copied once.

        Patches that can be grouped are computed in one operation.
        """
        y = self.base(x)
        order = torch.cat([rows for _, rows in acting]).to(x.device)
        patches = [patch for patch, _ in acting]
        even = len({len(rows) for _, rows in acting}) == 1
        if even and hasattr(patches[0], "forward_grouped") and patches[0].can_group(patches):
            if torch.equal(order, torch.arange(len(x), device=x.device)):  # nothing to sort
                return self.all_grouped(patches, x, y)
            outputs = self.all_grouped(patches, x[order], y[order])
        else:
            rows = [rows.to(x.device) for _, rows in acting]
            outputs = torch.cat([patch(x[i], y[i]) for patch, i in zip(patches, rows, strict=True)])
        return y.index_copy(0, order, outputs)

    @staticmethod
    def all_grouped(patches: list, x: Tensor, y: Tensor) -> Tensor:
        """x (S n, T, in), y (S n, T, out), rows in the order of the S patches."""
        shape = (len(patches), -1)
        y = patches[0].forward_grouped(patches, x.unflatten(0, shape), y.unflatten(0, shape))
        return y.flatten(0, 1)

    def base_output(self, x: Tensor, acting: list) -> Tensor:
        """base(x), or the output of the last of the patches' replacements of the base."""
        replaced = [
            (p.replacement, rows)
            for p, rows in acting
            if getattr(p, "replacement", None) is not None
        ]
        if replaced and replaced[-1][1] is None:
            return replaced[-1][0](x, self.base.bias)
        y = self.base(x)
        for replacement, rows in replaced:
            y = on(rows, y, lambda x, call=replacement: call(x, self.base.bias), x)
        return y

    def check_merge(self, name: str) -> None:
        patch = self.patches[name]
        if not mergeable(patch):
            parts = patch.parts.values() if isinstance(patch, Parts) else [patch]
            kind = next(type(part).__name__ for part in parts if not mergeable(part))
            raise ValueError(
                f"{name!r} cannot be merged: {kind} is no change of a weight matrix (it is not "
                "linear, or has nowhere to go), so leave it attached."
            )
        if getattr(patch, "needs_bias", False) and self.base.bias is None:
            raise ValueError(
                f"{name!r} cannot be merged: it adds a bias, and the base's map has none that it "
                "could be added to, so leave it attached."
            )
        for other, ahead in self.patches.items():
            if other == name:
                break
            if other in self.off or other in self.merged:
                continue
            if not (additive(ahead) and additive(patch)):  # differences commute
                raise ValueError(
                    f"{name!r} cannot be merged: {other!r} acts before it; merge or disable that "
                    "one first."
                )
        for other, patch in self.patches.items():
            alone = other == name or other in self.merged
            if not alone and getattr(patch, "replacement", None) is not None:
                raise ValueError(
                    f"{name!r} cannot be merged into a base that {other!r} replaces: detach "
                    f"{other!r} first."
                )

    def blocked(self, name: str) -> str | None:
        """The merged patch that this one would have to act before, and cannot any more."""
        names = list(self.patches)
        for later in names[names.index(name) + 1 :]:
            both = additive(self.patches[name]) and additive(self.patches[later])
            if later in self.merged and not both:
                return later
        return None

    @torch.no_grad()
    def write(self) -> None:
        """Build the base's weight and bias: the originals, and the patches that are merged.

        Subtracting B A would leave rounding errors, (W + D) - D is not W in floating point.
        """
        base, values = bottom(self), self.originals.values
        parameters = {key: p for key, p in base._parameters.items() if p is not None}
        if not self.merged:
            for parameter in parameters.values():
                if parameter in values:
                    parameter.copy_(values[parameter])
                    del values[parameter]
            return
        for parameter in parameters.values():
            if parameter not in values:
                values[parameter] = parameter.detach().clone()
        # everything is done in fp32 (fp64 for an fp64 base) and rounded once
        # the model may have moved; what stands aside has not
        device = parameters["weight"].device
        wide = torch.promote_types(parameters["weight"].dtype, torch.float32)
        weight, bias = (
            values[parameters[k]].to(device, wide) if k in parameters else None
            for k in ("weight", "bias")
        )
        weight = weight.T if is_transposed(base) else weight  # (out, in)
        for name, patch in self.patches.items():  # in the order of attachment
            if name in self.merged:
                weight, bias = fold(patch.to(device), weight, bias)
        parameters["weight"].copy_(weight.T if is_transposed(base) else weight)
        if bias is not None:
            parameters["bias"].copy_(bias)


class Frozen:
    """Reads the weight of a map, or of a part of it, as it is without what is merged into it.

    name: whose patch is asking.
    """

    def __init__(self, door: WeightDoor, columns: Tensor | None = None, name: str = "") -> None:
        self.door = door
        self.columns = columns
        self.name = name

    def __call__(self) -> Tensor:
        """(out, in), or (out of the part, in)."""
        base = self.door.base
        base = base.answering() if isinstance(base, CopyDoor) else base
        weight = self.door.originals.value(base.weight)
        weight = weight.T if is_transposed(base) else weight
        return weight if self.columns is None else weight[self.columns]

    def base_output(self, y: Tensor) -> Tensor | None:
        """The frozen map's output W0 x, if it follows from the y that the patch was given.

        It can where nobody stands before the patch: then y is W0 x + bias. None otherwise.
        """
        door = self.door
        first = next((name for name in door.patches if name not in door.off), "")
        if first != self.name or door.merged or door.is_replaced() or isinstance(door.base, Door):
            return None
        bias = door.base.bias
        if bias is None:
            return y
        return y - (bias if self.columns is None else bias[self.columns])


def on(rows: Tensor | None, old: Tensor, function, *inputs: Tensor) -> Tensor:
    """`old` with `function(*inputs)` in the given rows; None stands for all rows."""
    if rows is None:
        return function(*inputs)
    rows = rows.to(old.device)
    return old.index_copy(0, rows, function(*(each[rows] for each in inputs)))


def plain(acting: list) -> bool:
    """Do these patches need nothing but x and y?"""
    return all(not hasattr(p, "before") and not getattr(p, "replacement", None) for p, _ in acting)


def additive(patch: nn.Module) -> bool:
    """Does this patch add a difference to the weight, so that its turn does not matter?"""
    if isinstance(patch, Parts):
        return all(map(additive, patch.parts.values()))
    return hasattr(patch, "delta")


def mergeable(patch: nn.Module) -> bool:
    """Can this patch be written into the weight of its map?"""
    if isinstance(patch, Parts):
        return all(map(mergeable, patch.parts.values()))
    return hasattr(patch, "fold") or hasattr(patch, "delta")


def fold(patch: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The linear map (weight (out, in), bias (out,)) that does what map and patch do together."""
    if hasattr(patch, "fold"):
        return patch.fold(weight, bias)
    return weight + patch.delta().to(weight), bias


class CopyDoor(Door):
    """A small module that every name may replace by its own trained copy: a head, a layer norm.

    The last active copy answers for the rows it acts on; rows without one get the base's answer.
    Copies of a half-precision module are float32; the answer is rounded to what the base gives.
    A merged copy lends its tensors to the base, and those attached before it are silent. What else
    is asked of the layer, a weight or another method, is the copy's as well.
    """

    def behind(self) -> nn.Module:
        last = self.answering() if self.routing is None else self.base
        return last if dtype_of(last) == dtype_of(self.base) else self.base

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        active = list(self.active(x.shape[0]))
        if active and active[-1][1] is None:
            return self.copy_output(active[-1][0], x, *args, **kwargs)
        y = self.base(x, *args, **kwargs)
        for copy, rows in active:
            rows = rows.to(x.device)
            y = y.index_copy(0, rows, self.copy_output(copy, x, *args, **kwargs)[rows])
        return y

    def copy_output(self, copy: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
        """copy(x), computed in the dtype of the copy and given in that of the base."""
        wide, narrow = dtype_of(copy), dtype_of(self.base)
        if wide == narrow:
            return copy(x, *args, **kwargs)
        x = x.to(wide) if x.is_floating_point() else x
        return copy(x, *args, **kwargs).to(narrow)

    def active(self, size: int) -> Iterator[tuple[nn.Module, Tensor | None]]:
        later = [self.patches[name] for name in self.after_merged()]
        return ((patch, rows) for patch, rows in super().active(size) if patch in later)

    def last_merged(self) -> str | None:
        """Of the merged copies the one that was attached last: the others are beneath it."""
        return next((name for name in reversed(list(self.patches)) if name in self.merged), None)

    def after_merged(self) -> list[str]:
        """The names of the copies that were attached after the last merged one."""
        names, merged = list(self.patches), self.last_merged()
        return names[names.index(merged) + 1 :] if merged else names

    def answering(self) -> nn.Module:
        """The copy that answers where nothing is routed, or the base."""
        acting = [name for name in self.after_merged() if name not in self.off]
        return self.patches[acting[-1]] if acting else self.base

    def write(self) -> None:
        """Put the tensors of the last merged copy into the base's places, or the old ones back."""
        merged, kept = self.last_merged(), self.originals.tensors
        modules = [module for _, module in walk(bottom(self))]
        if merged:
            for module, copy in zip(modules, self.patches[merged].modules(), strict=True):
                kept.setdefault(module, (dict(module._parameters), dict(module._buffers)))
                for key, tensor in copy._parameters.items():
                    if tensor is not None:  # frozen, so that training another tuner leaves it alone
                        like = kept[module][0][key]
                        now = tensor.detach().to(like.device, like.dtype)
                        module._parameters[key] = nn.Parameter(now, requires_grad=False)
                for key, tensor in copy._buffers.items():
                    if tensor is not None:
                        module._buffers[key] = tensor.to(kept[module][1][key])
            return
        for module in modules:
            parameters, buffers = kept.get(module, ({}, {}))
            for now, old in ((module._parameters, parameters), (module._buffers, buffers)):
                for key, tensor in old.items():
                    if tensor is not None and now[key] is not None:  # the model may have moved
                        tensor.data = tensor.data.to(now[key].device, now[key].dtype)
                    now[key] = tensor
            kept.pop(module, None)


def dtype_of(module: nn.Module) -> torch.dtype:
    """Of a module's first parameter."""
    return next(module.parameters()).dtype


class Parts(nn.Module):
    """Patches of one name on parts of a fused projection: query and value of GPT-2's c_attn, say.

    Every part is a patch of its own and sees the columns of y that belong to it, nothing else.
    x (B, T, in), y (B, T, out) -> (B, T, out).
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.parts = nn.ModuleDict()  # "query" -> patch
        self.spans: dict[str, tuple | None] = {}  # "query" -> (first, last + 1) of its columns

    def add(self, part: str, patch: nn.Module, columns: Tensor, device=None) -> None:
        if part in self.parts:
            raise ValueError(f"The target {part!r} is named twice: name it once.")
        if hasattr(patch, "before"):
            raise ValueError(
                f"{part!r} is a part of a fused map here, so it has no input of its own to change: "
                "target the whole map by the name of its module."
            )
        self.parts[part] = patch
        first, last = int(columns[0]), int(columns[0]) + len(columns)
        straight = columns.tolist() == list(range(first, last))
        self.spans[part] = (first, last) if straight else None  # None: here and there (GPT-NeoX)
        columns = columns.clone().to(device)  # which of the out features
        self.register_buffer(f"{part}_columns", columns, persistent=False)

    def columns(self, part: str) -> Tensor:
        return getattr(self, f"{part}_columns")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.each(y, lambda part, y_part: self.parts[part](x, y_part))

    def each(self, y: Tensor, change: Callable[[str, Tensor], Tensor]) -> Tensor:
        """y with the columns of every part changed: by `change(part, y's columns)`."""
        if None in self.spans.values():
            for part in self.parts:
                columns = self.columns(part)  # (out of this part,)
                y = y.index_copy(-1, columns, change(part, y.index_select(-1, columns)))
            return y
        pieces, end = [], 0  # columns side by side, as in GPT-2: y is put together once
        for part in sorted(self.parts, key=self.spans.__getitem__):
            first, last = self.spans[part]
            pieces += [y[..., end:first], change(part, y[..., first:last])]
            end = last
        return torch.cat([*pieces, y[..., end:]], dim=-1)

    def can_group(self, patches: list[Parts]) -> bool:
        """See WeightDoor: have all of them the same parts, which can be grouped in turn?"""
        if any(type(other) is not Parts or other.spans != self.spans for other in patches):
            return False
        patches_of = {part: [other.parts[part] for other in patches] for part in self.parts}
        return None not in self.spans.values() and all(
            hasattr(every[0], "forward_grouped") and every[0].can_group(every)
            for every in patches_of.values()
        )

    def forward_grouped(self, patches: list[Parts], x: Tensor, y: Tensor) -> Tensor:
        """x (S, n, T, in), y (S, n, T, out), the s-th of `patches` on the s-th of them."""

        def change(part: str, y_part: Tensor) -> Tensor:
            every = [other.parts[part] for other in patches]
            return every[0].forward_grouped(every, x, y_part)

        return self.each(y, change)

    def delta(self) -> Tensor:
        """Weight difference of the whole projection (out, in): the rows of other parts are zero."""
        whole = None
        for part, patch in self.parts.items():
            delta = patch.delta()  # (out of this part, in)
            if whole is None:
                whole = delta.new_zeros(self.out_features, delta.shape[1])
            whole = whole.index_add(0, self.columns(part), delta)
        return whole

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Each part folds into its own rows of the weight (out, in) and of the bias (out,)."""
        for part, patch in self.parts.items():
            columns = self.columns(part)
            bias_part = None if bias is None else bias[columns]
            rows, bias_part = fold(patch, weight[columns], bias_part)
            weight = weight.index_copy(0, columns, rows)
            bias = None if bias is None else bias.index_copy(0, columns, bias_part)
        return weight, bias


def bottom(module: nn.Module | None) -> nn.Module | None:
    """The frozen module behind a door, or behind two: a patched layer may be copied as well."""
    while isinstance(module, Door):
        module = module.base
    return module


def is_transposed(linear: nn.Module) -> bool:
    """True for GPT-2's Conv1D: its weight is (in, out), and it computes x W instead of x W^T."""
    return type(linear).__name__ == "Conv1D"


def is_linear(module: nn.Module) -> bool:
    """Can a WeightDoor stand here? torch's Linear and transformers' Conv1D."""
    return isinstance(module, nn.Linear) or is_transposed(module)


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


def is_map(module: nn.Module) -> bool:
    """Is this a linear map, or one that another library has quantized?"""
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return is_linear(module) or all(isinstance(size, int) for size in sizes)


def features(linear: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear map, whichever way it keeps its weight."""
    first, second = linear.weight.shape
    return (first, second) if is_transposed(linear) else (second, first)


def walk(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of the model as it was before anything was attached: doors are looked through.

    A module that hangs in two places is named once, by the first.
    """
    seen: set[int] = set()

    def visit(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        module = bottom(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield path, module
        for key, child in module._modules.items():
            if child is not None:
                yield from visit(child, f"{path}.{key}" if path else key)

    return visit(model, path)


def doors(model: nn.Module) -> list[Door]:
    """Every door that stands in the model."""
    return [module for module in model.modules() if isinstance(module, Door)]
