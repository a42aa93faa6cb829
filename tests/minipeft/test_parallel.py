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
from closeness import LOSS, close
from patience import patience
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
        [*command, *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=patience(75),
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes have written, one of their runs being begun by one process."""
    out = tmp_path_factory.mktemp("processes")
    processes.train("decoder", out / "begun by one", stop=True)
    torchrun(Path(processes.__file__), out)
    return out


@pytest.fixture(scope="module")
def sharded_folder(tmp_path_factory) -> Path:
    """What two processes have written, each of which holds one half of the base."""
    out = tmp_path_factory.mktemp("sharded")
    torchrun(Path(processes.__file__), out, "sharded")
    return out


def same(ours: History, theirs: History) -> None:
    close(ours.losses, theirs.losses, dtype=torch.float32, roundings=LOSS)
    close(ours.gradient_norms, theirs.gradient_norms, dtype=torch.float32, roundings=LOSS)
    assert ours.best_step == theirs.best_step
    for a, b in zip(ours.evaluations, theirs.evaluations, strict=True):
        assert a.keys() == b.keys()
        close(list(a.values()), list(b.values()), dtype=torch.float32, roundings=LOSS)


def same_weights(ours: dict, theirs: dict) -> None:
    """As near as the gradients of losses in float32 are, times what Adam divides them by."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        close(ours[name], theirs[name], dtype=torch.float32, label=name)


@pytest.mark.parametrize("case", processes.CASES)
def test_two_processes_give_the_run_of_one(folder, tmp_path, case):
    history, tensors = processes.train(case, tmp_path)
    for rank in (0, 1):
        same(History.load(folder / f"{case}-{rank}.json"), history)
        same_weights(load_file(folder / f"{case}-{rank}.safetensors"), tensors)
    first, second = (load_file(folder / f"{case}-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_is_trained_travels(folder):
    model, tuner = processes.start("decoder")
    record = History.load(folder / "decoder-0.json").records["in parallel"]
    count = sum(p.numel() for p in tuner.parameters())
    assert record == [
        {"step": 0, "processes": 2, "bytes": 8 * (count + len(tuner.parameters()) + 2)}
    ]
    assert count < sum(p.numel() for p in model.parameters()) / 5


def test_resumed_by_another_number_of_processes(folder, tmp_path):
    history, tensors = processes.train("decoder", tmp_path)
    resumed = History.load(folder / "resumed-0.json")  # one process, then two
    same(resumed, history)
    assert [r["step"] for r in resumed.records["in parallel"]] == [processes.STOP]
    same_weights(load_file(folder / "resumed-1.safetensors"), tensors)
    again, tensors_again = processes.train("decoder", folder / "begun by two", resume=True)
    same(again, history)
    same_weights(tensors_again, tensors)


def test_a_frozen_base_may_be_sharded(sharded_folder, tmp_path):
    """FSDP2: each process holds half of the base; outputs, gradients and the run are the same."""
    model = zoo.build("llama")
    tuner = mp.attach(model, processes.LORA, seed=0)
    zoo.shake(tuner, 0.05)
    output = model(**zoo.batch("llama"))
    output.loss.backward()
    for rank in (0, 1):
        tensors = load_file(sharded_folder / f"sharded-{rank}.safetensors")
        close(tensors["logits"], output.logits)
        for number, parameter in enumerate(tuner.parameters()):
            close(tensors[f"grad.{number}"], parameter.grad)
    data = processes.llamas()
    history = mp.train(
        *(model, data, processes.STEPS, 2e-3),
        **dict(evaluate=lambda model: -model(**data[0]).loss.item(), progress=False),
    )
    for rank in (0, 1):
        same(History.load(sharded_folder / f"sharded-{rank}.json"), history)
        whole = zoo.build("llama")  # the file knows the whole base by its fingerprint
        loaded = mp.load(whole, sharded_folder / f"sharded-{rank}")
        same_weights(loaded.named_tensors(), tuner.named_tensors())
        assert "sharded base" in json.loads((sharded_folder / f"merge-{rank}.json").read_text())


def test_processes_that_read_different_batches_are_stopped(folder):
    for rank in (0, 1):
        sentence = json.loads((folder / f"error-{rank}.json").read_text())
        assert "do not read the same batches" in sentence


def test_a_process_leaves_the_others_before_it_ends(folder):
    """Else torch's threads abort it now and then, after all its work is done."""
    for rank in (0, 1):
        assert json.loads((folder / f"end-{rank}.json").read_text()) is False


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    model, _ = processes.start("decoder")
    mp.train(model, processes.data("decoder"), 1, progress=False)
    assert not torch.distributed.is_initialized()
