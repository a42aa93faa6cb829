"""Lesson 14's ten runs: each broken in one way, which is measured without the doctor."""

from __future__ import annotations

import pytest
import torch

import minipeft as mp
from minipeft.course import museum, museum_charts

KINDS = list((museum.FIRST | museum.SECOND).values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_finds_the_fault_and_nothing_once_it_is_mended(kind):
    run = museum.exhibit(kind)
    before = mp.fingerprint(run.model)
    assert museum_charts.examined(run).kinds == (kind,)
    assert mp.fingerprint(run.model) == before
    assert museum_charts.examined(museum.exhibit(kind, mended=True)).passed


def test_there_are_ten_kinds():
    assert sorted(KINDS) == sorted(museum.MAKERS) and len(set(KINDS)) == 10


def columns(table) -> dict[str, dict[str, object]]:
    """run -> column -> cell."""
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_room_one_shows_each_fault_in_its_column():
    chart = columns(museum_charts.chart_one(museum.FIRST, steps=4))
    assert chart["healthy"] | {"no gradient": 0, "gradient all 0": 0} == chart["healthy"]
    of = {kind: chart[name] for name, kind in museum.FIRST.items()}
    assert (
        of["checkpointing"]["no gradient"] == 8 and of["checkpointing"]["places called"] == "5 of 5"
    )
    assert of["labels"]["labels not -100"] == "8 of 64"
    assert of["precision"]["dtype"] == "bfloat16"
    assert of["reach"]["places called"] == "2 of 8" and of["reach"]["no gradient"] == 12
    assert of["zero start"]["gradient all 0"] == of["zero start"]["tensors to train"]
    assert of["zero start"]["numbers moved"] == "0 %"


def test_room_two_shows_each_fault_in_its_column():
    chart = columns(museum_charts.chart_two(museum.SECOND, steps=4))
    of = {kind: chart[name] for name, kind in museum.SECOND.items()}
    changed = {
        "padding": "padding taken off",
        "head": "saved and loaded",
        "tied weights": "merged by hand",
    }
    for kind, cells in of.items():
        for column in changed.values():
            off = str(cells[column]).endswith("% off")
            assert off == (changed.get(kind) == column), (kind, column, cells)
    assert of["targets"]["blocks with a patch"] == "10 of 12"
    assert "experts (4, 32, 32)" in of["experts"]["largest weight with no patch"]
    same = ("merged by hand", "saved and loaded")
    assert all(chart["healthy"][column] == "same" for column in same)


def test_padding_taken_off_changes_nothing_where_the_prompt_stands_at_the_text():
    run = museum.exhibit("padding", mended=True)
    answers = museum_charts.logits(run.model, run.batch)
    assert museum_charts.moved(answers, museum_charts.without_padding(run)) == "same"


def test_gaps_are_those_of_the_format():
    assert museum_charts.gaps(torch.bfloat16, [0.1, 1.0]) == [2**-11, 2**-7]
    assert museum_charts.gaps(torch.float16, [1.0]) == [2**-10]
    assert museum_charts.gaps(torch.float32, [1.0]) == [2**-23]
    assert museum_charts.share_moved([1e-8, 1.0], torch.bfloat16)[1] == 1.0
