"""Two processes give the run of one: losses, weights, evaluations, snapshots."""

import json
import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
import zoo
from safetensors.torch import load_file

import minipeft as mp
from minipeft.training.history import History

pytestmark = pytest.mark.slow


def torchrun(script: Path, *arguments: object) -> None:
    """Two processes on this machine, as a user starts them."""
    folders = [Path(__file__).parents[1], Path(__file__).parents[2]]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, folders)), OMP_NUM_THREADS="1")
    options = ["--nproc-per-node", "2", "--standalone"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(script)]
    done = subprocess.run(
        [*command, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes have written, one of their runs being begun by one process."""
    out = tmp_path_factory.mktemp("processes")
    processes.train("decoder", out / "begun by one", stop=True)
    torchrun(Path(processes.__file__), out)
    return out


def same(ours: History, theirs: History) -> None:
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-6)
    assert ours.gradient_norms == pytest.approx(theirs.gradient_norms, abs=1e-5)
    assert ours.best_step == theirs.best_step
    for a, b in zip(ours.evaluations, theirs.evaluations, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def close(ours: dict, theirs: dict) -> None:
    """Weights within a hundredth of one step of 2e-3. The losses above are held to 1e-6.

    Adam divides a gradient by its own size: where it is nearly 0, the last bit of a sum that was
    taken in another order moves a weight by a visible share of a step.
    """
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", processes.CASES)
def test_two_processes_give_the_run_of_one(folder, tmp_path, case):
    history, tensors = processes.train(case, tmp_path)
    for rank in (0, 1):
        same(History.load(folder / f"{case}-{rank}.json"), history)
        close(load_file(folder / f"{case}-{rank}.safetensors"), tensors)
    first, second = (load_file(folder / f"{case}-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_is_trained_travels(folder):
    model, tuner = processes.start("decoder")
    record = History.load(folder / "decoder-0.json").records["in parallel"]
    count = sum(p.numel() for p in tuner.parameters())
    assert record == [
        {"step": 0, "processes": 2, "bytes": 4 * (count + len(tuner.parameters()) + 2)}
    ]
    assert count < sum(p.numel() for p in model.parameters()) / 5


def test_resumed_by_another_number_of_processes(folder, tmp_path):
    history, tensors = processes.train("decoder", tmp_path)
    resumed = History.load(folder / "resumed-0.json")  # one process, then two
    same(resumed, history)
    assert [r["step"] for r in resumed.records["in parallel"]] == [processes.STOP]
    close(load_file(folder / "resumed-1.safetensors"), tensors)
    again, tensors_again = processes.train("decoder", folder / "begun by two", resume=True)
    same(again, history)
    close(tensors_again, tensors)


def test_a_frozen_base_may_be_sharded(folder, tmp_path):
    """FSDP2: each process holds half of the base; outputs, gradients and the run are the same."""
    model = zoo.build("llama")
    tuner = mp.attach(model, processes.LORA, seed=0)
    zoo.shake(tuner, 0.05)
    output = model(**zoo.batch("llama"))
    output.loss.backward()
    for rank in (0, 1):
        tensors = load_file(folder / f"sharded-{rank}.safetensors")
        torch.testing.assert_close(tensors["logits"], output.logits, rtol=0, atol=1e-6)
        for number, parameter in enumerate(tuner.parameters()):
            torch.testing.assert_close(tensors[f"grad.{number}"], parameter.grad, rtol=0, atol=1e-6)
    data = processes.llamas()
    history = mp.train(
        *(model, data, processes.STEPS, 2e-3),
        **dict(evaluate=lambda model: -model(**data[0]).loss.item(), progress=False),
    )
    for rank in (0, 1):
        same(History.load(folder / f"sharded-{rank}.json"), history)
        whole = zoo.build("llama")  # the file knows the whole base by its fingerprint
        loaded = mp.load(whole, folder / f"sharded-{rank}")
        close(loaded.named_tensors(), tuner.named_tensors())
        assert "sharded base" in json.loads((folder / f"merge-{rank}.json").read_text())


def test_processes_that_read_different_batches_are_stopped(folder):
    for rank in (0, 1):
        sentence = json.loads((folder / f"error-{rank}.json").read_text())
        assert "do not read the same batches" in sentence


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    model, _ = processes.start("decoder")
    mp.train(model, processes.data("decoder"), 1, progress=False)
    assert not torch.distributed.is_initialized()
