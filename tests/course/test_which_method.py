"""Lesson 15: the stored runs, rankings of them, and passports that are gathered."""

from __future__ import annotations

import math

import pytest

from minipeft.course import which_method as lesson
from minipeft.course import which_method_clouds as clouds
from minipeft.course import which_method_sheets as sheets
from minipeft.course.runs import attached, base


def test_the_stored_table_has_every_run_that_the_lesson_asks_for():
    stored = lesson.Runs.read()
    for situation in lesson.SITUATIONS:
        seeds = stored.seeds(situation)
        assert len(seeds) >= 3
        outcomes = stored.contest(situation)
        assert list(outcomes) == list(lesson.ARMS)
        assert all(len(outcome.runs) == len(seeds) for outcome in outcomes.values())
    every_setting = clouds.clouds_of(stored)
    assert all(
        len(values) >= 3 for cloud in every_setting.values() for values in cloud.test.values()
    )
    assert len(clouds.rank_columns(every_setting)) == len(lesson.RATES) + 1


def test_the_stored_table_has_shares_and_the_counts_of_the_package():
    model, _ = base(lesson.BASE)
    counts = {}
    for arm, method in (lesson.ARMS | lesson.VARIANTS).items():
        with attached(model, method) as tuner:
            report = tuner.report()
            counts[arm] = (report.trainable, report.stored)
    pruned = 4 * 2 * 8 * (80 + 80 + 1)  # AdaLoRA ends with rank 8 on average
    assert counts["AdaLoRA"] == (1.5 * pruned,) * 2
    counts["AdaLoRA"] = (pruned,) * 2
    for one in lesson.Runs.read().every.values():
        if math.isfinite(one.dev):
            assert (one.trained, one.stored) == counts[one.arm]
            assert all(0 <= share <= 1 for share in (one.test, one.ood, one.forgotten))
    budget = [counts[arm][1] for arm in ("adapter", "prefix", "P-Tuning v2", "LoRA", "DoRA")]
    budget += [counts[arm][1] for arm in ("AdaLoRA", "UniPELT")]
    assert all(abs(count - lesson.BUDGET) < 0.07 * lesson.BUDGET for count in budget)


def test_runs_are_kept_and_read_again(tmp_path):
    made = []

    def train(situation, arm, rate, seed):
        made.append(arm)
        dev = math.inf if rate > 0.05 else abs(math.log10(rate) + 2) + 0.01 * seed
        shares = (math.nan,) * 3 if rate > 0.05 else (0.5, 0.25, 0.125)
        return lesson.One(situation.task, situation.examples, arm, rate, seed, 7, 7, dev, *shares)

    path = tmp_path / "runs.csv"
    path.write_text("# a note\n" + ",".join(field.name for field in lesson.FIELDS) + "\n")
    first = lesson.Runs.read(path, train)
    outcomes = first.contest(lesson.NOVEL, ["LoRA"], [0, 1])
    assert outcomes["LoRA"].rate == 1e-2 and outcomes["LoRA"].values() == [0.5, 0.5]
    again = lesson.Runs.read(path)
    assert repr(again.every) == repr(first.every) and len(made) == len(again.every)
    assert again.seeds(lesson.NOVEL, ["LoRA"]) == [0, 1]
    assert again.seeds(lesson.NOVEL, ["LoRA"], lesson.RATES) == [0]
    assert again.seeds(lesson.FEW, ["LoRA"]) == []
    assert again.contest(lesson.NOVEL, ["LoRA"], [0, 1])["LoRA"].tried[0.1] == math.inf
    with pytest.raises(KeyError, match="No stored run of DoRA at 0.01"):
        again.one(lesson.NOVEL, "DoRA", 1e-2, 0)
    with pytest.raises(FileNotFoundError, match="benchmarks.contest makes it"):
        lesson.Runs.read(tmp_path / "none.csv")


def test_a_run_of_two_steps_measures_everything():
    one = lesson.measure(lesson.FEW, "LoRA", 1e-2, 0, steps=2, rows=4)
    assert one.trained == one.stored == lesson.BUDGET and math.isfinite(one.dev)
    assert 0 <= one.forgotten <= 1


def test_ranks_share_places_and_failed_runs_are_last():
    means = {"a": 0.5, "b": 0.9, "c": 0.5, "d": math.nan}
    assert lesson.ranks(means) == {"a": 2.5, "b": 1.0, "c": 2.5, "d": 4.0}


def test_pairs_that_are_turned_round():
    one = {"a": 1, "b": 2, "c": 3}
    assert lesson.turned(one, one) == 0
    assert lesson.turned(one, {"a": 3, "b": 2, "c": 1}) == 1
    assert lesson.turned(one, {"a": 2, "b": 1, "c": 3, "d": 0}) == pytest.approx(1 / 3)
    assert lesson.turned(one, {"a": 1, "b": 1, "c": 1}) == 0  # a tie turns nothing


def test_ranks_that_settings_make_possible():
    assert clouds.possible_ranks({"a": [5, 9], "b": [4], "c": [1, 6]}) == {
        "a": (1, 2),
        "b": (2, 3),
        "c": (1, 3),
    }


def test_who_is_not_shown_to_be_worse():
    scores = {
        "first": [0.90, 0.92, 0.91],
        "equal": [0.89, 0.91, 0.90],
        "noisy": [0.99, 0.40, 0.95],
        "worse": [0.50, 0.52, 0.51],
        "failed": [0.9, 0.9, math.nan],
    }
    assert lesson.against_best(scores, 0.05) == {
        "first": "best",
        "equal": "equal",
        "noisy": "undecided",
        "worse": "worse",
        "failed": "worse",
    }
    assert lesson.leader(scores, lower_is_better=True) == "worse"


def test_the_ranges_of_the_published_benchmark():
    spans = {name: max(each.values()) - min(each.values()) for name, each in clouds.PEFT.items()}
    assert max(spans, key=spans.get) == "prompt tuning"
    assert spans["prompt tuning"] == pytest.approx(28.6)
    possible = clouds.possible_ranks({n: list(s.values()) for n, s in clouds.PEFT.items()})
    assert [possible[name] for name in ("LoRA", "full", "DoRA")] == [(1, 1), (2, 2), (3, 3)]
    assert {possible[name] for name in ("IA3", "prefix", "prompt tuning")} == {(4, 6)}
    best = [max(each.values()) for each in clouds.PEFT.values()]
    assert max(best) - min(best) == pytest.approx(17.0)


def test_stored_passports_are_taken_and_the_rest_is_measured():
    every, source = sheets.passports_of({"full": (lesson.ARMS["full"], [1e-3])}, quick=True)
    assert source["full"] == "here" and source["LoRA"] == "lesson 10"
    assert "P-tuning" in every and "PTuning" not in every
    assert list(every)[0] == "full"
    table = sheets.passport_table(every, source)
    assert len(table.rows) == len(every) and len(table.header) == len(table.rows[0])


def test_verdicts_of_earlier_lessons():
    rows = {row[0]: row[2] for row in sheets.verdicts([58, 62]).rows}
    assert rows[58].startswith("10: ") and "15" not in rows[62]
