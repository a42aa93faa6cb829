"""Wrong solutions that are right in every ordinary case: limits, types, what stays between calls.

Each holds something that ordinary small inputs do not show: a number that is larger than all sizes
that are tried, a counter that ends at 127, a clamp, two axes told apart by their sizes, a setting
that is written down, float32 on the way of float64, an object that is right at its first calls.
"""

import itertools
import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch
from exercises.test_bank import refused
from torch.nn import functional as F

import tiny_transformer as tt
from minipeft import checks
from minipeft.analysis.examinations.labels import asked_for
from minipeft.analysis.spectra import similarity
from minipeft.checks.coverage import report
from minipeft.checks.framework import OMIT, Check, NumberCheck, Trial
from minipeft.checks.framework.cases import EQUAL, LARGE, every_large, every_pair
from minipeft.checks.framework.comparing import as_number, compare
from minipeft.course.lora import Merge, lora_gradients
from minipeft.course.prefix import prefix_gradients
from minipeft.course.serving import mixed_lora
from minipeft.course.serving_patients import SERVERS
from minipeft.course.written_prompts import behind_last
from minipeft.doors.words import place_vectors
from minipeft.methods.adapter import AdapterPatch
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.p_tuning import PromptEncoder
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.prefix import PrefixEncoder
from minipeft.tasks.prompt_search import promising


def made(kind, **methods):
    return type(kind.__name__, (kind,), methods)


def forward(kind, change):
    """A class whose forward changes the arguments, or the answer, of the right one."""
    return made(
        kind, forward=lambda self, *given: change(lambda *g: kind.forward(self, *g), *given)
    )


def rightmost(mask, dtype):
    return (mask * torch.arange(mask.shape[1]).to(dtype)).argmax(dim=1)


def at_most(tensor, most, dim):
    """The first ones along an axis; zeros behind."""
    size = tensor.shape[dim]
    kept = tensor.narrow(dim, 0, min(most, size))
    shape = list(tensor.shape)
    shape[dim] = size - kept.shape[dim]
    return torch.cat([kept, tensor.new_zeros(shape)], dim)


LIMITS = [
    ("behind_last", lambda x, m: x[range(len(m)), rightmost(m, torch.int8)], "T=264"),
    ("behind_last", lambda x, m: x[range(len(m)), rightmost(m, torch.bfloat16)], "T=264"),
    ("behind_last", lambda x, m: behind_last(x[:64], m[:64]), "shape"),
    ("behind_last", lambda x, m: at_most(behind_last(x, m), 100, 1), "V=264"),
    ("promising", lambda E, g, count: promising(E, g, min(count, 16)), "should be 200 things"),
    ("promising", lambda E, g, count: promising(E[:100], g, count), ""),
    ("prefix_gradients", lambda *g: [at_most(d, 12, 0) for d in prefix_gradients(*g)], "H=264"),
    (
        "lora_gradients",
        lambda x, A, B, s, g: lora_gradients(x[:, :100], A, B, s, g[:, :100]),
        "T=264",
    ),
    ("place_vectors", lambda x, i, f, v: place_vectors(x, i, f, v[:100]), ""),
    ("place_vectors", lambda x, i, f, v: place_vectors(x, i, min(f, 1000), v), ""),
    ("prefix_encoder", forward(PrefixEncoder, lambda f, *c: at_most(f(*c), 100, 0)), "P=264"),
    ("prompt_encoder", forward(PromptEncoder, lambda f: f()[:20]), "shape"),
    ("lora", made(LoRAPatch, delta=lambda p: p.scale * (p.B[:, :64] @ p.A[:64])), "rank=264"),
    ("adapter", forward(AdapterPatch, lambda f, x, y: at_most(f(x, y), 100, 1)), "T=264"),
    ("asked_for", lambda labels, shifted: asked_for(labels, shifted)[:100], "shape"),
    ("asked_for", lambda labels, shifted: asked_for(labels.to(torch.int8), shifted), ""),
    ("feed_forward", forward(tt.FeedForward, lambda f, x: at_most(f(x), 128, 2)), "width=264"),
    ("similarity", lambda a, b, i, j, side="in": similarity(a[:100], b[:100], i, j, side), ""),
]


@pytest.mark.parametrize(("name", "wrong", "words"), LIMITS)
def test_a_limit_beyond_the_small_sizes_is_seen(name, wrong, words):
    refused(getattr(checks, name), wrong, words)


CLAMPS = [
    ("behind_last", lambda x, mask: behind_last(x, mask).clamp(-10, 10)),
    ("adapter", forward(AdapterPatch, lambda f, x, y: f(x, y).clamp(-50, 50))),
    ("lora", forward(LoRAPatch, lambda f, x, y: f(x, y).clamp(-50, 50))),
    ("feed_forward", forward(tt.FeedForward, lambda f, x: f(x).clamp(-50, 50))),
    ("prompt_encoder", forward(PromptEncoder, lambda f: f().clamp(-20, 20))),
    ("place_vectors", lambda x, i, f, v: place_vectors(x.clamp(-20, 20), i, f, v)),
]


@pytest.mark.parametrize(("name", "wrong"), CLAMPS)
def test_a_clamp_is_seen(name, wrong):
    refused(getattr(checks, name), wrong, "large")


def naive(query, key, value, mask=None, dropout=0.0):
    """Softmax by its definition, which overflows."""
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    powers = (scores if mask is None else scores + mask).exp()
    weights = F.dropout(powers / powers.sum(-1, keepdim=True), dropout)
    return weights @ value, weights


def test_an_exponential_that_overflows_is_seen():
    refused(checks.attend, naive, "NaN")


FLOATS = [
    ("behind_last", lambda x, mask: behind_last(x.float(), mask).to(x.dtype)),
    ("place_vectors", lambda x, i, f, v: place_vectors(x.float(), i, f, v).to(x.dtype)),
    (
        "prefix_gradients",
        lambda *g: [d.to(g[0].dtype) for d in prefix_gradients(*map(torch.Tensor.float, g))],
    ),
    (
        "lora",
        made(LoRAPatch, delta=lambda p: (p.scale * (p.B.float() @ p.A.float())).to(p.A.dtype)),
    ),
    (
        "adapter",
        made(
            AdapterPatch,
            change=lambda p, h: (
                p.scale
                * p.up(
                    p.dropout(p.phi(p.down(h.to(p.up.weight.dtype)).float()).to(p.up.weight.dtype))
                )
            ),
        ),
    ),
]


@pytest.mark.parametrize(("name", "wrong"), FLOATS)
def test_float32_on_the_way_of_float64_is_seen(name, wrong):
    refused(getattr(checks, name), wrong, "")


def third_call(kind, method):
    original = getattr(kind, method)

    def wrong(self, *given):
        self.calls = getattr(self, "calls", 0) + 1
        answer = original(self, *given)
        return answer if self.calls < 4 else 0 * answer

    return made(kind, **{method: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("adapter", third_call(AdapterPatch, "forward")),
        ("lora", third_call(LoRAPatch, "delta")),
        ("prompt_encoder", third_call(PromptEncoder, "forward")),
        ("prefix_encoder", third_call(PrefixEncoder, "forward")),
    ],
)
def test_an_object_that_changes_its_mind_later_is_seen(name, wrong):
    refused(getattr(checks, name), wrong, "is called again")


class KeptInEval(PrefixEncoder):
    def forward(self, columns=slice(None)):
        if self.training:
            return super().forward(columns)
        self.__dict__.setdefault("kept", super().forward())
        return self.kept[:, columns]


class DetachedInEval(PromptEncoder):
    def forward(self):
        h = super().forward()
        return h if self.training else h.detach()


def test_eval_mode_is_tried_with_gradients_and_after_a_step():
    refused(checks.prefix_encoder, KeptInEval, "kept")
    refused(checks.prompt_encoder, DetachedInEval, "does not require grad")


def test_a_columns_slice_has_a_step_too():
    wrong = forward(PrefixEncoder, lambda f, c=slice(None): f(slice(c.start, c.stop)))
    refused(checks.prefix_encoder, wrong, "shape")


@pytest.mark.parametrize(
    "change",
    [
        lambda method, prefix: replace(prefix, layers=(1, 2) if method.layers else None),
        lambda method, prefix: replace(prefix, dropout=min(method.dropout, 0.1)),
        lambda method, prefix: replace(
            prefix, hidden=min(prefix.hidden or 7, 7) and prefix.hidden and 7
        ),
        lambda method, prefix: replace(prefix, std=1.0 if method.std == 1 else 0.02),
    ],
)
def test_a_setting_that_is_written_down_is_seen(change):
    wrong = made(PTuningV2, prefix=lambda method: change(method, PTuningV2.prefix(method)))
    refused(checks.p_tuning_v2, wrong, "")


def test_a_scale_that_is_made_whole_is_seen():
    change = lambda p, h: int(p.scale) * AdapterPatch.change(p, h) / p.scale  # noqa: E731
    refused(checks.adapter, made(AdapterPatch, change=change), "")


def test_a_side_that_is_guessed_from_the_sizes_is_seen():
    def wrong(one, other, i, j, side="in"):
        return similarity(one, other, i, j, side if one.shape[0] != one.shape[1] else "in")

    refused(checks.similarity, wrong, "")


def test_a_list_of_tensors_is_no_list_of_numbers():
    refused(checks.promising, lambda *g: [torch.tensor(w) for w in promising(*g)], "not a Tensor")


# -- Merge -----------------------------------------------------------------------------------------


class DetourAtTheStart(Merge):
    def __init__(self, linear, A, B, scale):
        super().__init__(linear, A, B, scale)
        self.delta = scale * (B @ A)

    @torch.no_grad()
    def merge(self):
        if self.original is None:
            self.original = self.linear.weight.clone()
            self.linear.weight += self.delta


class WeightAtTheStart(Merge):
    def __init__(self, linear, A, B, scale):
        super().__init__(linear, A, B, scale)
        self.W0 = linear.weight.detach().clone()

    @torch.no_grad()
    def merge(self):
        if self.original is None:
            self.original = self.W0
            self.linear.weight.copy_(self.W0 + self.scale * (self.B @ self.A))


def merging(after):
    def merge(self):
        Merge.merge(self)
        after(self)

    return made(Merge, merge=merge)


class ReplacesTheNumbers(Merge):
    @torch.no_grad()
    def unmerge(self):
        if self.original is not None:
            self.linear.weight.data, self.original = self.original, None


MERGES = [
    (DetourAtTheStart, ""),
    (WeightAtTheStart, ""),
    (ReplacesTheNumbers, "in place"),
    (merging(lambda m: m.linear.weight.requires_grad_(False)), "requires grad"),
    (merging(lambda m: m.linear.eval()), "training mode"),
    (
        merging(
            lambda m: setattr(
                m.linear.weight,
                "grad",
                torch.zeros(m.linear.weight.shape, dtype=m.linear.weight.dtype),
            )
        ),
        "gradient",
    ),
]


@pytest.mark.parametrize(("wrong", "words"), MERGES)
def test_what_a_merge_does_beside_its_sum_is_seen(wrong, words):
    refused(checks.lora_merge, wrong, words)


# -- the mechanisms --------------------------------------------------------------------------------


def test_every_size_is_large_once_and_all_are_alike_once():
    axes = {"T": (3, 1), "D": (4, 2), "alpha": (6, 1.5), "i": (2, 3), "side": (OMIT, "in")}
    axes |= {"magnitude": ("usual",), "dtype": ("float32", "float64")}
    cases = every_large(axes, lambda case: True, small=("i",))
    assert [case.T for case in cases].count(LARGE) == [case.D for case in cases].count(LARGE) == 1
    assert all(case.i in (2, 3) and (case.alpha == 6 or case.T == EQUAL) for case in cases)
    assert {case.side for case in cases if case.T == case.D == EQUAL} == {OMIT, "in"}
    large = [case for case in cases if case.magnitude == "large"]
    assert len(large) >= 2 and {case.dtype for case in large} == {"float64"}


def test_an_exercise_has_no_axis_of_the_frameworks_names():
    trial = Trial("", lambda case, draw: {}, lambda *given: None, axes={"phase": (1, 2)})
    with pytest.raises(ValueError, match="Call the axis 'phase' otherwise"):
        print(trial.cases)


def scaled(x, factor: float, shift: tuple = (0, 0)):
    return factor * x + (shift or (0, 0))[0]


def test_an_option_with_one_setting_is_a_gap(monkeypatch):
    def gaps(**axes):
        trial = Trial(
            "the answer",
            lambda case, draw: {"x": draw.normal(3)},
            lambda function, case, given: function(given.x, case.factor, case.shift),
            axes=axes,
        )
        check = Check("scaled", f"{__name__}:scaled", "", [trial])
        return report(check).one_setting

    assert gaps(factor=(0.5, 2.0), shift=((1, 0), (2, 0))) == ()
    assert gaps(factor=(3.0, 2.0), shift=((1, 0), (2, 0))) == ("factor",)
    assert gaps(factor=(0.5, 2.0), shift=(None, (2, 0))) == ("shift",)


def test_a_large_count_is_right_to_the_last_one():
    count = NumberCheck("count", "", 44_000_000_000_000, {1: "too few, far too few of them"})
    count(44_000_000_000_000), count(4.4e13)
    refused(count, 44_000_000_000_001, "off by one")
    refused(count, 44_000_000_010_000, "less than 5 %")


def test_a_tolerance_is_for_what_is_measured_and_relative_for_small_numbers():
    both = NumberCheck("both", "", {"share": 0.01, "rank": 3}, [], tolerance=0.02)
    both({"share": 0.0101, "rank": 3}), both({"share": 0.01, "rank": 3.0})
    refused(both, {"share": 0.0105, "rank": 3}, "share")
    refused(both, {"share": 0.01, "rank": 3.01}, "rank")


def test_a_number_within_the_tolerance_may_still_be_a_known_wrong_one():
    wrong = [({"whole": 8.3834}, "one more noun is gone each time")]
    price = NumberCheck("price", "", {"whole": 8.3709}, wrong, tolerance=0.01)
    price({"whole": 8.371}), price({"whole": 8.37}), price({"whole": 8.4})
    refused(price, {"whole": 8.38343}, "one more noun")
    refused(price, {"whole": 8.38}, "one more noun")


def test_of_two_known_mistakes_the_nearer_one_is_told():
    wrong = [(3.98, "the one farthest away"), (3.92, "the edge of an interval")]
    best = NumberCheck("best", "", 3.336, wrong, tolerance=0.03)
    refused(best, 3.92, "the edge"), refused(best, 3.97, "farthest")


def test_a_unit_is_seen_in_a_rounded_answer():
    share = NumberCheck("share", "", 0.9079, [(0.0921, "that is the rest")], tolerance=0.01)
    refused(share, 91, "100 times too large (per cent")
    refused(share, 9.2, "that is the rest; and a share is asked, not per cent")
    refused(share, 1.8, "too large, by a factor of 1.98")


def test_two_numbers_under_the_keys_of_each_other_are_exchanged():
    both = NumberCheck("both", "", {"low": 0.9, "high": 0.06, "flat": 0.9}, [], tolerance=0.01)
    refused(both, {"low": 0.06, "high": 0.9, "flat": 0.9}, "low and high are exchanged")
    refused(both, {"low": 0.06, "high": 0.5, "flat": 0.9}, "low is not 0.06")
    refused(both, {"low": 0.9, "high": 0.5, "flat": 0.9}, "high is not 0.5")
    words = NumberCheck("words", "", {"A": "a", "B": "b"}, [({"A": "b"}, "A moves nothing")])
    refused(words, {"A": "b", "B": "a"}, "A moves nothing")  # which would be told too much


def test_a_number_with_too_few_digits_is_told_so():
    share = NumberCheck("share", "", 0.0623, [], tolerance=0.01)
    refused(share, 0.06, "rounded too far"), refused(share, 0.07, "too large")
    refused(NumberCheck("count", "", 2048), 2048.5, "should be a whole number")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((form(2.5), 2.5) for form in (float, Fraction, Decimal, np.float32, torch.tensor)),
        *((form(2.5), 2.5) for form in (np.array, sympy.Float, sympy.Rational)),
        *((form(2), 2.0) for form in (int, np.int8, sympy.Integer)),
        *((form(1 + 1j), None) for form in (complex, np.complex64, np.array, torch.tensor)),
        *((form(True), None) for form in (bool, np.bool_, np.array, torch.tensor)),
        *((value, None) for value in ("2", None, [2], torch.ones(1), np.ones(2), sympy.sqrt(2))),
        pytest.param(10**400, math.inf, id="large"),
        pytest.param(-(10**400), -math.inf, id="below"),
    ],
)
def test_what_is_a_number_and_what_is_none(value, number):
    assert as_number(value) == number


def test_a_factor_is_told_with_its_side():
    nats = NumberCheck("price", "a price", 0.6931471805599453)
    refused(nats, 1.0, "1.4427 times too large (nats, or bits?)")
    refused(nats, 4 * 0.6931471805599453, "4 times too large")
    with pytest.raises(checks.CheckFailed) as caught:
        nats(4 * 0.6931471805599453)
    assert "byte" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"order": "A", "merge": "B", "cache": "C", "healthy": "D", "swap": "E"}, "turned round"),
        ({"a": "order", "b": "merge", "c": "cache", "d": "healthy", "e": "swap"}, "keys are A, B"),
        (["order", "merge", "cache", "healthy", "swap"], "a dict, {'A': .., 'B': .."),
        ({}, "keys are A, B, C, D, E"),
        (
            dict.fromkeys("ABCDE", "order"),
            "B is not 'order': the answers themselves are wrong",
        ),
        (
            {"A": "order", "B": "merge", "C": "swap", "D": "healthy", "E": "cache"},
            "C is not 'swap': its first words are wrong already",
        ),
        ({"A": "ordre", "B": "merge", "C": "cache", "D": "healthy", "E": "swap"}, "one of cache"),
        (SERVERS | {"A": ("order", "swap")}, "one of cache"),
        (SERVERS | {"A": None}, "not None"),
    ],
)
def test_every_form_of_a_diagnosis_is_told_what_is_wrong_with_it(answer, words):
    refused(checks.server_patients, answer, words)


def test_two_options_of_an_exercise_meet_where_a_mistake_shows():
    axes = {"B": (2, 1, 3), "T": (5, 1, 2), "mask": (None, "bias"), "causal": (False, True)}
    axes |= {"dtype": ("float32", "bfloat16"), "gradients": ("on", "off")}
    cases = every_pair(axes)
    precise = [case for case in cases if case.dtype == "float32" and case.gradients == "on"]
    for one, other in itertools.combinations(("B", "T", "mask", "causal"), 2):
        met = {(case[one], case[other]) for case in precise}
        assert met == set(itertools.product(axes[one], axes[other]))


def test_a_probe_leaves_the_reference_as_it_is_and_says_what_was_changed():
    for check in checks.EXERCISES.values():
        if isinstance(check, Check) and check.probes.expressions:
            trial = check.trials[0]
            case = trial.cases[0]
            wanted = check.expected(trial, case)
            answer = check.probes.answer(check, trial, case)
            assert trial.judge or wanted.error or compare(wanted.result, answer, trial) is None
            check.probes.ready.clear()
    refused(checks.mixed_lora, lambda x, *rest: mixed_lora(x.flip(1), *rest), "`x` runs backwards")
