"""VeRA as a method: properties that everybody's must have, and nobody sees before."""

from __future__ import annotations

import torch

from minipeft.checks.framework import OMIT, Case, Check, Trial, call, expect
from minipeft.course import capstone
from minipeft.methods.vera import SharedMatrices
from minipeft.model.anatomy import Anatomy
from minipeft.tuner import attach

OPTIONS = ("rank", "targets", "seed", "initial", "dropout", "layers", "store_matrices")


def build(Method: type, case: Case):
    return call(Method, **{name: case[name] for name in OPTIONS})


def run(method, case: Case, given) -> dict:
    """Attach it to a small decoder and look."""
    model, _ = capstone.small_model()
    tuner = attach(model, method, f"r{method.rank}")  # without a seed: torch's generator stays
    seen = {"method": method, "paths": [place.path for place, _ in tuner.patches]}
    for _, patch in tuner.patches:
        lacking = [name for name in ("matrices", "d", "b") if not hasattr(patch, name)]
        expect(not lacking, f"a {type(patch).__name__} was put into a door: put a VeRAPatch there")
    patches = [patch for _, patch in tuner.patches]
    seen["objects"] = len({id(patch.matrices) for patch in patches})
    if patches:
        seen["A"], seen["B"] = patches[0].matrices.A, patches[0].matrices.B
    seen["sizes"] = [(p.in_features, p.out_features, len(p.d), len(p.b)) for p in patches]
    seen["d"] = [patch.d.detach() for patch in patches]
    seen["dropout"] = [patch.dropout.p for patch in patches]
    seen["stored"] = sum(tensor.numel() for tensor in method.export_state(tuner).values())
    seen["trained"] = sum(parameter.numel() for parameter in tuner.parameters())
    tuner.detach()
    # one or two cases are enough for what takes longer
    plain = OMIT == case.layers == case.dropout == case.initial == case["seed"]
    fit = all(
        p.in_features <= p.matrices.A.shape[1] and p.out_features <= p.matrices.B.shape[0]
        for p in patches
    )
    whole = fit and plain and case.rank == 12 and case.phase == "training"
    seen["faults"] = capstone.faults(method) if whole else []
    if whole:
        other = attach(capstone.small_model()[0], method, "other")
        seen["kept"] = bool(
            {id(p.matrices) for p in patches} & {id(p.matrices) for _, p in other.patches}
        )
        other.detach()
    return seen


def judge(case: Case, given: dict, seen: dict) -> None:
    """One property after the other, the plainest first."""
    method = seen["method"]
    places = Anatomy(capstone.small_model()[0]).find(method.targets, method.layers)
    paths = [place.path for place in places]
    missing = [path for path in paths if path not in seen["paths"]]
    extra = [path for path in seen["paths"] if path not in paths]
    expect(seen["paths"] != [], "no patch was put anywhere: call tuner.add(place, patch) for each")
    expect(
        not missing,
        f"{len(missing)} of {len(paths)} maps got no patch, {missing[0] if missing else ''} for "
        "one: every place that the targets name gets one",
    )
    expect(not extra, f"{extra[0] if extra else ''} got a patch: hand self.layers to tuner.find")
    expect(len(paths) == len(seen["paths"]), "a map got two patches: add one to each place")
    expect(
        seen["objects"] == 1,
        "every map has matrices of its own: make SharedMatrices once, before the loop, and hand "
        "the same object to every patch",
    )
    largest = [max(p.in_features for p in places), max(p.out_features for p in places)]
    shapes = tuple(seen["A"].shape), tuple(seen["B"].shape)
    expect(
        shapes[0][0] == shapes[1][1] == method.rank,
        f"A has {shapes[0][0]} rows: it has as many as the rank, {method.rank}",
    )
    smallest = [min(p.in_features for p in places), min(p.out_features for p in places)]
    expect(
        smallest == largest or [shapes[0][1], shapes[1][0]] != smallest,
        "A and B are as large as the smallest map needs: the largest decides",
    )
    expect(
        shapes == ((method.rank, largest[0]), (largest[1], method.rank)),
        f"A has {shapes[0][1]} columns and B {shapes[1][0]} rows: the largest number of inputs is "
        f"{largest[0]}, the largest of outputs {largest[1]}, maybe of two maps",
    )
    wanted = SharedMatrices(*largest, method.rank, method.seed)
    for name in ("A", "B"):
        expect(
            torch.equal(seen[name].double(), getattr(wanted, name).double()),
            f"{name} does not come from the seed of the settings, {method.seed}: hand it to "
            "SharedMatrices",
        )
    expect(
        not seen.get("kept", False),
        "two models share one A and B, which are kept between calls: make SharedMatrices in every "
        "call of install, or moving one model moves the other's",
    )
    for place, size in zip(places, seen["sizes"], strict=True):
        right = (place.in_features, place.out_features, method.rank, place.out_features)
        expect(
            size == right,
            f"the patch at {place.path} was made for {size[0]} inputs and {size[1]} outputs, the "
            f"map has {right[0]} and {right[1]}",
        )
    expect(
        all(torch.allclose(d, torch.full_like(d, method.initial)) for d in seen["d"]),
        f"d does not start at {method.initial}: hand self.initial to every patch",
    )
    expect(
        all(p == method.dropout for p in seen["dropout"]),
        f"dropout is {seen['dropout'][0]}, the settings say {method.dropout}: hand it on",
    )
    count = sum(method.rank + place.out_features for place in places)
    expect(
        seen["trained"] == count,
        f"{seen['trained']} numbers are trained, d and b of all maps are {count}",
    )
    stored = count + (sum(largest) * method.rank if method.store_matrices else 0)
    expect(
        seen["stored"] == stored,
        f"{seen['stored']} numbers would be stored with store_matrices={method.store_matrices}, "
        f"it should be {stored}: hand it to SharedMatrices",
    )
    expect(not seen["faults"], seen["faults"][0] if seen["faults"] else "")


vera = Check(
    "vera",
    "minipeft.methods.vera:VeRA",
    "identity, first gradients, shared matrices, count, seed, merge, file and base are right",
    [
        Trial(
            "the attached method",
            lambda case, draw: {},
            run,
            build=build,
            fill=False,
            cast=False,
            axes={
                "targets": (("up", "query"), OMIT, ("down", "up"), ("output",)),
                "rank": (12, 3),
                "seed": (OMIT, 7, 11),
                "initial": (OMIT, 0.5, 0.2),
                "dropout": (OMIT, 0.25, 0.1),
                "layers": (OMIT, (1,), (0,)),
                "store_matrices": (OMIT, False, True),
            },
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("on",),
            judge=judge,
        )
    ],
    blank=("install",),
)
