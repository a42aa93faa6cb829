"""What lesson 03 draws, diagnoses and weighs."""

import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks, tasks
from minipeft.course import transfer
from minipeft.course import transfer_lesson as lesson
from minipeft.course.runs import Known


@pytest.fixture(scope="module")
def tinyland():
    base, tokenizer = tt.load("tiny-decoder-0.4m")
    batch = tasks.load("reverse-rotate").batches("train", tokenizer, batch_size=16)(0)
    return base, Known(base, tokenizer, rows=12), batch


def test_what_is_not_written_is_taken_from_the_library():
    def unwritten(parts, count):
        raise NotImplementedError("train_top is yours to write")

    def mine(parts, count):
        return [count]

    def wrong(parts, count):
        raise ValueError("a mistake stays one")

    parts = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    assert lesson.written(mine, transfer.train_top)(parts, 1) == [1]
    written = lesson.written(unwritten, transfer.train_top)
    assert written(parts, count=1) == list(parts[1].parameters())
    with pytest.raises(ValueError, match="stays one"):
        lesson.written(wrong, transfer.train_top)(parts, 1)


def test_the_first_figure_shows_what_the_library_trains(tinyland):
    base, *_ = tinyland
    every = {"embedding", "block 0", "block 1", "block 2", "block 3", "last norm", "head"}
    for method, trained in (
        (mp.HeadOnly(), {"head"}),
        (mp.TopLayers(1), {"block 3", "last norm"}),
        (mp.TopLayers(4), every - {"embedding", "head"}),
        (mp.FullFineTuning(), every),
    ):
        parts = lesson.trained_parts(base, method)
        assert list(parts)[0] == "embedding" and set(parts) == every
        assert {part for part, on in parts.items() if on} == trained


def test_parts_by_hand_are_those_of_the_library(tinyland):
    base, *_ = tinyland
    for k in (1, 2, 3, 4):
        tuner = mp.attach(base, mp.TopLayers(k))
        by_library = set(tuner.parameters())
        tuner.detach()
        assert set(transfer.train_top(lesson.parts_of(base), k)) == by_library
    base.requires_grad_(True)


def test_every_patient_shows_its_symptom_and_leaves_the_base_alone(tinyland):
    base, known, batch = tinyland
    bits = mp.fingerprint(base)
    causes = ("healthy", *lesson.CAUSES)
    seen = {cause: lesson.examine(base, known, batch, cause, steps=8) for cause in causes}
    assert mp.fingerprint(base) == bits and all(p.requires_grad for p in base.parameters())
    healthy, whole = seen["healthy"], sum(p.numel() for p in base.parameters())
    assert healthy["gradient"] == healthy["changed"] == 155_840 < whole
    assert healthy["last"] < 0.5 * healthy["first"] and healthy["before"] == 1
    assert seen["lowest"]["gradient"] == seen["lowest"]["changed"] == 156_320
    assert seen["decay"]["gradient"] == 155_840 and seen["decay"]["changed"] == whole
    assert seen["idle"]["gradient"] == 155_840 and seen["idle"]["changed"] == 0
    assert seen["idle"]["last"] == seen["idle"]["first"] == healthy["first"]
    assert seen["again"]["first"] == healthy["last"] and seen["again"]["gradient"] == 155_840
    assert seen["random"]["before"] == 0
    for cause in ("lowest", "decay", "idle"):
        assert seen[cause]["first"] == healthy["first"] and seen[cause]["before"] == 1


def test_the_table_of_patients_shows_them_in_order(tinyland):
    rows = lesson.patients_table(*tinyland, steps=1).rows
    assert [row[0] for row in rows] == ["healthy", "A", "B", "C", "D"]
    assert len(set(lesson.PATIENTS.values())) == 4 and set(lesson.PATIENTS.values()) < {
        *lesson.CAUSES
    }


def test_the_bytes_that_are_there_are_the_bytes_that_were_worked_out(
    tinyland, tmp_path, monkeypatch
):
    """The right answer of the exercise, what `training_bytes` predicts and the tensors agree."""
    monkeypatch.chdir(tmp_path)
    base, _, batch = tinyland
    bits = mp.fingerprint(base)
    methods = {
        "full": mp.FullFineTuning(), "top 1": mp.TopLayers(1), "head only": mp.HeadOnly(),
    }  # fmt: skip
    for name, method in methods.items():
        w = lesson.weigh(base, method, batch)
        together = w["weights"] + w["gradients"] + w["adam"]
        assert together == w["predicted"] == checks.adam_bytes.right[name]
        assert w["stored"] > w["gradients"]
        assert w["kept"] == (0 if name == "head only" else w["gradients"])
    assert mp.fingerprint(base) == bits
    rows = lesson.ledger(base, methods, batch).rows
    assert [row[4] for row in rows] == [row[5] for row in rows]
    assert all(p.grad is None for p in base.parameters())
