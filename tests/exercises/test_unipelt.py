"""Checks of lesson 11: they take what is right, however it is written, and name what is wrong."""

import math

import diagnoses
import pytest
import torch

from minipeft import checks
from minipeft.checks.exercises.gate_numbers import HINTS
from minipeft.course import unipelt as lesson
from minipeft.methods.unipelt import Gate


def written(forward):
    """A Gate with this forward(self, x)."""
    return type("Gate", (Gate,), {"forward": forward})


def C(gate):
    return len(gate.weight)


def each(gate, x):
    """The sigmoid of every token, (N, T, 1)."""
    return torch.sigmoid(x.to(gate.weight.dtype) @ gate.weight + gate.bias)[..., None]


def fits(gate, x):
    return gate.mask is not None and gate.mask.shape == x.shape[:2]


def kept(gate, g):
    gate.value = g.detach()
    return g


# -- gate ------------------------------------------------------------------------------------------


def text_by_text(self, x):
    """One text after the other, its own tokens picked out."""
    if self.mode == "alone":
        return kept(self, self.bias.sigmoid()[None, None])
    g = each(self, x)
    if self.mode == "mean":
        rows = []
        for i, row in enumerate(g):
            row = row[self.mask[i].bool()] if fits(self, x) else row
            rows.append(row.mean(dim=0) if len(row) else row.sum(dim=0))
        g = torch.stack(rows)[:, None]
    return kept(self, g)


def with_a_weighted_sum(self, x):
    """Weights that sum to 1, and one product."""
    if self.weight is None:
        return kept(self, 1 / (1 + torch.exp(-self.bias.reshape(1, 1, 1))))
    g = each(self, x)
    if self.mode != "token":
        counts = self.mask.to(g) if fits(self, x) else torch.ones_like(g[..., 0])
        weights = counts / counts.sum(1, True).clamp(min=1)  # (N, T)
        g = torch.einsum("nt,nto->no", weights, g)[:, None]
    return kept(self, g)


def with_masked_fill(self, x):
    if self.weight is None:
        return kept(self, torch.sigmoid(self.bias)[:, None, None])
    g = each(self, x)
    if self.mode == "mean" and fits(self, x):
        counted = self.mask.bool()
        many = counted.sum(dim=1).clamp(min=1)
        g = (g.masked_fill(~counted[..., None], 0).sum(dim=1) / many[:, None])[:, None]
    elif self.mode == "mean":
        g = g.mean(dim=1, keepdim=True)
    return kept(self, g)


def by_tanh(self, x):
    """sigmoid(z) = (1 + tanh(z / 2)) / 2, and the value read from a copy."""
    if self.mode == "alone":
        g = (1 + torch.tanh(self.bias / 2)).view(1, 1, 1) / 2
    else:
        z = (x.to(self.bias.dtype) * self.weight).sum(dim=-1, keepdim=True) + self.bias
        g = (1 + torch.tanh(z / 2)) / 2
    if self.mode == "mean":
        counts = self.mask if fits(self, x) else torch.ones(x.shape[:2])
        counts = counts.to(g.dtype).unsqueeze(-1)
        g = (counts.mT @ g) / counts.sum(dim=1, keepdim=True).clamp(min=1)
    self.value = g.clone().detach()
    return g


class WithBuffers(Gate):
    """What is kept from call to call, as buffers."""

    def __init__(self, width, mode):
        super().__init__(width, mode)
        del self.mask, self.value
        for name in ("mask", "value"):
            self.register_buffer(name, None, persistent=False)


RIGHT = (text_by_text, with_a_weighted_sum, with_masked_fill, by_tanh)


@pytest.mark.parametrize("right", [Gate, *map(written, RIGHT), WithBuffers])
def test_right_gates_pass(right, capsys):
    checks.gate(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def mean_of(many):
    """A gate that is right but for the mean over the tokens: many(gate, g, x)."""

    def forward(self, x):
        if self.weight is None:
            return kept(self, torch.sigmoid(self.bias).view(1, 1, 1))
        g = each(self, x)
        return kept(self, many(self, g, x) if self.mode == "mean" else g)

    return written(forward)


def counted(gate, g, x):
    """(N, T, 1)"""
    return gate.mask.to(g)[..., None] if fits(gate, x) else torch.ones_like(g)


def rightly(gate, g, x):
    counts = counted(gate, g, x)
    return (g * counts).sum(1, True) / counts.sum(1, True).clamp(min=1)


def of_each(squash):
    """A gate that is right but for what becomes of W_g x + b_g: squash(gate, x, W_g x, b_g)."""

    def forward(self, x):
        if self.weight is None:
            return kept(self, torch.sigmoid(self.bias).view(1, 1, 1))
        x = x.to(self.weight.dtype)
        g = squash(self, x @ self.weight, self.bias)[..., None]
        return kept(self, rightly(self, g, x) if self.mode == "mean" else g)

    return written(forward)


def alone(say):
    def forward(self, x):
        return kept(self, say(self, x)) if self.weight is None else Gate.forward(self, x)

    return written(forward)


def mode_is(**of_mode):
    """A gate that takes one mode for another."""

    def forward(self, x):
        if self.weight is None:
            return Gate.forward(self, x)
        g = each(self, x)
        return kept(self, rightly(self, g, x) if of_mode[self.mode] == "mean" else g)

    return written(forward)


def sigmoid_of_the_mean(self, x):
    if self.weight is None:
        return kept(self, torch.sigmoid(self.bias).view(1, 1, 1))
    z = (x.to(self.weight.dtype) @ self.weight + self.bias)[..., None]
    return kept(self, torch.sigmoid(rightly(self, z, x) if self.mode == "mean" else z))


def no_dtype(self, x):
    if self.weight is None:
        return kept(self, torch.sigmoid(self.bias).view(1, 1, 1))
    g = torch.sigmoid(x @ self.weight + self.bias)[..., None]
    return kept(self, rightly(self, g, x) if self.mode == "mean" else g)


def detached(self, x):
    return Gate.forward(self, x).detach()


def value_with_its_graph(self, x):
    self.value = g = Gate.forward(self, x)
    return g


def no_value(self, x):
    g = Gate.forward(self, x)
    self.value = None
    return g


def zeroed_padding(self, x):
    if self.weight is not None and self.mode == "mean" and fits(self, x):
        x, before = x * self.mask[..., None], self.mask
        self.mask = None
        g = Gate.forward(self, x)
        self.mask = before
        return g
    return Gate.forward(self, x)


def never_alone(self, x):
    return kept(self, rightly(self, each(self, x), x) if self.mode == "mean" else each(self, x))


def takes_any_mask(self, x):
    if self.weight is None or self.mode == "token":
        return Gate.forward(self, x)
    g = each(self, x)
    counts = torch.ones_like(g) if self.mask is None else self.mask.to(g)[..., None]
    return kept(self, (g * counts).sum(1, True) / counts.sum(1, True).clamp(min=1))


def needs_a_mask(self, x):
    if self.weight is None or self.mode == "token":
        return Gate.forward(self, x)
    g = each(self, x)
    counts = self.mask.to(g)[..., None] if self.mask.shape == x.shape[:2] else torch.ones_like(g)
    return kept(self, (g * counts).sum(1, True) / counts.sum(1, True).clamp(min=1))


def masks_tokens(self, x):
    g = Gate.forward(self, x)
    return kept(self, g * counted(self, g, x)) if self.mode == "token" else g


def divided(guard):
    """The masked mean, its divisor guarded by guard(sum, number of tokens)."""
    return mean_of(
        lambda gate, g, x: guard(
            (g * counted(gate, g, x)).sum(1, True), counted(gate, g, x).sum(1, True)
        )
    )


def fits_in(axis):
    """Looks at one axis of the mask alone."""

    def forward(self, x):
        if self.weight is None or self.mode == "token":
            return Gate.forward(self, x)
        g, fitting = each(self, x), self.mask is not None
        fitting = fitting and self.mask.shape[axis] == x.shape[axis]
        counts = self.mask.to(g)[..., None] if fitting else torch.ones_like(g)
        return kept(self, (g * counts).sum(1, True) / counts.sum(1, True).clamp(min=1))

    return written(forward)


def alone_returns_early(self, x):
    if self.weight is None:
        return torch.sigmoid(self.bias).view(1, 1, 1)
    return Gate.forward(self, x)


def uses_the_mask_up(self, x):
    g = Gate.forward(self, x)
    self.mask = None
    return g


def cuts_the_text_off(gate, g, x):
    """As many tokens from the left as the text has, wherever they stand."""
    if not fits(gate, x):
        return g.mean(1, True)
    lengths = gate.mask.sum(1).tolist()
    rows = [row[:n].sum(0) / max(n, 1) for row, n in zip(g, lengths, strict=True)]
    return torch.stack(rows)[:, None]


def value_of_the_batch(self, x):
    g = Gate.forward(self, x)
    self.value = g.detach().mean()
    return g


def in_float32(self, x):
    return Gate.forward(self, x.float())


def in_the_dtype_of_x(self, x):
    if self.mode == "alone":
        return Gate.forward(self, x)
    z = x @ self.weight.to(x.dtype) + self.bias
    g = torch.sigmoid(z)[..., None]
    return kept(self, rightly(self, g, x) if self.mode == "mean" else g)


def through_half(self, x):
    """Right but for its digits: half of a gate's numbers pass through bfloat16."""
    g = Gate.forward(self, x)
    coarse = g.bfloat16().to(g.dtype)
    return kept(self, g + (coarse - g).detach() / 2)


def times(factor):
    return written(lambda self, x: kept(self, factor * Gate.forward(self, x)))


def rounded(self, x):
    return Gate.forward(self, x).round()


class AnotherBuffer(Gate):
    """It keeps something that nobody has asked for."""

    def forward(self, x):
        self.register_buffer("last", x.detach(), persistent=False)
        return super().forward(x)


def half_for_nothing(gate, g, x):
    counts = counted(gate, g, x)
    return torch.where(counts.sum(1, True) == 0, 0.5, rightly(gate, g, x))


def test_a_mask_in_another_dtype_is_the_same_mask():
    """Kept as floats it counts the same tokens."""

    def forward(self, x):
        if self.mask is not None:
            self.mask = self.mask.to(x.dtype)
        return Gate.forward(self, x)

    checks.gate(written(forward))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (divided(lambda total, n: torch.nan_to_num(total / n, nan=0.0)), "the gradient is NaN"),
        (divided(lambda total, n: total / (n + 1e-8)), "a small number added"),
        (fits_in(1), "belongs to other tokens"),
        (fits_in(0), "belongs to other tokens"),
        (written(alone_returns_early), "not kept"),
        (written(uses_the_mask_up), "forward changes self.mask"),
        (mean_of(cuts_the_text_off), "padding may stand before a text"),
        (written(value_of_the_batch), "self.value has shape ()"),
        (written(in_float32), "some digits only"),
        (mean_of(lambda gate, g, x: g.mean(1, True)), "padding counts in the mean"),
        (mean_of(lambda gate, g, x: (g * counted(gate, g, x)).mean(1, True)), "divided by all T"),
        (mean_of(lambda gate, g, x: (g * counted(gate, g, x)).sum(1, True)), "not divided"),
        (mean_of(lambda gate, g, x: (g * counted(gate, g, x)).amax(1, True)), "the largest"),
        (mean_of(lambda gate, g, x: g[:, :1]), "first token alone"),
        (mean_of(lambda gate, g, x: g[:, -1:]), "last place alone"),
        (mean_of(lambda gate, g, x: rightly(gate, g, x).mean(0, True)), "over the texts"),
        (mean_of(lambda gate, g, x: rightly(gate, g, x)[:, 0]), "should be (2, 1, 1)"),
        (mean_of(lambda gate, g, x: rightly(gate, g, x).expand_as(g)), "shape"),
        (
            mean_of(
                lambda gate, g, x: (
                    (g * counted(gate, g, x)).sum(1, True) / counted(gate, g, x).sum(1, True)
                )
            ),
            "divides by 0",
        ),
        (
            mean_of(
                lambda gate, g, x: (
                    (g * (1 - counted(gate, g, x))).sum(1, True)
                    / (1 - counted(gate, g, x)).sum(1, True).clamp(min=1)
                    if fits(gate, x)
                    else g.mean(1, True)
                )
            ),
            "the other way round",
        ),
        (of_each(lambda gate, z, b: z + b), "the sigmoid is missing"),
        (of_each(lambda gate, z, b: torch.sigmoid(z)), "bias b_g is missing"),
        (of_each(lambda gate, z, b: torch.sigmoid(z) + b), "behind the sigmoid"),
        (of_each(lambda gate, z, b: torch.tanh(z + b)), "a tanh"),
        (of_each(lambda gate, z, b: torch.relu(z + b)), "a ReLU"),
        (of_each(lambda gate, z, b: torch.softmax(z + b, dim=1)), "softmax over the tokens"),
        (of_each(lambda gate, z, b: torch.sigmoid(-z - b)), "turned round"),
        (of_each(lambda gate, z, b: torch.sigmoid(z - b)), "in place of"),
        (of_each(lambda gate, z, b: torch.sigmoid(z / math.sqrt(C(gate)) + b)), "sqrt(C)"),
        (alone(lambda gate, x: gate.bias.view(1, 1, 1)), "the sigmoid is missing"),
        (alone(lambda gate, x: torch.sigmoid(gate.bias)), "(1, 1, 1)"),
        (alone(lambda gate, x: torch.sigmoid(gate.bias).expand(len(x), 1, 1)), "(1, 1, 1)"),
        (mode_is(mean="token", token="token"), 'mode "mean" is not averaged'),
        (mode_is(mean="mean", token="mean"), 'mode "token" is averaged'),
        (mode_is(mean="token", token="mean"), "the modes are exchanged"),
        (written(sigmoid_of_the_mean), "the sigmoid comes after it"),
        (written(no_dtype), "another dtype than W_g"),
        (written(detached), "g itself is detached"),
        (written(value_with_its_graph), "detach it"),
        (written(no_value), "not kept"),
        (written(zeroed_padding), "whose sigmoid is not 0"),
        (written(never_alone), "self.weight is None"),
        (written(takes_any_mask), "belongs to other tokens"),
        (written(needs_a_mask), "self.mask is None"),
        (written(in_the_dtype_of_x), "brought to the dtype of x"),
        (written(through_half), "some digits only"),
        (times(1.0001), "some digits only"),
        (times(1.02), "1.02 times as large"),
        (written(rounded), "g is rounded to 0 or 1"),
        (AnotherBuffer, "leaves last in the layer"),
        (mean_of(half_for_nothing), "a text without a token gets 0"),
        (of_each(lambda gate, z, b: (z + b).clamp(0, 1)), "cut off at 0 and 1"),
        (alone(lambda gate, x: gate.bias.new_full((1, 1, 1), 0.5)), "b_g is trained"),
        (written(masks_tokens), "no token looks at another"),
        (written(lambda gate, x: None), "None"),
        (written(lambda gate, x: gate.wieght @ x), "wieght"),
        (written(lambda gate, x: x.sigmoid_of()), "sigmoid_of"),
        (written(lambda gate, x: x @ torch.ones(7, 2)), "shape"),
    ],
)
def test_a_wrong_gate_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.gate(wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unwritten_gate_is_unfinished():
    def unwritten(self, x):
        raise NotImplementedError("Gate.forward is yours to write")

    with pytest.raises(checks.NotFinished, match="yours to write"):
        checks.gate(written(unwritten))


# -- closed_gate -----------------------------------------------------------------------------------

ANSWER = {"share": 0.25, "left": 0.75, "lora": 1}


def test_the_answers_are_those_of_attention():
    """Ten pairs of zeros before thirty words whose scores are 0, by the model's own attention."""
    import tiny_transformer as tt

    D = 4
    query = torch.zeros(1, 1, 1, D, dtype=torch.float64)
    keys, values = torch.randn(2, 1, 1, 30, D, dtype=torch.float64)
    pairs = torch.zeros(1, 1, 10, D, dtype=torch.float64)
    alone, _ = tt.attend(query, keys, values)
    o, weights = tt.attend(query, torch.cat([pairs, keys], 2), torch.cat([pairs, values], 2))
    assert weights[..., :10].sum().item() == pytest.approx(ANSWER["share"])
    assert torch.allclose(o, ANSWER["left"] * alone)


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        {"share": torch.tensor(0.25), "left": 3 / 4, "lora": 1.0},
        lambda: ANSWER,
        ANSWER | {"lora": torch.ones(1)},
    ],
)
def test_right_numbers_pass(answer):
    checks.closed_gate(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ANSWER | {"share": 0, "left": 1}, "not minus infinity"),
        (ANSWER | {"share": 1 / 3}, "divides by all"),
        (ANSWER | {"share": 1 / 40}, "one pair"),
        (ANSWER | {"share": 1 / 31}, "P pairs, not one"),
        (ANSWER | {"share": 0.5}, "a gate of 0 is shut"),
        (ANSWER | {"share": 1 / 11}, "one word among the pairs"),
        (ANSWER | {"share": 1 / 10}, "one pair among the pairs"),
        (ANSWER | {"left": 0.5}, "a gate of 0 is shut"),
        (ANSWER | {"left": 2 / 3}, "not by S"),
        (ANSWER | {"left": 3}, "compare S with P"),
        (ANSWER | {"share": 25}, "per cent"),
        (ANSWER | {"share": 0.75, "left": 0.25}, "what the words get"),
        (ANSWER | {"left": 1}, "finds zeros"),
        (ANSWER | {"left": 0}, "keep their share"),
        (ANSWER | {"left": 4 / 3}, "shorter, not longer"),
        (ANSWER | {"lora": 0}, "does not pass it"),
        (ANSWER | {"lora": 0.75}, "no part of a softmax"),
        (0.25, "should be a dict"),
    ],
)
def test_wrong_numbers_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.closed_gate(answer)


# -- union_numbers ---------------------------------------------------------------------------------

COUNTS = {"prefix": 184_320, "lora": 294_912, "adapter": 894_528, "gates": 27_684}


def test_the_numbers_are_those_of_the_package():
    """At a size that can be built, by the formulas of the answer."""
    import minipeft as mp
    from minipeft.course import runs
    from minipeft.methods.parts.gates import gates

    model, _ = runs.base("tiny-encoder")
    L, C = model.config.layers, model.config.width
    with runs.attached(model, mp.UniPELT(), seed=0) as tuner:
        every = sum(p.numel() for p in tuner.parameters())
        of_gates = sum(p.numel() for gate in gates(tuner).values() for p in gate.parameters())
    assert of_gates == 3 * (C + 1) * L
    assert every - of_gates == (2 * 10 * C + 8 * 2 * C * 2 + 2 * 48 * C + C + 48) * L
    from minipeft.checks.exercises import gate_numbers as answer

    right = answer.PREFIX, answer.LORA, answer.ADAPTER, answer.GATES
    assert right == tuple(COUNTS.values())


@pytest.mark.parametrize(
    "answer",
    [
        COUNTS,
        {name: float(value) for name, value in COUNTS.items()},
        {name: torch.tensor(value) for name, value in COUNTS.items()},
        lambda: COUNTS | {"all": sum(COUNTS.values())},
    ],
)
def test_right_counts_pass(answer):
    checks.union_numbers(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (COUNTS | {"prefix": 92_160}, "a key and a value"),
        (COUNTS | {"prefix": 15_360}, "one layer"),
        (COUNTS | {"lora": 147_456}, "one of the two maps"),
        (COUNTS | {"lora": 589_824}, "two maps and not four"),
        (COUNTS | {"lora": 14_155_776}, "W_0 itself"),
        (COUNTS | {"adapter": 884_736}, "the biases are missing"),
        (COUNTS | {"adapter": 2 * 894_528}, "one in a layer"),
        (COUNTS | {"adapter": 452_160}, "two matrices"),
        (COUNTS | {"lora": 37_248}, "not their sum"),
        (COUNTS | {"adapter": 903_168}, "W_down gives m numbers"),
        (COUNTS | {"adapter": 885_888}, "W_up gives C numbers"),
        (COUNTS | {"adapter": 1_769_472}, "with the biases m and C"),
        (COUNTS | {"gates": 18_456}, "the prefix has one as well"),
        (COUNTS | {"gates": 36_864}, "each has a bias"),
        (COUNTS | {"gates": 9_228}, "three in each layer"),
        (COUNTS | {"gates": 27_648}, "a gate has a bias"),
        (COUNTS | {"gates": 36}, "each has W_g and a bias"),
        (COUNTS | {"gates": 36_912}, "share the gate"),
        (COUNTS | {"gates": 18_468}, "the prefix's gate reads x as well"),
        (1_401_444, "should be a dict"),
    ],
)
def test_wrong_counts_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.union_numbers(answer)


# -- gate_patients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", diagnoses.forms(lesson.PATIENTS))
def test_right_diagnoses_pass(answer):
    checks.gate_patients(answer)


@pytest.mark.parametrize(("answer", "words"), diagnoses.wrong(lesson.PATIENTS, HINTS))
def test_a_wrong_diagnosis_is_told_what_speaks_against_it(answer, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.gate_patients(answer)
    assert words in str(caught.value)


def test_every_wrong_diagnosis_has_its_hint():
    diagnoses.assert_complete(lesson.PATIENTS, HINTS, lesson.CAUSES)


# -- nine_intervals --------------------------------------------------------------------------------

NINE = {"one": 1 - 0.95**9, "level": 100 * 0.95 ** (1 / 9)}


def test_nine_intervals_are_those_of_a_simulation():
    outside = torch.rand(400_000, 9, generator=torch.Generator().manual_seed(0))
    right = checks.nine_intervals.right
    assert (outside < 0.05).any(dim=1).double().mean().item() == pytest.approx(right["one"], 0.01)
    level = 1 - right["level"] / 100
    assert (outside < level).any(dim=1).double().mean().item() == pytest.approx(0.05, 0.02)


@pytest.mark.parametrize(
    "answer",
    [
        NINE,
        {key: torch.tensor(value) for key, value in NINE.items()},
        {"one": 0.37, "level": 99.4},
        lambda: {"level": 100 - 5 / 9, "one": 1 - 0.95**9},  # Bonferroni's
    ],
)
def test_nine_intervals_in_any_form(answer):
    checks.nine_intervals(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (NINE | {"one": 0.45}, "cannot be added"),
        (NINE | {"one": 0.63}, "none of them"),
        (NINE | {"one": 0.05}, "a single interval"),
        (NINE | {"one": 0.2985}, "exactly one"),
        (NINE | {"one": 37.0}, "not percent"),
        (NINE | {"one": 0.05**9}, "all nine do"),
        (NINE | {"level": 95}, "far more often"),
        (NINE | {"level": 99}, "still happens in 9 %"),
        (NINE | {"level": 0.994}, "percent are asked"),
        (NINE | {"level": 0.5683}, "may lie outside"),
        (NINE | {"level": 5 / 9}, "may lie outside"),
        (NINE | {"level": 63.02}, "all nine hold"),
        ({"one": 0.37}, "has no level"),
        (0.37, "should be a dict"),
    ],
)
def test_wrong_intervals_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.nine_intervals(answer)
