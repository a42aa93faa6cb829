"""The framework of the checks: surroundings, what is unfinished, small cases, numbers."""

import math
import random
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import tiny_transformer as tt
from minipeft import checks
from minipeft.checks.framework import Case, Check
from minipeft.checks.framework.cases import OMIT, every_pair
from minipeft.checks.framework.mutants import mutants
from minipeft.checks.framework.numbers import NumberCheck
from minipeft.checks.framework.observing import share_memory
from minipeft.checks.framework.randomness import Outcomes, distribution_differs
from minipeft.checks.framework.source import is_made_of
from minipeft.doors.words import place_vectors
from minipeft.methods.lora import LoRAPatch


def rejected(check, candidate):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    return caught.value


# -- surroundings ----------------------------------------------------------------------------------


def test_a_check_says_the_same_whatever_the_notebook_has_set():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu"), torch.inference_mode():
        torch.set_default_dtype(torch.float64)
        try:
            checks.lora(LoRAPatch)
            checks.attend(tt.attend)
            assert torch.get_default_dtype() == torch.float64
            assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled()
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(before, torch.get_rng_state())


def test_all_generators_are_put_back_after_a_rejection_too():
    random.seed(1), np.random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    rejected(checks.feed_forward, tt.Attention)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_a_solution_that_leaves_gradients_off_harms_nobody():
    def wrong(tokens, keys, like):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return tt.causal_mask(tokens, keys, like)

    rejected(checks.causal_mask, wrong)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_what_a_solution_prints_and_warns_is_kept_short(capsys):
    def loud(tokens, keys, like):
        print("tokens", tokens)
        warnings.warn("look here", UserWarning, stacklevel=1)
        return tt.causal_mask(tokens, keys, like)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checks.causal_mask(loud)
    out, err = capsys.readouterr()
    assert out.count("tokens") == 20 and "lines more" in out and err == ""


# -- unfinished, or wrong --------------------------------------------------------------------------


def test_only_the_stubs_own_exception_means_not_finished():
    class Stub(LoRAPatch):
        def delta(self):
            raise NotImplementedError("LoRAPatch.delta is yours to write")

    class Bare(LoRAPatch):
        def delta(self):
            raise NotImplementedError

    class NoForward(nn.Module):
        def __init__(self, width, inner, activation="gelu_tanh"):
            super().__init__()
            self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

        def foward(self, x):
            return x

    assert isinstance(rejected(checks.lora, Stub), checks.NotFinished)
    bare = rejected(checks.lora, Bare)
    assert not isinstance(bare, checks.NotFinished) and "not from the exercise" in str(bare)
    slip = rejected(checks.feed_forward, NoForward)
    assert not isinstance(slip, checks.NotFinished)
    assert "no method forward: it has foward" in str(slip)


def test_a_mistake_comes_before_what_is_not_finished_yet():
    class Half(LoRAPatch):
        def forward(self, x, y):
            return super().forward(x, y) - y

        def delta(self):
            raise NotImplementedError("LoRAPatch.delta is yours to write")

    assert "base path y is dropped" in str(rejected(checks.lora, Half))


@pytest.mark.parametrize(
    ("check", "thing", "words"),
    [
        (checks.lora, LoRAPatch(2, 2, 1, 1), "give the check the class itself"),
        (checks.attend, torch.ones(2), "give the check the function itself"),
        (checks.attend, None, "give the check the function itself"),
        (checks.lora, 3, "give the check the class itself"),
    ],
)
def test_another_object_than_the_one_asked_for_is_named(check, thing, words):
    assert words in str(rejected(check, thing))


def test_a_signature_that_was_changed_is_shown():
    def attend(query, key, value, mask=None):
        return tt.attend(query, key, value, mask)

    said = str(rejected(checks.attend, attend))
    assert "keep the signature as it was given, attend(query, key, value, mask=None" in said


def test_a_reference_that_a_notebook_replaces_is_still_the_reference(monkeypatch):
    def forward(self, x, y):
        return y

    monkeypatch.setattr(LoRAPatch, "forward", forward)
    assert "detour is missing" in str(rejected(checks.lora, LoRAPatch))


# -- the smallest case -----------------------------------------------------------------------------


def test_a_rejection_shows_a_small_case():
    error = rejected(checks.feed_forward, type("F", (tt.FeedForward,), {"forward": plus_one}))
    assert "is 1 too large everywhere" in str(error)
    assert "wanted" in error.case and "given" in error.case and "x = (1, 1, 1)" in error.case
    assert len(error.case.splitlines()) <= 8
    assert error.case in error.__notes__
    assert any("wanted" in line for line in error._render_traceback_())


def plus_one(self, x):
    return self.down(self.activation(self.up(x))) + 1


def test_the_smallest_case_names_the_option_that_matters():
    class CausalAlways(tt.Attention):
        def forward(self, x, context=None, mask=None, causal=False, cache=None):
            return super().forward(x, context, mask, causal, cache) * (2 if causal else 1)

    assert "causal=True" in rejected(checks.attention, CausalAlways).case


# -- cases -----------------------------------------------------------------------------------------


def test_every_pair_of_values_occurs_and_every_value_alone():
    axes = {"a": (1, 2, 3), "b": (OMIT, True, False), "c": ("x", "y"), "d": (0.1, 0.5)}
    cases = every_pair(axes, lambda case: not (case.a == 3 and case.c == "y"))
    names = list(axes)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for one in axes[first]:
                for two in axes[second]:
                    if {first, second} == {"a", "c"} and (one, two) == (3, "y"):
                        continue
                    assert any(c[first] is one and c[second] is two for c in cases)
    plain = Case({name: values[0] for name, values in axes.items()})
    assert cases[0] == plain
    assert all(Case(plain | {"d": 0.5}) in cases for _ in [0])
    assert len(cases) < 20


def test_outcomes_tell_a_share_a_scale_and_a_place():
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 2.0]]).repeat(4000, 1).double()

    def dropped(p, scale=None):
        keep = torch.rand(x.shape) >= p
        return counted(x * keep * (1 / (1 - p) if scale is None else scale))

    def counted(rows):
        return Outcomes.of(*rows.chunk(2))

    right = dropped(0.3)
    assert not distribution_differs(right, dropped(0.3))
    assert distribution_differs(right, dropped(0.4))
    assert distribution_differs(right, dropped(0.3, 1.0))
    assert distribution_differs(right, dropped(0.7, 1 / 0.7))
    together = counted(x * (torch.rand(4000, 1) >= 0.3) / 0.7)
    assert distribution_differs(right, together)


def test_mutants_are_many_and_each_has_a_name_of_its_own():
    every = [check for check in checks.EXERCISES.values() if isinstance(check, Check)]
    keys = [[m.key for m in mutants(check.source, check.blank)] for check in every]
    assert sum(map(len, keys)) > 700
    assert all(len(names) == len(set(names)) for names in keys)


# -- numbers ---------------------------------------------------------------------------------------

count = NumberCheck(
    "parameters", "r (in + out), twice", lambda: 2048, {1024: "that is one of the two maps"}
)
shape = NumberCheck("heads", "(B, H, T, D)", (2, 4, 5, 16), [((2, 5, 4, 16), "transpose T and H")])
share = NumberCheck("share", "of the words", 0.15, tolerance=0.01)
near = NumberCheck("near", "", 1.0, {1.04: "the mask is right"}, tolerance=0.05)
fine = NumberCheck("fine", "", 0.1234, tolerance=0.001)
both = NumberCheck("both", "", {"a": 2, "b": 3}, [({"a": 4}, "that is a squared")])
cause = NumberCheck("cause", "", "b", {"a": "the mask is right", "c": "the scale is right"})


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        *[(count, a) for a in (2048, 2048.0, torch.tensor(2048), np.int64(2048), Fraction(2048))],
        (count, lambda: 2048),
        *[(count, a) for a in (torch.tensor([2048]), np.array([2048.0]))],
        *[(shape, a) for a in ((2, 4, 5, 16), [2, 4, 5, 16], torch.Size([2, 4, 5, 16]))],
        (shape, torch.tensor([2, 4, 5, 16])),
        (shape, np.array([2.0, 4, 5, 16])),
        (share, 0.1505),
        (share, Fraction(15, 100)),
        (share, np.float32(0.15)),
        *[(near, a) for a in (1.0, 0.96, 1.02)],  # nearer to the right one, or not clearly wrong
        *[(cause, a) for a in ("b", "B", " b.", "(b)")],
    ],
)
def test_equivalent_forms_of_a_number_are_accepted(check, answer, capsys):
    check(answer)
    assert "✓" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("check", "answer", "words"),
    [
        (count, 1024, "one of the two maps"),
        (near, 1.04, "the mask is right"),
        (near, 1.035, "the mask is right"),
        (both, {"a": 4, "b": 3}, "that is a squared"),
        (fine, 0.12, "it is rounded too far, give more digits"),
        (count, 4096, "2 times too large"),
        (count, 2047, "off by one"),
        (count, -2048, "sign"),
        (count, 8192, "bytes of a float32"),
        (count, 2047.6, "should be a whole number"),
        (count, 3000, "too large, by a factor of 1.46"),
        (count, 2050, "too large, by less than 5 % (a small part"),
        (count, 2016, "too small, by less than 5 %"),
        (count, None, "is a return missing"),
        (count, "2048", "should be a number"),
        (count, (2048,), "should be a number"),
        (count, True, "should be a number"),
        (count, math.nan, "is not nan: that is no number"),
        (count, math.inf, "that is infinite"),
        (count, torch.tensor([2048, 1]), "should be a number"),
        (shape, (2, 5, 4, 16), "transpose T and H"),
        (shape, (2, 16, 5, 4), "their order is not"),
        (shape, (2, 4, 80), "4 axes, not 3"),
        (shape, (2, 4, 5, 64), "axis 3"),
        (shape, 16, "should be a shape"),
        (share, 15, "100 times too large (per cent"),
        (share, lambda: 1 / 0, "ZeroDivisionError"),
        (cause, "A", "the mask is right"),
        (cause, "d", "should be one of a, b, c, not 'd'"),
        (cause, 2, "should be one of a, b, c, not 2"),
    ],
)
def test_a_wrong_number_is_told_where_it_comes_from(check, answer, words):
    said = str(rejected(check, answer))
    assert words in said and "2048" not in said.replace("-2048", "").replace("not '2048'", "")


def test_bytes_are_no_excuse_for_a_number_that_is_too_small_where_none_are_counted():
    assert str(rejected(count, 512)).endswith("4 times too small")


def test_a_number_that_is_still_dots_is_not_finished():
    assert isinstance(rejected(count, ...), checks.NotFinished)


@pytest.mark.parametrize("by", ["file", "statement"])
def test_what_was_given_is_known_however_it_was_compiled(by):
    """Python's bytecode of a call depends on whether the import stands in the same compilation."""
    given = "import torch\n\n\ndef wrong(x):\n    return torch.relu(x) + torch.arange(3).sum()\n"
    parts = [given] if by == "file" else given.split("\n\n\n")
    space = {}
    for part in parts:
        exec(compile(part, "cell", "exec"), space)
    assert is_made_of(given, "wrong", space["wrong"])
    exec("def wrong(x):\n    return torch.relu(x) - torch.arange(3).sum()\n", space)
    assert not is_made_of(given, "wrong", space["wrong"])


def test_a_result_that_must_be_new_shares_no_memory_with_its_argument():
    """Where a trial says so, and there only: `feed_forward` may give back what it likes."""

    def shifted(x, ids, first, vectors):
        return place_vectors(x, ids, first, vectors) if (ids >= first).any() else x

    def seen(x, ids, first, vectors):
        return shifted(x, ids, first, vectors).view_as(x)

    for wrong in (shifted, seen):
        assert "a new tensor is asked for" in str(rejected(checks.place_vectors, wrong))
    assert share_memory(torch.ones(2, 3)[0], (torch.zeros(1),)) is False
    x = torch.ones(2, 3)
    assert share_memory(x, {"y": x[1].view(3, 1)}) and not share_memory(x, x.clone())
    assert not share_memory(torch.empty(0), torch.empty(0))


def test_part_of_an_answer_that_is_still_dots_is_not_finished():
    check = NumberCheck("sizes", "both", {"a": 2, "b": 3})
    with pytest.raises(checks.NotFinished, match="b is still"):
        check({"a": 2, "b": ...})
    check({"a": Decimal(2), "b": 3})
    assert "megabytes" in str(rejected(NumberCheck("n", "", 3_000_000), 3))
