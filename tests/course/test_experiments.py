"""The contest: what it runs, what it chooses, and the words that it gives to differences."""

import math

import pytest
from scipy import stats

from minipeft.course.experiments import (
    contest,
    difference,
    in_a_row,
    percent,
    spread,
    table,
    trend,
)
from minipeft.training.gradients import Diverged


def valley(best, calls=None):
    """A run whose dev is lowest at the rate `best`."""

    def run(name, rate, seed):
        if calls is not None:
            calls.append((name, rate, seed))
        return {"dev": abs(math.log(rate / best)), "test": 0.5 + 0.1 * seed}

    return run


def test_the_first_seed_chooses_and_the_others_run_at_the_best_rate_only():
    calls = []
    outcomes = contest({"a": [1e-3, 1e-2, 1e-1], "b": [1e-2]}, valley(1e-2, calls), [7, 8, 9])
    assert outcomes["a"].rate == 1e-2 and not outcomes["a"].edge
    assert sorted(calls) == sorted(
        [("a", r, 7) for r in (1e-3, 1e-2, 1e-1)]
        + [("b", 1e-2, 7)]
        + [(name, 1e-2, s) for name in "ab" for s in (8, 9)]
    )
    assert outcomes["a"].values("test") == pytest.approx([1.2, 1.3, 1.4])
    assert not outcomes["b"].edge  # one rate: nothing was chosen


@pytest.mark.parametrize("best, rate", [(0.81, 0.81), (1e-3, 1e-3)])
def test_a_grid_goes_on_by_its_own_factor_while_the_best_is_at_its_edge(best, rate):
    grid = [0.03, 0.01, 0.09] if best > 0.1 else [0.01, 0.1]
    outcome = contest({"a": grid}, valley(best), [0], extend=4)["a"]
    assert outcome.rate == pytest.approx(rate) and not outcome.edge
    step = 3 if best > 0.1 else 10
    rates = sorted(outcome.tried)
    assert all(b / a == pytest.approx(step) for a, b in zip(rates, rates[1:], strict=False))


def test_a_best_rate_still_at_the_edge_is_flagged():
    outcome = contest({"a": [1e-2, 1e-1]}, valley(1e-9), [0], extend=2)["a"]
    assert outcome.edge and len(outcome.tried) == 4 and outcome.rate == min(outcome.tried)
    assert "at the edge" in str(table({"a": outcome}))
    assert contest({"a": [1e-2, 1e-1]}, valley(1e-9), [0], extend=0)["a"].tried.keys() == {
        1e-2,
        1e-1,
    }


def test_failed_runs_are_infinitely_bad_and_other_errors_are_not_hidden():
    def run(name, rate, seed):
        if rate > 0.02:
            raise Diverged("The loss is nan.")
        return {"dev": math.nan if rate > 0.005 else 1.0, "test": 0.5}

    outcome = contest({"a": [1e-3, 1e-2, 1e-1]}, run, [0, 1], extend=0)["a"]
    assert outcome.rate == 1e-3 and outcome.tried[1e-1] == outcome.tried[1e-2] == math.inf

    def typo(name, rate, seed):
        raise ValueError("There is no task.")

    with pytest.raises(ValueError, match="There is no task"):
        contest({"a": [1e-3]}, typo, [0])


def test_an_arm_that_always_fails_says_so():
    def run(name, rate, seed):
        raise Diverged("The loss is inf at step 3.")

    with pytest.warns(UserWarning, match="Every rate of 'a' failed: The loss is inf at step 3"):
        outcomes = contest({"a": [1e-3, 1e-2]}, run, [0, 1])
    assert outcomes["a"].failed == 2 and all(map(math.isnan, outcomes["a"].values("test")))
    assert "failed" in str(table(outcomes))
    assert difference(outcomes["a"].values(), [0.1, 0.2], 0.03).verdict == "undecided"


def test_many_runs_together_are_the_same_contest():
    asked = []

    def many(jobs):
        asked.append(len(jobs))
        return [valley(1e-4)(*job) for job in jobs]

    arms = {"a": [1e-3, 1e-2], "b": [1e-4, 1e-3, 1e-5]}
    alone = contest(arms, valley(1e-4), [0, 1, 2])
    assert contest(arms, many, [0, 1, 2], together=True) == alone
    assert asked == [5, 1, 1, 4]  # the grids, a twice beyond its edge, the other seeds


@pytest.mark.parametrize(
    "arms, seeds, words",
    [
        ({}, [0], "one or more arms"),
        ({"a": [1.0]}, [], "one or more seeds"),
        ({"a": [1.0]}, [0, 0], "seeds must differ"),
        ({"a": []}, [0], "no rate"),
        ({"a": [1.0, 1.0]}, [0], "must differ"),
        ({"a": [0.0, 1.0]}, [0], "above 0"),
    ],
)
def test_impossible_contests_are_refused(arms, seeds, words):
    with pytest.raises(ValueError, match=words):
        contest(arms, valley(1.0), seeds)


def test_results_must_have_dev_and_what_is_asked_for():
    with pytest.raises(ValueError, match='"dev"'):
        contest({"a": [1.0]}, lambda *job: {"test": 1.0}, [0])
    with pytest.raises(ValueError, match="no 'exact'; they have dev, test"):
        contest({"a": [1.0]}, valley(1.0), [0])["a"].values("exact")


def test_the_interval_of_a_difference_is_that_of_the_paired_t_test():
    a, b = [0.9, 0.8, 0.85, 0.7], [0.6, 0.65, 0.5, 0.6]
    said = difference(a, b, 0.03)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (said.mean - said.half) / 100 == pytest.approx(low)
    assert (said.mean + said.half) / 100 == pytest.approx(high)
    assert said.verdict == "better" and "points: better" in said.text
    assert difference(b, a, 0.03).verdict == "worse"
    assert difference(b, a, 0.03, lower_is_better=True).verdict == "better"


@pytest.mark.parametrize(
    "values, verdict",
    [
        ([0.01, 0.012, 0.011], "equal"),  # leaves out 0, but by less than matters
        ([0.0, 0.0, 0.0], "equal"),
        ([-0.1, 0.1, 0.0], "undecided"),  # contains 0 and reaches beyond the margin
        ([0.02, 0.05, 0.035], "undecided"),
        ([0.3, 0.31, 0.29], "better"),
        ([0.3], "undecided"),  # one seed has no interval
    ],
)
def test_noise_wins_neither_a_contest_nor_a_draw(values, verdict):
    assert difference(values, [0.0] * len(values), 0.03).verdict == verdict


def test_a_difference_needs_pairs():
    with pytest.raises(ValueError, match="paired by seed"):
        difference([0.1, 0.2], [0.1], 0.03)
    assert "nats" in difference([1.2, 1.3], [1.0, 1.1], 0.05, unit="nats").text


def test_a_trend_is_the_line_through_each_seed():
    x = [1, 2, 3, 4]
    rows = [[0.1 * k + 0.01 * k * s + s for s in (0, 1, 2)] for k in x]
    said = trend(x, rows)
    assert said.slopes == pytest.approx([0.10, 0.11, 0.12])
    assert said.slopes[1] == pytest.approx(stats.linregress(x, [r[1] for r in rows]).slope)
    assert said.mean == pytest.approx(100 * 0.11 * 3) and said.verdict == "rises"
    assert trend(x, [[-y for y in row] for row in rows]).verdict == "falls"
    assert trend([1, 2, 4, 8], rows, log=True).slopes == pytest.approx(said.slopes)


def test_a_trend_that_noise_could_make_is_undecided_and_a_small_one_flat():
    assert trend([1, 2, 3], [[0.1, 0.5], [0.5, 0.1], [0.5, 0.2]]).verdict == "undecided"
    assert trend([1, 2], [[0.5, 0.5], [0.501, 0.502]], margin=0.03).verdict == "flat"
    assert "within ±3 points" in trend([1, 2], [[0.5], [0.5]], margin=0.03).rule
    with pytest.raises(ValueError, match="two or more different x"):
        trend([1, 1], [[1.0], [2.0]])


def test_spread_shows_shares_as_per_cent():
    assert spread([0.5, 0.5]) == "50.0 ± 0.0 %" and spread([0.25]) == "25.0 %"
    assert spread([1.0, 3.0], "nats") == "2 ± 13"
    assert spread([0.73, 0.75], "nats") == "0.74 ± 0.13"
    assert spread([0.0375, 0.0405], "nats") == "0.039 ± 0.019"
    assert spread([0.5, 0.5], "nats") == "0.5 ± 0" and spread([0.25], "nats") == "0.25"
    assert difference([1.2, 1.3], [1, 1], 0.1, unit="nats").text.startswith("+0.25 ± 0.64 nats")


def test_no_interval_leaves_what_is_possible():
    """As in figures: a share lies in 0 to 100 %, the difference of two within ±100 points."""
    assert spread([1.0, 0.9]) == "95.0 [31.5, 100.0] %"  # ± 63.5: t = 12.706 with two seeds
    assert spread([0.0, 0.1]) == "5.0 [0.0, 68.5] %"
    assert spread([0.0, 1.0]) == "50.0 [0.0, 100.0] %"
    assert spread([1.0, 1.0]) == "100.0 ± 0.0 %" and spread([1.0]) == "100.0 %"
    assert spread([0.5, 0.52]) == "51.0 ± 12.7 %"  # inside: as it was
    assert spread([-0.01, 0.01], limits=(-1, 1)) == "0.0 ± 12.7 %"  # a loss of points may be a gain
    with pytest.raises(ValueError, match="outside"):
        spread([-0.2, 0.1])
    gap = difference([1.0, 0.9], [0.0, 0.0], 0.03)
    assert gap.text == "+95.0 [+31.5, +100.0] points: better" and gap.half > 63  # the rule has all
    assert in_a_row([gap]) == "+95.0 [+31.5, +100.0] (better) points"
    assert difference([0.0, 0.1], [1.0, 1.0], 0.03).number == "-95.0 [-100.0, -31.5]"
    assert difference([1.0], [0.1], 0.03).text == "+90.0 ± ? points: undecided"
    assert "±" in trend([1, 2], [[0.0, 0.1], [1.0, 0.9]]).text  # a line has no such range


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (1.0, 2, "100 %"),
        (0.8, 1, "80 %"),
        (0.0339, 2, "3.4 %"),
        (0.00428e-2, 3, "0.00428 %"),
        (4e-7, 1, "0.00004 %"),
        (0.0, 2, "0 %"),
        (math.nan, 2, "nan %"),
    ],
)
def test_a_share_is_never_written_as_a_power_of_ten(share, digits, text):
    assert percent(share, digits) == text


def test_several_differences_are_told_in_a_row_and_no_number_is_lost():
    rows = [([0.6, 0.61, 0.62], [0.5, 0.51, 0.52]), ([0.09, 0.01, 0.05], [0.01, 0.09, 0.05])]
    changes = [difference(*row, 0.03) for row in rows]
    said = in_a_row(changes)
    assert said == "+10.0 ± 0.0 (better), +0.0 ± 19.9 (undecided) points"
    assert in_a_row(changes, ["a, b", "c"]) == (
        "a, b +10.0 ± 0.0 (better); c +0.0 ± 19.9 (undecided) points"
    )
    failed = difference([math.nan] * 3, [0.1, 0.2, 0.3], 0.03)
    assert in_a_row([failed, changes[0]]) == "a run failed (undecided), +10.0 ± 0.0 (better) points"
