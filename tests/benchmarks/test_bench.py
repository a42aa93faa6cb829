"""`make bench` makes its tables. At tiny sizes: no time is asserted."""

import csv
from unittest import mock

import pytest
from patience import patience

pytest.importorskip("peft")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

TABLES = {
    "pretraining_step": ["pretraining_step"],
    "training_step": ["training_step"],
    "real_step": ["real_step"],
    "savings": ["savings"],
    "shared_prompt": ["shared_prompt"],
    "inference": ["inference", "mixed_batch"],
    "side_by_side": ["side_by_side"],
    "memory": ["memory"],
    "growth": ["growth"],
    "startup": ["startup"],
    "threads": ["threads"],
}


@pytest.fixture(scope="module")
def bench():
    """benchmarks/run.py as the command line runs it."""
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]

    def run(*arguments):
        command = [sys.executable, str(root / "benchmarks" / "run.py"), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=root, timeout=patience(75)
        )

    return run


@pytest.mark.slow
def test_every_section_makes_its_tables(bench, tmp_path):
    done = bench("--quick", "--threads", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for tables in TABLES.values():
        for table in tables:
            text = (tmp_path / f"{table}.md").read_text(encoding="utf-8")
            assert text in done.stdout and text.startswith("## ")
            with (tmp_path / f"{table}.csv").open(encoding="utf-8") as file:
                head, *rows = csv.reader(file)
            assert rows and all(len(row) == len(head) for row in rows)
            assert all(f"| {row[0]} " in text for row in rows)
            assert (tmp_path / f"{table}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 3 * sum(map(len, TABLES.values()))


def test_the_memory_that_is_predicted_is_the_memory_that_is_measured():
    """What a step keeps is linear in the batch, so that two tiny batches tell it to the byte."""
    import minipeft as mp
    from benchmarks.bases import Size
    from benchmarks.memory import measured, predicted

    size = Size(2, 32, 2, 64, 3, 8)
    method = mp.LoRA(rank=2, targets=("qkv",))
    guess, real = predicted(size, method), measured(size, method)
    assert guess["weights"] == real["weights"]
    assert guess["gradients"] == real["gradients"] == 4 * 2 * 2 * (32 + 96)
    assert guess["optimizer"] == real["optimizer"] == 2 * guess["gradients"] + 4 * 4
    assert guess["activations"] == pytest.approx(real["activations"], rel=0.01)


def test_flops_know_the_attention_of_processors():
    import torch

    from benchmarks.measuring import flops

    q = torch.randn(2, 3, 5, 4, requires_grad=True)  # (B, H, T, D)
    function = torch.nn.functional.scaled_dot_product_attention
    forward = 2 * 2 * 3 * 5 * 5 * 4 * 2  # two products
    assert flops(lambda: function(q, q, q)) == forward
    assert flops(lambda: function(q, q, q).sum().backward()) == forward * 7 / 2  # and five


def test_the_real_model_is_left_out_with_one_sentence_where_it_is_not_at_hand(bench, tmp_path):
    with mock.patch.dict("os.environ", MINIPEFT_REAL="0"):
        done = bench("--only", "real_step", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Left out: SmolLM2-135M-Instruct, because MINIPEFT_REAL is 0." in done.stdout
    assert not list(tmp_path.iterdir())


def test_both_sides_train_the_same_on_a_model_of_smollm2s_kind():
    """PEFT's settings are ours: as many trained numbers, as much work for LoRA and the prefix."""
    from types import SimpleNamespace

    import minipeft as mp
    from benchmarks import real_step
    from benchmarks.bases import trainable, with_peft

    for name, (method, config, _) in real_step.methods(32).items():
        model, _ = real_step.model_for(SimpleNamespace(quick=True))
        mp.attach(model, method, seed=0)
        other, _ = real_step.model_for(SimpleNamespace(quick=True))
        other = with_peft(other, config)
        counts = [sum(p.numel() for p in trainable(m)) for m in (model, other)]
        assert counts[0] == counts[1] > 0, name


def test_the_shape_that_stands_for_smollm2_is_its_own():
    """Where the model is at hand, every setting is compared; else its published size."""
    import torch

    from benchmarks import real_step
    from minipeft.course import real

    with torch.device("meta"):
        model = real_step.llama(real_step.SHAPE)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    loaded = real.load("smollm2")
    if loaded is not None:
        assert {k: getattr(loaded[0].config, k) for k in real_step.SHAPE} == real_step.SHAPE


def test_an_unknown_section_is_refused(bench):
    done = bench("--only", "nothing")
    assert done.returncode == 2 and "training_step" in done.stderr
