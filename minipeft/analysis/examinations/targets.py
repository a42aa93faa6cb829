"""Did the targets match all that they were meant for?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from minipeft.analysis.examinations.subject import Finding, Subject, Target, first_and_more
from minipeft.analysis.examinations.visit import Visit
from minipeft.doors.layers import is_map
from minipeft.model.families import FAMILIES, Slice

FEED_FORWARD = ("up", "gate", "down")


def targets(visit: Visit) -> Iterator[Finding]:
    """A name that matched nothing beside others that did; layers or experts that were left out."""
    subject = visit.subject
    modules = subject.modules()
    advice = subject.advice["targets"]
    experts = uncovered_experts(subject, modules)
    nothing = [target for target in subject.targets if not target.paths]
    if nothing and any(target.paths for target in subject.targets):
        names = ", ".join(repr(target.name) for target in nothing)
        yield Finding(
            "targets",
            nothing[0].name,
            f"Of the targets {names} matched nothing in this model, while "
            f"{next(t.name for t in subject.targets if t.paths)!r} did: check the spelling against "
            f"the model's modules; {advice}.",
        )
    for target in subject.targets:
        for places, have, lack in left_out(target, modules) if target.everywhere else ():
            what, kind = ("experts", "experts") if "expert" in places else ("layers", "targets")
            yield Finding(
                kind,
                places,
                f"The target {target.name!r} is in {what} {ranges(have)} of {places} but not in "
                f"{ranges(lack)}, which stay as they were: {advice}.",
            )
    if experts and feed_forward_meant(subject, modules):
        count = sum(parameter.numel() for parameter in experts.values())
        share = count / sum(parameter.numel() for parameter in subject.base.values())
        yield Finding(
            "experts",
            next(iter(experts)),
            f"The experts stay frozen: {first_and_more(list(experts))}, {share:.0%} of the model, "
            "are parameters of three axes and no linear maps, so that no target reaches them; "
            f"{subject.advice['experts']}.",
        )


def left_out(target: Target, modules: dict[str, nn.Module]) -> Iterator[tuple[str, list, list]]:
    """(path of a list, the elements that the target is in, those that it is not in).

    An element is left out where it has a layer of the same name, and, of the outermost lists, where
    it has the same kind of module around such a layer: attention and a convolution may take turns.
    """
    lists = [path for path, module in modules.items() if isinstance(module, nn.ModuleList)]
    for stack in lists:
        inside = [p for p in target.paths if p.startswith(f"{stack}.")]
        if not inside:
            continue
        elements = [str(i) for i in range(len(modules[stack]))]
        rest: dict[str, set[str]] = {}  # number of an element -> what is matched in it
        for path in inside:
            number = number_in(path, stack)
            rest.setdefault(number, set()).add(path.removeprefix(f"{stack}.{number}").lstrip("."))
        ends = set().union(*rest.values())
        outermost = not any(stack.startswith(f"{other}.") for other in lists)
        lack = []
        for number in elements:
            if number in rest:
                continue
            begin = f"{stack}.{number}"
            same = any((f"{begin}.{end}" if end else begin) in modules for end in ends)
            same_kind = outermost and any(
                kind_around(modules, path)
                is kind_around(modules, path.replace(f"{stack}.{number_in(path, stack)}", begin, 1))
                for path in inside
            )
            if same or same_kind:
                lack.append(int(number))
        if lack:
            yield stack, sorted(map(int, rest)), lack


def number_in(path: str, stack: str) -> str:
    """Of which element of a list a path runs through."""
    return path.removeprefix(f"{stack}.").partition(".")[0]


def kind_around(modules: dict[str, nn.Module], path: str) -> type:
    """The class of the module that a layer stands in, also where the layer is missing."""
    return type(modules.get(path.rpartition(".")[0]))


def uncovered_experts(subject: Subject, modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Name -> the experts' weights of a model that holds all experts of a layer in one tensor."""
    covered = tuple(part.path for part in subject.parts)
    experts = {}
    for path, module in modules.items():
        if "expert" not in path or path in covered:
            continue
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() == 3 and not parameter.requires_grad:
                experts[f"{path}.{key}"] = parameter
    return experts


def feed_forward_meant(subject: Subject, modules: dict[str, nn.Module]) -> bool:
    """Do the targets name maps of the feed-forward layer, or every linear map that there is?"""
    words = {*FEED_FORWARD, "all-linear"}
    for family in FAMILIES:
        for word in FEED_FORWARD:
            names = [n.module if isinstance(n, Slice) else n for n in family.names(word)]
            words |= {name.split(".")[-1] for name in names}
    if any(target.name.split(".")[-1] in words for target in subject.targets):
        return True
    adapted = {id(part.host) for part in subject.parts if part.host is not None}
    blocks = [
        module
        for path, module in modules.items()
        if is_map(module) and any(name.isdigit() for name in path.split("."))
    ]
    return bool(blocks) and bool(subject.targets) and all(id(m) in adapted for m in blocks)


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
