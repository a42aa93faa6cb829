"""What test_parallel.py starts with torchrun: runs on two processes, their results in a folder.

`processes.py OUT` does the runs of CASES, `processes.py OUT sharded` the one on a sharded base. The
latter ends by `os._exit`: caches of torch's FSDP2 keep a process group that was destroyed, and its
threads abort a process now and then while Python ends, long after its work is done.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

import torch
import zoo
from safetensors.torch import save_file

import minipeft as mp

LORA = mp.LoRA(rank=2)
CASES = {  # name -> (model, head, method, rows of the batches)
    "decoder": ("tiny-decoder", "language", LORA, (4, 3)),
    "lonely": ("tiny-decoder", "language", LORA, (1, 2)),  # a process without rows
    "prompt": ("gpt2", "language", mp.PromptTuning(length=3), (4, 3)),
    "masked": ("bert", "language", mp.Prefix(length=2), (3, 4)),
    "classes": ("bert", "classification", LORA, (3, 4)),
    "tags": ("tiny-encoder", "tagging", mp.IA3(), (3, 4)),
    "seq2seq": ("t5", "language", mp.AdaLoRA(init_rank=3, target_rank=2), (3, 4)),
    "whole": ("tiny-decoder", "language", None, (4, 3)),
}
STEPS, STOP = 6, 4


class Stop(Exception):
    pass


def data(case: str, count: int = 4) -> list[dict]:
    """Batches whose rows have very different numbers of labels."""
    name, head, _, rows = CASES[case]
    batches = [zoo.batch(name, head, rows[i % 2], seed=i) for i in range(count)]
    for batch in batches:
        if head == "language":
            batch["labels"][0, 2:] = -100
    return batches


def start(case: str, seed: int = 0):
    """The model of a case, its tuner (None: all of it is trained)."""
    name, head, method, _ = CASES[case]
    model = zoo.build(name, head)
    if method is None:
        return model, None
    tuner = mp.attach(model, method, seed=seed)
    if seed == 0:
        zoo.shake(tuner, 0.05)
    return model, tuner


def train(case: str, folder: Path, stop: bool = False, resume: bool = False, seed: int = 0):
    """(History, trained tensors) of a run; with `stop` it ends after STOP steps."""
    model, _ = start(case, seed)
    batches = data(case)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def feed(number: int) -> dict:
        if stop and number == 2 * STOP:
            raise Stop
        return batches[number % len(batches)]

    def evaluate(model) -> dict:
        return {"minus loss": -model(**batches[0]).loss.item()}

    try:
        history = mp.train(
            *(model, feed, STEPS, 2e-3),
            **dict(accumulate=2, evaluate=evaluate, evaluate_every=2, progress=False),
            **dict(checkpoint=folder / case, checkpoint_every=2, resume=resume),
        )
    except Stop:
        return None, {}
    return history, {n: p.detach().clone() for n, p in named.items()}


def sharded(out: Path, rank: int) -> None:
    """A frozen base that each process holds one half of (FSDP2), with LoRA whole on both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = zoo.build("llama")
    tuner = mp.attach(model, LORA, seed=0)
    zoo.shake(tuner, 0.05)
    trained = set(tuner.parameters())
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(model, mesh=mesh, ignored_params=trained)
    halves = {n: type(p).__name__ for n, p in model.named_parameters() if p not in trained}
    assert set(halves.values()) == {"DTensor"}, halves

    output = model(**zoo.batch("llama"))
    output.loss.backward()
    tensors = {f"grad.{i}": p.grad.clone() for i, p in enumerate(tuner.parameters())}
    tensors["logits"] = output.logits.detach().clone()
    for parameter in trained:
        parameter.grad = None
    evaluate = {"evaluate": lambda model: -model(**llamas()[0]).loss.item()}
    history = mp.train(model, llamas(), STEPS, 2e-3, progress=False, **evaluate)
    history.save(out / f"sharded-{rank}.json")
    save_file(tensors, out / f"sharded-{rank}.safetensors")
    tuner.save(out / f"sharded-{rank}")  # asks all processes for their part of the base
    try:
        tuner.merge()
    except ValueError as error:
        (out / f"merge-{rank}.json").write_text(json.dumps(str(error)))


def llamas() -> list[dict]:
    return [zoo.batch("llama", rows=3, seed=seed) for seed in range(3)]


def write_end(out: Path, rank: int) -> None:
    """Called as the process ends: is it still bound to the others?"""
    (out / f"end-{rank}.json").write_text(json.dumps(torch.distributed.is_initialized()))


def main(out: Path) -> None:
    rank = int(os.environ["RANK"])
    atexit.register(write_end, out, rank)  # what is registered first is called last
    for case in CASES:  # the other process begins with other numbers: the first one's are taken
        history, tensors = train(case, out / "two", seed=rank)
        save_file(tensors, out / f"{case}-{rank}.safetensors")
        history.save(out / f"{case}-{rank}.json")
    train("decoder", out / "begun by two", stop=True)
    history, tensors = train("decoder", out / "begun by one", resume=True)
    save_file(tensors, out / f"resumed-{rank}.safetensors")
    history.save(out / f"resumed-{rank}.json")
    model, _ = start("decoder")
    batches = [zoo.batch("tiny-decoder", seed=rank)]
    try:
        mp.train(model, batches, 1, progress=False)
    except ValueError as error:
        (out / f"error-{rank}.json").write_text(json.dumps(str(error)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2:] == ["sharded"]:
        torch.distributed.init_process_group("gloo")
        sharded(Path(sys.argv[1]), int(os.environ["RANK"]))
        os._exit(0)
    main(Path(sys.argv[1]))
