"""Name the mistake behind a failing case: what every exercise has in common."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from minipeft.checks.framework.comparing import Difference, as_number, close
from minipeft.checks.framework.showing import first_line, short, show, with_article
from minipeft.checks.framework.trial import View

IN_PLACE = (
    "a leaf Variable that requires grad",
    "a view of a leaf Variable",
    "more than one element of the written-to tensor",
    "modified by an inplace operation",
)
UNFIT = (
    "shapes cannot be multiplied",
    "size mismatch, got input",
    "must match the size",
    "is invalid for input of size",
    "Expected size for first two dimensions",
    "must match except in dimension",
)


MIXED = (
    "expected scalar type",
    "to have the same dtype",
    "must have the same dtype",
    "should have the same dtype",
    "source and destination dtypes match",
)
NEARLY = 5e-3  # part of a number: what is off by less is right to some digits


def by_kind(view: View, name: str, reference: Any, candidate: Any) -> str | None:
    """The sentence for what is wrong besides the numbers; None when only the numbers are."""
    d, trial = view.difference, view.trial
    what = trial.called(d.where)
    match d.kind:
        case "error":
            return _error(d, name, reference, candidate)
        case "no error":
            kind = type(d.wanted).__name__
            return f"{name} gives {show(d.given)} where there is no answer: raise a {kind}"
        case "type":
            return _type(d, what)
        case "parts":
            if isinstance(d.given, dict):
                whole = "the batch" if "labels" in d.given or "input_ids" in d.given else "the dict"
                return f"{whole} has no {', '.join(map(str, d.wanted))}"
            things = f"{len(d.wanted)} thing" + "s" * (len(d.wanted) != 1)
            return f"{what} should be {things}, not {len(d.given)}"
        case "extra parts":
            return f"{what} holds {', '.join(d.wanted)} too, which nobody asked for"
        case "shape":
            relation = same_numbers(d.wanted, d.given)
            if relation:
                return f"{what} {relation}"
            given, right = tuple(d.given.shape), tuple(d.wanted.shape)
            return f"{what} has shape {given}, it should be {right}"
        case "dtype":
            return f"{what} is {short(d.given.dtype)}, it should be {short(d.wanted.dtype)} here"
        case "device":
            return f"{what} is on {d.given.device}, it should be on {d.wanted.device}"
        case "nan":
            return f"{what} contains NaN or infinity"
        case "gradient missing":
            return _no_gradient(d, what)
        case "gradient nan":
            return (
                f"the gradient of {d.where} contains NaN or infinity: does an exponential overflow "
                "on the way, or is 0 divided by 0, which a later nan_to_num or where only covers?"
            )
        case "gradient extra":
            return f"{d.where} gets a gradient, but it must not learn: is a detach missing?"
        case "argument":
            return _changed(d, view)
        case "shared":
            words = f"what is given back is the {d.where} that came in, or a view of it"
            return f"{words}: a new tensor is asked for, such as a clone"
        case "generator":
            return (
                "nothing is drawn from `generator`: draw every random number from `generator`, so "
                "that the next call gets new ones"
            )
        case "random":
            return _random(d, view)
        case "settings":
            return f"{d.where} by {name}, and stay so for the rest of the program: leave them alone"
    return None


def _error(d: Difference, name: str, reference: Any, candidate: Any) -> str:
    error, words = d.given, f"{name} stopped with {type(d.given).__name__}"
    words += f": {first_line(error)}" if first_line(error) else ""
    text = str(error)
    if isinstance(error, NotImplementedError):
        if 'missing the required "forward"' in text:
            return f"{name} has no method forward{_slip(candidate, 'forward')}"
        return f"{words} (this comes from torch or from your own code, not from the exercise)"
    if IN_PLACE[0] in text:
        words = words[:150].rstrip(".")
        return f"{words}: work on a copy, or under torch.no_grad() where it is the one to change"
    if any(part in text for part in IN_PLACE):
        return f"{words[:150]}: an argument is changed in place, work on a copy"
    if isinstance(error, AttributeError) and isinstance(reference, type):
        missing = getattr(error, "name", "") or ""
        if callable(getattr(reference, missing, None)) and not hasattr(candidate, missing):
            return f"{name} has no method {missing}{_slip(candidate, missing)}"
    if isinstance(error, TypeError) and "unexpected keyword argument" in text + words:
        method = text.partition("(")[0].rpartition(".")[2]
        target = getattr(reference, method, reference) if isinstance(reference, type) else reference
        return f"{words}: keep the signature as it was given, {signature(target)}"
    if any(part in text for part in UNFIT):
        words += " (write the shape of each tensor beside its line)"
    if "Boolean value of Tensor with more than one value" in text:
        words += " (between tensors write & and |, with brackets around each comparison)"
    if any(part in text for part in MIXED):
        words += (
            " (two dtypes meet: turn one into the other's with .to, and make every new tensor in "
            "the dtype of what came in)"
        )
    if "cannot be converted" in text and "overflow" in text:
        words += " (take torch.finfo(x.dtype).min, x being what the number is added to)"
    if "does not require grad" in text:
        words += ": do not detach and do not use no_grad"
    if d.wanted is not None:
        words += f"; raise {with_article(type(d.wanted).__name__)} that says what is wrong"
    return words


def signature(function: Any) -> str:
    """ "attend(query, key, value, mask=None, dropout=0.0)" """
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in inspect.signature(function).parameters.values()
    ]
    text = str(inspect.Signature(bare))
    return f"{getattr(function, '__name__', 'it')}{text}"


def _slip(candidate: Any, missing: str) -> str:
    names = (
        [n for n, v in vars(candidate).items() if callable(v)] if inspect.isclass(candidate) else []
    )
    near = difflib.get_close_matches(missing, names, 1, 0.6)
    return (
        f": it has {near[0]}, is that a slip of the pen?" if near else ": write it, named as given"
    )


def _type(d: Difference, what: str) -> str:
    wanted = {Tensor: "a tensor", dict: "a dict", list: "a list", tuple: "a tuple"}
    right = next((w for kind, w in wanted.items() if isinstance(d.wanted, kind)), None)
    right = right or ("None" if d.wanted is None else "a number")
    if isinstance(d.wanted, str):
        right = "a string"
    if isinstance(d.wanted, bool):
        right = "True or False"
    elif isinstance(d.wanted, int) and as_number(d.given) is not None:
        right = "a whole number (an int)"
    if isinstance(d.given, tuple):
        return f"{what} should be {right}, not a tuple of {len(d.given)}"
    if d.given is None:
        return f"{what} should be {right}, not None (is a return missing?)"
    return f"{what} should be {right}, not {with_article(type(d.given).__name__)}"


def _no_gradient(d: Difference, what: str) -> str:
    if d.where == "the result":
        return (
            f"{what if what != 'the result' else 'the answer'} does not require grad, so nothing "
            "below it would learn: do not detach and do not use no_grad"
        )
    return f"{d.where} gets no gradient: do not detach it, and do not make a plain number of it"


def _changed(d: Difference, view: View) -> str:
    if d.where == "the layer itself":
        kept = [name for _, name in d.given.keys() - d.wanted.keys() - {"mode"}]
        if kept:
            return (
                f"the call leaves {', '.join(sorted(kept))} in the layer, a parameter or a buffer "
                "that it did not have: keep nothing, and work everything out anew at each call"
            )
        return "the call changes the layer itself (its parameters, their gradients or its mode)"
    first = d.wanted
    verb = "were" if isinstance(first, list) or d.where.endswith("s") else "was"
    copies = "copies" if isinstance(first, list) else "a copy"
    return f"the {d.where} that came in {verb} changed: work on {copies}"


def _random(d: Difference, view: View) -> str:
    if "generator" in view.inputs and view.inputs["generator"] is not None:
        return (
            f"random numbers come from {d.where}'s global generator: draw every random number "
            "from `generator`"
        )
    return (
        f"{d.where}'s global generator is drawn from or seeded: leave it alone, other parts of the "
        "program count on it"
    )


# -- numbers ---------------------------------------------------------------------------------------


def by_numbers(view: View) -> str | None:
    """How the numbers that were given relate to those that are wanted, if it can be seen."""
    d = view.difference
    what = view.trial.called(d.where)
    if d.kind.startswith("gradient"):
        what = f"the gradient of {d.where}"
    wanted, given = d.wanted, d.given
    if not isinstance(wanted, Tensor) or isinstance(wanted, nn.Parameter):
        return None
    if not isinstance(given, Tensor) or wanted.shape != given.shape or wanted.numel() < 2:
        return None
    wanted, given = wanted.detach().double(), given.detach().double()
    if not (torch.isfinite(wanted).all() and torch.isfinite(given).all()):
        return None
    if (wanted.abs() > 1e6).any():
        return None
    if wanted.any() and not given.any():
        return f"{what} is 0 everywhere"
    if close(wanted, given):  # and yet not to the precision that is asked for
        gap = (given - wanted).abs().max().item()
        return (
            f"{what} is right to some digits only, off by up to {gap:.1g}: is a small number "
            "added, or something turned into float32 on the way?"
        )
    relation = same_numbers(wanted, given) or _factor(wanted, given) or _rows(wanted, given)
    return f"{what} {relation}" if relation else None


def same_numbers(wanted: Tensor, given: Tensor) -> str | None:
    """Right numbers in a wrong order or shape."""
    if wanted.numel() != given.numel() or wanted.dim() > 4 or wanted.numel() < 2:
        return None
    flat = given.reshape(-1)
    axes = range(wanted.dim())
    for order in itertools.permutations(axes):
        if close(wanted.permute(order).reshape(-1), flat):
            if list(order) == sorted(order):
                if given.shape != wanted.shape:
                    right = tuple(wanted.shape)
                    return (
                        f"has the right numbers in shape {tuple(given.shape)}: it should be {right}"
                    )
                continue
            moved = [i for i, j in enumerate(order) if i != j]
            if wanted.permute(order).shape == given.shape:
                return f"has its axes {' and '.join(map(str, moved))} interchanged: transpose them"
            return (
                "has the right numbers in the wrong places: a reshape only cuts the numbers anew, "
                f"so transpose the axes {' and '.join(map(str, moved))} before it"
            )
    return None


def _factor(wanted: Tensor, given: Tensor) -> str | None:
    if wanted.is_floating_point():
        for coarse in ("float32", "float16", "bfloat16"):
            if close(wanted.to(getattr(torch, coarse)).to(wanted.dtype), given, 0.005):
                return f"is rounded to {coarse} on the way: compute in {wanted.dtype}".replace(
                    "torch.", ""
                )
    if close(-wanted, given):
        return "has the right size and the opposite sign: a minus is wrong"
    shift = (given - wanted).mean()
    if close(wanted + shift, given) and shift.abs() > 1e-3:
        return f"is {abs(shift.item()):.4g} too {'large' if shift > 0 else 'small'} everywhere"
    if close(1 - wanted, given):
        return "is 1 minus what it should be: the other part is asked for"
    rate = (given * wanted).sum() / wanted.square().sum().clamp_min(1e-12)
    said = f"{rate.item():.4g}"
    if close(wanted * rate, given) and abs(rate.item()) > 1e-6 and said != "1":
        return f"is {said} times as large as it should be, everywhere: a factor is wrong"
    return None


def _rows(wanted: Tensor, given: Tensor) -> str | None:
    for axis in range(wanted.dim()):
        size = wanted.shape[axis]
        if size < 2:
            continue
        if close(wanted.flip(axis), given):
            return f"runs backwards along axis {axis}"
        for by in (1, -1):
            a = wanted.narrow(axis, 0, size - 1), given.narrow(axis, 1, size - 1)
            b = wanted.narrow(axis, 1, size - 1), given.narrow(axis, 0, size - 1)
            right, answer = a if by == 1 else b
            if size > 2 and close(right, answer):
                return f"is shifted by one place along axis {axis}: off by one"
        if close(wanted.select(axis, 0).unsqueeze(axis).expand_as(wanted), given):
            return f"is the same everywhere along axis {axis}: the first is used for all"
        if close(wanted.select(axis, -1).unsqueeze(axis).expand_as(wanted), given):
            return f"is the same everywhere along axis {axis}: the last is used for all"
        if close(given.select(axis, 0).unsqueeze(axis).expand_as(given), given) and not close(
            wanted.select(axis, 0).unsqueeze(axis).expand_as(wanted), wanted
        ):
            return f"is the same everywhere along axis {axis}: each place has an answer of its own"
    return None


def to_some_digits(wanted: Any, given: Any) -> str | None:
    """The sentence's end for numbers of which all are nearly right."""
    if not isinstance(wanted, Tensor) or not wanted.is_floating_point():
        return None
    gap = (given.detach().double() - wanted.detach().double()).abs()
    if not bool((gap <= NEARLY * wanted.detach().double().abs()).all()):
        return None
    place = where_right(wanted, given)
    return (
        f"is right to some digits only, off by up to {gap.max().item():.1g}"
        f"{f' ({place})' if place else ''}: is a small number added or left "
        "out, or something rounded on the way, in a dtype of fewer digits?"
    )


def where_right(wanted: Tensor, given: Tensor) -> str:
    """ "it is right at 0 of axis 1 and wrong at 1, 2", where a part of an axis is right; or ""."""
    axes_with_both = []
    for axis in range(wanted.dim()):
        pairs = zip(wanted.unbind(axis), given.unbind(axis), strict=True)
        right = [close(one, other) for one, other in pairs]
        pieces = sum(a != b for a, b in itertools.pairwise(right))
        if pieces and (pieces == 1 or len(right) < 8):
            axes_with_both.append((pieces, axis, right))
    if not axes_with_both:
        return ""
    _, axis, right = min(axes_with_both)
    parts = [
        ", ".join(str(i) for i, good in enumerate(right) if good is wanted_good)
        for wanted_good in (True, False)
    ]
    parts = [part if len(part) < 30 else part[:27].rpartition(",")[0] + ", .." for part in parts]
    return f"it is right at {parts[0]} of axis {axis} and wrong at {parts[1]}"


def changed_order(reference: Any, candidate: Any, methods: tuple[str, ...]) -> str | None:
    """The arguments in another order than in the signature that was given."""
    for function, wanted, given in _signatures(reference, candidate, methods):
        names = [[n for n in s if n != "self"] for s in (wanted, given)]
        right, answer = names[0], names[1][-len(names[0]) :]  # a method may call itself otherwise
        if right != answer and sorted(right) == sorted(answer):
            return (
                f"{function} takes its arguments in the order {', '.join(answer)}, it should be "
                f"{', '.join(right)}: leave the signature as it was given"
            )
    return None


def _signatures(reference: Any, candidate: Any, methods: tuple[str, ...]) -> Iterator[tuple]:
    """(name, parameters as given, the learner's) of every function that the learner writes."""
    pairs = [(reference, candidate)]
    if isinstance(reference, type):
        pairs = [
            (getattr(reference, m, None), getattr(candidate, m, None))
            for m in ("__init__", *methods)
        ]
    for right, answer in pairs:
        with contextlib.suppress(TypeError, ValueError):
            wanted, given = inspect.signature(right), inspect.signature(answer)
            yield right.__name__, wanted.parameters, given.parameters


def changed_defaults(reference: Any, candidate: Any, methods: tuple[str, ...]) -> str | None:
    """A default value in the signature that is not the one given."""
    for _, wanted, given in _signatures(reference, candidate, methods):
        for name, parameter in wanted.items():
            other = given.get(name)
            if other is None or parameter.default is inspect.Parameter.empty:
                continue
            if other.default is inspect.Parameter.empty:
                return f"{name} must be given: its default {parameter.default!r} was taken away"
            if type(other.default) is not type(parameter.default) or (
                other.default != parameter.default
            ):
                return (
                    f"the default of {name} is {show(other.default)}, it should be "
                    f"{parameter.default!r}: leave the signature as it was given"
                )
    return None
