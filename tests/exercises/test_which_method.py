"""The exercises of lesson 15: right and wrong answers, and what each wrong one is told."""

from __future__ import annotations

import math
from fractions import Fraction

import diagnoses
import numpy
import pytest
import torch

import minipeft as mp
from minipeft import checks
from minipeft.checks.exercises.first_by_luck import best_of
from minipeft.checks.exercises.unfair_contests import HINTS
from minipeft.course import runs
from minipeft.course import which_method as lesson
from minipeft.course import which_method_sheets as sheets
from minipeft.course.pareto import pareto_front


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- same_budget -----------------------------------------------------------------------------------

RIGHT = {"LoRA": 8, "P-Tuning v2": 16, "adapter": 15, "prompt tuning": 128}


def test_the_right_sizes_are_the_largest_that_the_package_counts_within_the_budget():
    base, _ = runs.base(lesson.BASE)
    makers = {
        "LoRA": lambda size: mp.LoRA(rank=size),
        "P-Tuning v2": mp.PTuningV2,
        "adapter": lambda size: mp.Adapter(size, placement="parallel"),
    }

    def kept(method) -> int:
        with runs.attached(base, method) as tuner:
            return tuner.report().stored

    for name, make in makers.items():
        assert kept(make(RIGHT[name])) <= lesson.BUDGET < kept(make(RIGHT[name] + 1))
    assert RIGHT["prompt tuning"] * base.config.width == lesson.BUDGET
    assert RIGHT["prompt tuning"] > base.config.positions
    assert RIGHT == checks.same_budget.right


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        {name: float(size) for name, size in reversed(RIGHT.items())},
        {name: torch.tensor(size) for name, size in RIGHT.items()},
        lambda: {name: Fraction(size) for name, size in RIGHT.items()},
        {name: numpy.int64(size) for name, size in RIGHT.items()} | {"note": ""},
    ],
)
def test_the_right_sizes_in_any_form(answer):
    checks.same_budget(answer)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"LoRA": 16}, "two maps"),
        ({"LoRA": 32}, "one layer"),
        ({"LoRA": 4}, "not four"),
        ({"P-Tuning v2": 32}, "a key and a value"),
        ({"P-Tuning v2": 64}, "one layer"),
        ({"adapter": 16}, "biases count"),
        ({"adapter": 15.4}, "whole number"),
        ({"adapter": 7}, "not two"),
        ({"adapter": 6}, "no norms"),
        ({"adapter": 10}, "once in a layer"),
        ({"adapter": 10_240 / 644}, "whole number"),
        ({"adapter": 15.2}, "it should be a whole number"),
        ({"adapter": 644}, "how many fit"),
        ({"LoRA": 1280}, "how many fit"),
        (dict.fromkeys(RIGHT, 10_240), "asked is its size"),
        ({"adapter": 31}, "W_down and W_up"),
        ({"prompt tuning": 32}, "in no layer"),
        ({"prompt tuning": 96}, "positions"),
        ({"prompt tuning": 127}, "prompt tuning"),
    ],
)
def test_wrong_sizes_are_told_where_they_come_from(changes, words):
    refused(checks.same_budget, RIGHT | changes, words)


# -- pareto_front ----------------------------------------------------------------------------------


def by_loops(costs, scores):
    """A point is on the front unless another one beats it."""
    points = list(zip(costs.tolist(), scores.tolist(), strict=True))

    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    return torch.tensor([not any(beats(a, b) for a in points) for b in points])


def by_sorting(costs, scores):
    """From cheap to dear, and of equal cost the best first: new records are on the front."""
    front = torch.zeros(len(costs), dtype=torch.bool)
    best, at = None, None
    for i in sorted(range(len(costs)), key=lambda i: (float(costs[i]), -float(scores[i]))):
        same = at is not None and (costs[i] == at[0]).item() and (scores[i] == at[1]).item()
        if same or best is None or scores[i] > best:
            front[i], best, at = True, scores[i], (costs[i], scores[i])
    return front


def by_stacking(costs, scores):
    """Both aims as heights, (n, 2)."""
    aims = torch.stack([-costs.double(), scores.double()], dim=1)
    higher = (aims[:, None] >= aims[None]).all(dim=2) & (aims[:, None] > aims[None]).any(dim=2)
    return higher.sum(dim=0) == 0


def by_records(costs, scores):
    """Nobody as cheap is better, and nobody as good is cheaper."""
    best = torch.stack([scores[costs <= cost].max() for cost in costs])
    least = torch.stack([costs[scores >= score].min() for score in scores])
    return (scores >= best) & (costs <= least)


def with_numpy(costs, scores):
    c, s = costs.numpy(), scores.detach().numpy()
    beaten = [bool(((c <= x) & (s >= y) & ((c < x) | (s > y))).any()) for x, y in zip(c, s)]  # noqa: B905
    return ~torch.tensor(beaten)


@pytest.mark.parametrize(
    "right", [pareto_front, by_loops, by_sorting, by_stacking, by_records, with_numpy]
)
def test_right_fronts_pass(right, capsys):
    checks.pareto_front(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def tables(costs, scores):
    as_good = (costs[:, None] <= costs) & (scores[:, None] >= scores)
    return as_good, (costs[:, None] < costs) | (scores[:, None] > scores)


def strict(costs, scores):
    return ~((costs[:, None] < costs) & (scores[:, None] > scores)).any(dim=0)


def along_the_rows(costs, scores):
    as_good, better = tables(costs, scores)
    return ~(as_good & better).any(dim=1)


def itself(costs, scores):
    return ~tables(costs, scores)[0].any(dim=0)


def one_aim(costs, scores):
    return ~tables(costs, scores)[1].any(dim=0)


def no_twins(costs, scores):
    return ~(tables(costs, scores)[0] & ~torch.eye(len(costs), dtype=torch.bool)).any(dim=0)


def first_twin(costs, scores):
    as_good, better = tables(costs, scores)
    return ~((as_good & better) | (as_good & as_good.T).triu(diagonal=1)).any(dim=0)


def in_sorted_order(costs, scores):
    order = costs.argsort(stable=True)
    return pareto_front(costs[order], scores[order])


def only_earlier(costs, scores):
    as_good, better = tables(costs, scores)
    return ~(as_good & better).triu(1).any(dim=0)


def neighbours(costs, scores):
    pairs = zip(costs[:-1], costs[1:], scores[:-1], scores[1:], strict=True)
    beaten = [bool((a <= b and s >= t) and (a < b or s > t)) for a, b, s, t in pairs]
    return ~torch.tensor([False, *beaten])


def best_of_each_cost(costs, scores):
    return scores == torch.stack([scores[costs == cost].max() for cost in costs])


def above_the_middle(costs, scores):
    return (costs <= costs.median()) & (scores >= scores.median())


def in_numbers_of_the_lesson(costs, scores):
    front = torch.tensor([1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0], dtype=torch.bool)
    return (
        torch.cat([front, front])[: len(costs)] if len(costs) < 27 else pareto_front(costs, scores)
    )


def sorting_costs(costs, scores):
    costs.copy_(costs.sort().values)
    return pareto_front(costs, scores)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda costs, scores: ~pareto_front(costs, scores), "opposite"),
        (along_the_rows, "dim 0"),
        (strict, "as good in one aim"),
        (itself, "no point beats itself"),
        (no_twins, "both are on the front"),
        (first_twin, "only one is kept"),
        (one_aim, "not enough"),
        (lambda costs, scores: pareto_front(-costs, scores), "lower is"),
        (lambda costs, scores: pareto_front(costs, -scores), "higher is"),
        (lambda costs, scores: scores == scores.max(), "only the best score"),
        (lambda costs, scores: costs == costs.min(), "only the lowest cost"),
        (
            lambda costs, scores: (scores == scores.max()) | (costs == costs.min()),
            "compromises",
        ),
        (in_sorted_order, "in the order of the costs"),
        (only_earlier, "those before it only"),
        (neighbours, "its neighbour only"),
        (best_of_each_cost, "of its own cost only"),
        (above_the_middle, "it is right at 3, 5 of axis 0"),
        (in_numbers_of_the_lesson, "earlier call"),
        (lambda costs, scores: pareto_front(costs.long(), scores), "costs are cut down"),
        (lambda costs, scores: pareto_front(costs, scores.int()), "scores are cut down"),
        (lambda costs, scores: pareto_front((costs - 1).log(), scores), ""),
        (lambda costs, scores: scores / costs == (scores / costs).max(), "made one number"),
        (lambda costs, scores: pareto_front(costs, scores).nonzero()[:, 0], ""),
        (lambda costs, scores: pareto_front(costs, scores).float(), "bool"),
        (lambda costs, scores: pareto_front(costs, scores).tolist(), "tensor"),
        (lambda costs, scores: None, "is a return missing"),
        (sorting_costs, "changed"),
    ],
)
def test_a_wrong_front_is_told_its_mistake(wrong, words):
    refused(checks.pareto_front, wrong, words)


# -- unfair_contests -------------------------------------------------------------------------------


def test_a_right_diagnosis_passes_in_any_form():
    for answer in diagnoses.forms(sheets.FAULTS):
        checks.unfair_contests(answer)


def test_a_wrong_diagnosis_is_told_what_speaks_against_it():
    diagnoses.assert_complete(sheets.FAULTS, HINTS, set(sheets.FAULTS.values()))
    for answer, words in diagnoses.wrong(sheets.FAULTS, HINTS):
        refused(checks.unfair_contests, answer, words)


def test_what_is_no_diagnosis():
    refused(checks.unfair_contests, {}, "")
    refused(checks.unfair_contests, list(sheets.FAULTS.values()), "")
    refused(checks.unfair_contests, None, "")
    with pytest.raises(checks.NotFinished):
        checks.unfair_contests({who: ... for who in sheets.FAULTS})


def test_every_report_shows_its_fault_and_no_other():
    stored = lesson.Runs.read()
    for letter, (pair, rates, _) in sheets.REPORTS.items():
        faults = symptoms(stored, letter, pair, rates)
        right = sheets.FAULTS[letter]
        assert faults == ({right} - {"fair"}), letter


def symptoms(stored, letter, pair, rates) -> set[str]:
    """What can be read off the rows of a report."""
    rows = [row for row in sheets.reports(stored).rows if row[0] == letter]
    assert [row[1] for row in rows] == list(pair)
    kept = [int(row[2].replace(",", "")) for row in rows]
    faults = {"size"} if kept[1] > 1.2 * kept[0] else set()
    for row in rows:
        dev = dict(zip((f"{rate:g}" for rate in lesson.RATES), row[3].split(", "), strict=True))
        dev = {rate: value for rate, value in dev.items() if value != "–"}
        assert list(dev) == [f"{rate:g}" for rate in rates]
        lowest = min((value for value in dev.values() if value != "failed"), key=float)
        assert list(dev.values()).count(lowest) == 1
        best = next(rate for rate, value in dev.items() if value == lowest)
        if best in (f"{rates[0]:g}", f"{rates[-1]:g}"):
            faults.add("rates")
        if row[5] != best:
            faults.add("test")
        seeds = [float(value) for value in row[6].split(", ")]
        if abs(float(row[7]) - sum(seeds) / len(seeds)) > 1:
            faults.add("seeds")
    first, second = (float(row[7]) for row in rows)
    assert second > first  # the second one "wins"
    return faults


# -- first_by_luck ---------------------------------------------------------------------------------

LUCK = {"thirteen": 3.336, "two": 2 / math.pi**0.5}  # of two: sigma / sqrt(pi), in closed form


def test_the_luck_of_the_first_is_that_of_a_simulation():
    noise = 2 * torch.randn(400_000, 13, generator=torch.Generator().manual_seed(1))
    right = checks.first_by_luck.right
    assert right["two"] == pytest.approx(LUCK["two"], rel=1e-3)
    assert right["thirteen"] == pytest.approx(noise.amax(dim=1).mean().item(), rel=5e-3)


def test_the_best_of_a_column_is_the_best_of_many_contests():
    known = [one["thirteen"] for one, said in checks.first_by_luck.wrong if "dim=0" in said]
    assert known == pytest.approx([best_of(10**n) for n in (4, 5, 6)], rel=2e-3)


@pytest.mark.parametrize(
    "answer",
    [
        LUCK,
        {key: torch.tensor(value) for key, value in LUCK.items()},
        {"thirteen": 3.4, "two": 1.1},
        lambda: {"two": numpy.float64(1.15), "thirteen": Fraction(10, 3)},
    ],
)
def test_luck_in_any_form(answer):
    checks.first_by_luck(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (LUCK | {"thirteen": 0}, "the best was picked"),
        (LUCK | {"thirteen": 2}, "picked by nobody"),
        (LUCK | {"thirteen": 1.67}, "not of 1"),
        (LUCK | {"thirteen": 3.98}, "not the one farthest away"),
        (LUCK | {"thirteen": 6.67}, "above the worst"),
        (LUCK | {"thirteen": 0.555}, "take the largest"),
        (LUCK | {"thirteen": 2.36}, "not its square"),
        (LUCK | {"thirteen": 1.13}, "the better one of two"),
        (LUCK | {"thirteen": 3.6}, "too large"),
        (LUCK | {"two": 0.0}, "the better one was picked"),
        (LUCK | {"two": 0.564}, "not of 1"),
        (LUCK | {"two": 2.26}, "take the higher"),
        (LUCK | {"two": 1.6}, "a single mean"),
        (LUCK | {"two": 3.34}, "the best of thirteen"),
        ({"thirteen": 3.336}, "has no two"),
        (3.336, "should be a dict"),
    ],
)
def test_wrong_luck_is_told_where_it_comes_from(answer, words):
    refused(checks.first_by_luck, answer, words)
