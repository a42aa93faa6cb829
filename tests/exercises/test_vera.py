"""Checks of lesson 18: they take what is right, however it is written, and name what is wrong."""

import diagnoses
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import minipeft as mp
from minipeft import checks
from minipeft.checks.exercises.vera_numbers import HINTS
from minipeft.course import capstone
from minipeft.methods.vera import SharedMatrices, VeRA, VeRAPatch


def patch(**methods):
    """A VeRAPatch with other methods."""
    return type("VeRAPatch", (VeRAPatch,), methods)


def sum_of(self, x, y, detour):
    return (y + detour).to(y.dtype)


# -- vera_patch ------------------------------------------------------------------------------------


def through_delta(self, x, y):
    """The matrix is built first: slower, and right."""
    x = self.dropout(x.to(self.d.dtype))
    return (y + x @ self.delta().T).to(y.dtype)


def with_einsum(self, x, y):
    x = self.dropout(x.to(self.d.dtype))
    detour = torch.einsum("o,or,r,ri,...i->...o", self.b, self.B, self.d, self.A, x)
    return torch.add(y, detour).to(y.dtype)


def diagonals(self):
    return torch.diag(self.b) @ self.B @ torch.diag(self.d) @ self.A


def by_columns(self):
    return (self.b.unsqueeze(1) * (self.B * self.d)) @ self.A


class Whole(nn.Module):
    """Everything by itself, without the package's class."""

    def __init__(self, in_features, out_features, matrices, initial=0.1, dropout=0.0):
        super().__init__()
        self.shared, self.p = matrices, dropout
        self.n_in, self.n_out = in_features, out_features
        self.d = nn.Parameter(torch.ones(matrices.A.shape[0]) * initial)
        self.b = nn.Parameter(torch.zeros(out_features))

    def forward(self, x, y):
        x = F.dropout(x.to(self.b.dtype), self.p, self.training)
        A, B = self.shared.A[:, : self.n_in], self.shared.B[: self.n_out]
        low = torch.matmul(x, A.to(x).T) * self.d
        return (torch.matmul(low, B.to(x).T) * self.b + y).to(y.dtype)

    def delta(self):
        A, B = self.shared.A[:, : self.n_in].to(self.d), self.shared.B[: self.n_out].to(self.d)
        return (B * self.b[:, None]) @ (A * self.d[:, None])


@pytest.mark.parametrize(
    "right",
    [
        VeRAPatch,
        patch(forward=through_delta),
        patch(forward=with_einsum, delta=diagonals),
        patch(delta=by_columns),
        Whole,
    ],
)
def test_right_patches_pass(right, capsys):
    checks.vera_patch(right)
    assert "✓" in capsys.readouterr().out


def forward_with(compute):
    """forward whose detour is compute(self, x), x in the right dtype and dropped."""

    def forward(self, x, y):
        x = self.dropout(x.to(self.d.dtype))
        return (y + compute(self, x)).to(y.dtype)

    return patch(forward=forward)


def plain(self, x):
    return self.b * F.linear(self.d * F.linear(x, self.A), self.B)


def keeps_delta(self):
    if not hasattr(self, "made"):
        self.made = VeRAPatch.delta(self)
    return self.made


def delta_by_asking_forward(self):
    """What forward makes of unit vectors: right in eval mode, dropped in training."""
    eye = torch.eye(self.in_features).to(self.d)
    return self(eye[None], torch.zeros(1, self.in_features, self.out_features).to(self.d))[0].T


def into_y(self, x, y):
    y += plain(self, self.dropout(x.to(self.d.dtype)))
    return y


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (forward_with(lambda p, x: plain(p, p.dropout(x))), "with a dropout of"),
        (
            forward_with(lambda p, x: p.b * F.linear(p.d.detach() * F.linear(x, p.A), p.B)),
            "d gets no gradient",
        ),
        (forward_with(lambda p, x: p.b * F.linear(0.1 * F.linear(x, p.A), p.B)), "wrong"),
        (patch(forward=into_y), "the y that came in was changed"),
        (patch(delta=keeps_delta), "kept from an earlier call"),
        (patch(delta=delta_by_asking_forward), "delta"),
        (patch(delta=lambda p: VeRAPatch.delta(p).detach()), "require grad"),
        (forward_with(lambda p, x: p.b * F.linear(F.linear(x, p.A), p.B)), "d is missing"),
        (forward_with(lambda p, x: F.linear(p.d * F.linear(x, p.A), p.B)), "b is missing"),
        (forward_with(lambda p, x: F.linear(F.linear(x, p.A), p.B)), "neither d nor b"),
        (forward_with(lambda p, x: p.b * F.linear(p.d + F.linear(x, p.A), p.B)), "d is added"),
        (forward_with(lambda p, x: p.b + F.linear(p.d * F.linear(x, p.A), p.B)), "b is added"),
        (
            forward_with(lambda p, x: p.b * F.linear(p.d * p.d * F.linear(x, p.A), p.B)),
            "d is used twice",
        ),
        (
            forward_with(lambda p, x: p.b * F.linear(p.d.mean() * F.linear(x, p.A), p.B)),
            "LoRA's scale",
        ),
        (
            forward_with(
                lambda p, x: p.b * F.linear(p.d * F.linear(x, p.matrices.A), p.matrices.B)
            ),
            "reads its part",
        ),
        (
            patch(forward=lambda p, x, y: plain(p, p.dropout(x.to(p.d.dtype))).to(y.dtype)),
            "y is dropped",
        ),
        (
            patch(forward=lambda p, x, y: (y - plain(p, p.dropout(x.to(p.d.dtype)))).to(y.dtype)),
            "subtracted",
        ),
        (patch(forward=lambda p, x, y: y), "gives y back"),
        (patch(forward=lambda p, x, y: y + plain(p, p.dropout(x.to(p.d.dtype)))), "y's dtype"),
        (
            patch(forward=lambda p, x, y: (y + plain(p, x.to(p.d.dtype))).to(y.dtype)),
            "never applied",
        ),
        (
            patch(
                forward=lambda p, x, y: p.dropout(y + plain(p, x.to(p.d.dtype))).to(y.dtype),
            ),
            "dropout falls on y",
        ),
        (
            patch(
                forward=lambda p, x, y: (y + p.dropout(plain(p, x.to(p.d.dtype)))).to(y.dtype),
            ),
            "dropout falls on the detour",
        ),
        (patch(delta=lambda p: p.b[:, None] * p.B @ p.A), "delta lacks d"),
        (patch(delta=lambda p: p.B @ (p.d[:, None] * p.A)), "delta lacks b"),
        (patch(delta=lambda p: p.B @ p.A), "B A alone"),
        (patch(delta=lambda p: VeRAPatch.delta(p).T), "transposed"),
        (patch(delta=lambda p: None), "delta"),
    ],
)
def test_a_wrong_patch_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.vera_patch(wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


# -- vera ------------------------------------------------------------------------------------------


def method(install):
    """A VeRA with this install(self, tuner)."""
    return type("VeRA", (VeRA,), {"install": install})


def parts(self, tuner, **changed):
    """The right install, some of its parts changed."""
    places = tuner.find(self.targets, changed.get("layers", self.layers))
    size = changed.get("size", lambda sizes: max(sizes))
    matrices = changed.get("matrices") or SharedMatrices(
        size([place.in_features for place in places]),
        size([place.out_features for place in places]),
        changed.get("rank", self.rank),
        changed.get("seed", self.seed),
        changed.get("stored", self.store_matrices),
    )
    for place in places[changed.get("first", 0) :]:
        kind = changed.get("kind", VeRAPatch)
        initial = changed.get("initial", self.initial)
        dropout = changed.get("dropout", self.dropout)
        tuner.add(place, kind(place.in_features, place.out_features, matrices, initial, dropout))


def in_two_loops(self, tuner):
    """Sizes first, one by one."""
    n_in = n_out = 0
    for place in tuner.find(self.targets, self.layers):
        n_in, n_out = max(n_in, place.in_features), max(n_out, place.out_features)
    shared = SharedMatrices(
        in_features=n_in, out_features=n_out, rank=self.rank, seed=self.seed,
        persistent=self.store_matrices,
    )  # fmt: skip
    for place in tuner.find(self.targets, self.layers):
        tuner.add(
            place,
            VeRAPatch(
                place.in_features, place.out_features, shared,
                dropout=self.dropout, initial=self.initial,
            ),
        )  # fmt: skip


def backwards(self, tuner):
    """Patches made first, added afterwards."""
    places = sorted(tuner.find(self.targets, self.layers), key=lambda place: -place.in_features)
    sizes = [(place.in_features, place.out_features) for place in places]
    largest = [max(column) for column in zip(*sizes, strict=True)]
    shared = SharedMatrices(*largest, self.rank, self.seed, self.store_matrices)
    made = [VeRAPatch(*size, shared, self.initial, self.dropout) for size in sizes]
    order = {place.path: patch for place, patch in zip(places, made, strict=True)}
    for place in tuner.find(self.targets, self.layers):
        tuner.add(place, order[place.path])


def made_at_the_first(self, tuner):
    shared, places = None, tuner.find(self.targets, self.layers)
    for place in places:
        if shared is None:
            shared = SharedMatrices(
                max(p.in_features for p in places),
                max(p.out_features for p in places),
                self.rank,
                self.seed,
                self.store_matrices,
            )
        size = (place.in_features, place.out_features)
        tuner.add(place, VeRAPatch(*size, shared, self.initial, self.dropout))


@pytest.mark.parametrize(
    "right", [VeRA, *map(method, (parts, in_two_loops, backwards, made_at_the_first))]
)
def test_right_methods_pass(right, capsys):
    checks.vera(right)
    assert "✓ VeRA" in capsys.readouterr().out


KEPT = {}


def kept_for_ever(self, tuner):
    """One pair of matrices for all models that there ever are."""
    parts(self, tuner, matrices=KEPT.setdefault(self.rank, SharedMatrices(32, 32, self.rank)))


KEPT_BY_SETTINGS = {}


def kept_by_settings(self, tuner):
    """Of the right size and seed, and yet one pair of matrices for all models."""
    places = tuner.find(self.targets, self.layers)
    largest = [max(p.in_features for p in places), max(p.out_features for p in places)]
    key = (*largest, self.rank, self.seed, self.store_matrices)
    if key not in KEPT_BY_SETTINGS:
        KEPT_BY_SETTINGS[key] = SharedMatrices(*key)
    parts(self, tuner, matrices=KEPT_BY_SETTINGS[key])


def seeds_everything(self, tuner):
    torch.manual_seed(self.seed)
    parts(self, tuner)


def of_every_target(self, tuner):
    """Query and value have a pair of matrices each."""
    for target in self.targets:
        parts(VeRA(self.rank, (target,), self.seed, self.initial, self.dropout, self.layers), tuner)


def other_B(self, tuner):
    """A from the seed, B from the next one."""
    places = tuner.find(self.targets, self.layers)
    largest = [max(p.in_features for p in places), max(p.out_features for p in places)]
    shared, other = (
        SharedMatrices(*largest, self.rank, seed, self.store_matrices)
        for seed in (self.seed, self.seed + 1)
    )
    shared.B = other.B
    parts(self, tuner, matrices=shared)


def turned(self, tuner):
    """Inputs and outputs of a map in each other's place."""
    places = tuner.find(self.targets, self.layers)
    largest = [max(p.out_features for p in places), max(p.in_features for p in places)]
    matrices = SharedMatrices(*largest, self.rank, self.seed, self.store_matrices)
    parts(self, tuner, matrices=matrices)


class Loud(VeRAPatch):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        nn.init.ones_(self.b)


class TrainsB(VeRAPatch):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.extra = nn.Parameter(torch.zeros(3))


class WrongDelta(VeRAPatch):
    def delta(self):
        return 2 * super().delta()


def unfreezes(self, tuner):
    parts(self, tuner)
    for module in tuner.model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.requires_grad_(True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (method(capstone.Unshared.install), "before the loop"),
        (method(lambda m, t: None), "no patch was put anywhere"),
        (method(lambda m, t: parts(m, t, first=1)), "got no patch"),
        (method(lambda m, t: parts(m, t, layers=None)), "self.layers"),
        (method(lambda m, t: parts(m, t, size=min)), "as large as the smallest"),
        (method(lambda m, t: parts(m, t, size=sum)), "the largest number of inputs is"),
        (method(lambda m, t: parts(m, t, rank=256)), "as many as the rank"),
        (method(lambda m, t: parts(m, t, seed=0)), "seed of the settings"),
        (method(lambda m, t: parts(m, t, initial=0.1)), "d does not start at 0.5"),
        (method(lambda m, t: parts(m, t, dropout=0.0)), "dropout is 0.0"),
        (method(lambda m, t: parts(m, t, stored=True)), "store_matrices=False"),
        (method(lambda m, t: parts(m, t, stored=False)), "store_matrices=True"),
        (method(kept_for_ever), ""),
        (method(kept_by_settings), "two models share one A and B"),
        (method(seeds_everything), "torch's global generator"),
        (method(of_every_target), "before the loop"),
        (method(other_B), "B does not come from the seed"),
        (method(turned), "the largest"),
        (method(lambda m, t: parts(m, t, kind=Loud)), "the model is another one before training"),
        (method(lambda m, t: parts(m, t, kind=TrainsB)), "d and b of all maps are"),
        (method(lambda m, t: parts(m, t, kind=WrongDelta)), "merging changes the answers"),
        (method(unfreezes), "base"),
        (method(mp.IA3(targets="value").install), "put a VeRAPatch there"),
        (mp.VeRA(), "the class itself"),
    ],
)
def test_a_wrong_method_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.vera(wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_unwritten_is_unfinished():
    def unwritten(self, *given):
        raise NotImplementedError("VeRA.install is yours to write")

    with pytest.raises(checks.NotFinished, match="yours to write"):
        checks.vera(method(unwritten))
    with pytest.raises(checks.NotFinished, match="yours to write"):
        checks.vera_patch(patch(forward=unwritten, delta=unwritten))


# -- numbers ---------------------------------------------------------------------------------------

RIGHT = {"LoRA": 8_388_608, "VeRA": 278_528, "frozen": 2_097_152}


def test_the_formulas_are_those_of_the_package():
    from tiny_models import fresh

    model = fresh("gpt2")
    L, C = model.config.layers, model.config.width
    counts = []
    for made in (mp.LoRA(3), mp.VeRA(5)):
        tuner = mp.attach(model, made, seed=0)
        counts.append(sum(parameter.numel() for parameter in tuner.parameters()))
        stored = tuner.report().stored
        tuner.detach()
    assert counts == [2 * L * 3 * 2 * C, 2 * L * (5 + C)]
    assert stored - counts[1] == 5 * 2 * C


@pytest.mark.parametrize(
    "answer", [RIGHT, {k: float(v) for k, v in RIGHT.items()}, lambda: RIGHT | {"more": 1}]
)
def test_right_numbers_pass(answer):
    checks.vera_numbers(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RIGHT | {"LoRA": 4_194_304}, "one map in each layer"),
        (RIGHT | {"LoRA": 131_072}, "that is one map"),
        (RIGHT | {"LoRA": 64 * 256 * 8192}, "VeRA's rank"),
        (RIGHT | {"VeRA": 139_264}, "one map in each layer"),
        (RIGHT | {"VeRA": 64 * (16 + 4096)}, "LoRA's rank"),
        (RIGHT | {"VeRA": 64 * 256 * 4096}, "lengths add"),
        (RIGHT | {"VeRA": 4352}, "only A and B are shared"),
        (RIGHT | {"VeRA": 278_528 + 2_097_152}, "they are not trained"),
        (RIGHT | {"LoRA": 64 * (16 + 8192)}, "r times each width"),
        (RIGHT | {"LoRA": 64 * (16 + 4096)}, "VeRA's count is a sum"),
        (RIGHT | {"VeRA": 64 * 4096}, "that is b alone"),
        (RIGHT | {"VeRA": 64 * 256}, "that is d alone"),
        (RIGHT | {"VeRA": 64 * (256 + 8192)}, "d has r numbers"),
        (RIGHT | {"VeRA": 64 * 4096 + 32 * 256}, "a d each"),
        (RIGHT | {"frozen": 64 * 256 * 4096}, "once for all maps"),
        (RIGHT | {"frozen": 64 * 4096 * 4096}, "not the maps themselves"),
        (RIGHT | {"frozen": 64 * 2_097_152}, "count them once"),
        (RIGHT | {"frozen": 4_194_304}, "count them once"),
        (RIGHT | {"frozen": 1_048_576}, "one of the two"),
        (RIGHT | {"frozen": 0}, "something must hold them"),
        (278_528, "should be a dict"),
    ],
)
def test_wrong_numbers_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.vera_numbers(answer)


# -- patients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", diagnoses.forms(capstone.PATIENTS))
def test_right_diagnoses_pass(answer):
    checks.vera_patients(answer)


@pytest.mark.parametrize(("answer", "words"), diagnoses.wrong(capstone.PATIENTS, HINTS))
def test_a_wrong_diagnosis_is_told_what_speaks_against_it(answer, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.vera_patients(answer)
    assert words in str(caught.value)


def test_every_wrong_diagnosis_has_its_hint():
    diagnoses.assert_complete(capstone.PATIENTS, HINTS, capstone.CAUSES)


def test_the_table_shows_what_the_hints_speak_of():
    rows = {row[0]: row[1:] for row in capstone.patients_table().rows}
    healthy = rows["D"]
    assert {who for who, row in rows.items() if row[0] != healthy[0]} == {"E"}  # trained
    assert {who for who, row in rows.items() if row[1] != healthy[1]} == {"B"}  # unshared
    assert {who for who, row in rows.items() if row[2] != "0"} == {"F"}  # loud
    assert {who for who, row in rows.items() if row[4] == "0"} == {"C"}  # zero
    assert {who for who, row in rows.items() if row[5] != "0"} == {"A"}  # merge
