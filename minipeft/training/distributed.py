"""One run on several processes: the same `train`, started by torchrun.

    torchrun --nproc-per-node 2 my_training.py        # or on several machines, as torchrun has it

Every process holds the base and what is trained, asks for the same batches, and keeps its own rows
of each. The loss of a batch is a mean over its N labels, n_k of which stand in the rows of process
k. So the gradient of the whole batch is a sum, each process weighing its own by its labels:

    L = sum_k (n_k / N) L_k          dL/dw = sum_k (n_k / N) dL_k/dw

Only the gradients of what is trained travel: `reduce` lays them into one flat buffer and sums it
over all processes once per step. The frozen base has no gradients, and nothing of it is sent.

The losses and weights are those of one process, up to the order of sums, unless something is drawn
or counted: dropout draws other numbers for another number of processes (for the same number they
are the same, after a resume too), a batch norm that trains sees the rows of one process, and a loss
that compares rows (in-batch negatives) or balances experts is no mean over labels.

The base may be sharded by FSDP2, what is trained must not be:
fully_shard(model, ignored_params=set(tuner.parameters())).  docs/at_70b.md goes through it.

The commands `train` and `compare` refuse torchrun: their processes would all write one folder.
"""

from __future__ import annotations

import atexit
import json
import math
import os
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minipeft.attached import kind_of, tuners
from minipeft.contexts import seeded
from minipeft.model.kind import head_of
from minipeft.model.libraries import is_sharded, is_sharded_tensor, unwrapped
from minipeft.routing import wrap
from tiny_transformer.models import Stack


def process_group(
    model: nn.Module, parameters: dict[str, nn.Parameter], seed: int
) -> SingleProcess:
    """This process and those that torchrun has started beside it. Joins them if need be."""
    if not dist.is_available():
        return SingleProcess()
    if not dist.is_initialized() and started_by_torchrun():
        device = next(iter(parameters.values())).device
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(leave)
    several = dist.is_initialized() and dist.get_world_size() > 1
    return MultiProcess(model, parameters, seed) if several else SingleProcess()


def leave() -> None:
    """Leave the other processes before Python ends: torch's threads that still wait for them then
    would abort a process that has done all its work."""
    if dist.is_initialized():
        dist.destroy_process_group()


def started_by_torchrun() -> bool:
    """Does the environment say, in torchrun's words, that this process is one of several?"""
    words = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(word in os.environ for word in words) and int(os.environ["WORLD_SIZE"]) > 1


class SingleProcess:
    """One process: the whole batch is its share, and there is nobody to ask."""

    rank, size, bytes = 0, 1, 0  # bytes: what this process gives to `reduce` in a step

    def share(self, batch: dict) -> tuple[dict, float]:
        """(the rows of this process, N / n_k: how often its labels go into those of the batch)."""
        return batch, 1

    def noise(self, number: int):
        """A block of code with the dropout of this process for the micro-batch of that number."""
        return nullcontext()

    def reduce(self, loss: float) -> float:
        """Sum the gradients over all processes; gives the sum of their shares of the loss."""
        return loss

    def broadcast(self, ask: Callable[[], dict]) -> dict:
        """What the first process answers; the others wait for it."""
        return ask()

    def wait(self) -> None:
        """Until all processes are here."""


class MultiProcess(SingleProcess):
    """One of several processes; each method does what it says in `SingleProcess`.

    Raises:
        ValueError: what is trained is sharded.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter], seed: int) -> None:
        if any(map(is_sharded_tensor, parameters.values())):
            raise ValueError(
                "What is to be trained is sharded: leave it whole by fully_shard(model, "
                "ignored_params=set(tuner.parameters()))."
            )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.model, self.parameters, self.seed = model, list(parameters.values()), seed
        self.device = self.parameters[0].device
        self.sharded = is_sharded(model)  # a forward pass needs every process
        inner = unwrapped(model)
        self.tiny = isinstance(inner, Stack)
        causal = inner.causal if self.tiny else kind_of(model) == "decoder"
        self.shifted = causal and head_of(model) == "language"
        self.checksum = 0  # of the batches of this step: they must be the same everywhere
        for parameter in self.parameters:
            dist.broadcast(parameter.data, src=0)
        numbers = sum(p.numel() + 1 for p in self.parameters) + 2
        self.bytes = numbers * torch.finfo(self.dtype()).bits // 8

    def dtype(self) -> torch.dtype:
        """Of the sums: float32, or double where that is trained."""
        return torch.float64 if self.parameters[0].dtype == torch.float64 else torch.float32

    def share(self, batch: dict) -> tuple[dict, float]:
        if tuners(self.model) and self.model.minipeft.routing:
            raise ValueError("route() names the rows of one process: train without it.")
        batch = wrap(self.model, batch)  # soft prompts first: with them the first word has a label
        asked = self.asked(batch)  # (B,)
        rows = torch.arange(len(asked)).tensor_split(self.size)[self.rank].to(asked.device)
        count, every = int(asked[rows].sum()), int(asked.sum())
        if not count:  # take part all the same, with a row that has labels, at a weight of 0
            rows = asked.argmax()[None]
        self.checksum = (31 * self.checksum + self.checksum_of(batch)) % 4093
        part = {
            key: value[rows] if isinstance(value, Tensor) and len(value.shape) else value
            for key, value in batch.items()
        }
        return part, every / count if count else math.inf

    def asked(self, batch: dict) -> Tensor:
        """How many labels of each row go into the loss: (B,)."""
        labels, mask = batch.get("labels"), batch.get("attention_mask")
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            tensor = next(v for v in batch.values() if isinstance(v, Tensor) and v.dim())
            return torch.ones(len(tensor), dtype=torch.long, device=tensor.device)
        asked = labels.flatten(1) != -100 if labels.dim() > 1 else labels[:, None] != -100
        if self.shifted:  # position t answers for t + 1
            asked = asked[:, 1:]
            if mask is not None and self.tiny:
                asked = asked & (mask[:, 1:] != 0)
        return asked.sum(dim=1)

    def checksum_of(self, batch: dict) -> int:
        """A small number that differs when batches differ."""
        whole = [v for v in batch.values() if isinstance(v, Tensor) and not v.is_floating_point()]
        sums = [int((v.flatten() * torch.arange(1, v.numel() + 1).to(v)).sum()) for v in whole]
        return sum((i + 1) * number for i, number in enumerate(sums)) % 4093

    def noise(self, number: int):
        return seeded((self.seed * 1_000_003 + number) * self.size + self.rank)

    def reduce(self, loss: float) -> float:
        numbers = [loss, self.checksum, *(float(p.grad is not None) for p in self.parameters)]
        whole = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = [g.flatten().to(self.dtype()) for g in whole]
        flat = torch.cat([*flat, torch.tensor(numbers, dtype=self.dtype(), device=self.device)])
        dist.all_reduce(flat)  # sums; every process then has the same bits
        *sums, (loss, checksums, *used) = flat.split([g.numel() for g in whole] + [len(numbers)])
        if checksums != self.size * self.checksum:
            raise ValueError(
                "The processes do not read the same batches: batches must depend on their number "
                "only, and every process must see the folder of the checkpoint."
            )
        for parameter, total, times in zip(self.parameters, sums, used, strict=True):
            if times:  # without a gradient anywhere there is none, as in one process
                parameter.grad = total.view_as(parameter).to(parameter.dtype)
        self.checksum = 0
        return loss.item()

    def broadcast(self, ask: Callable[[], dict]) -> dict:
        answer = ask() if self.rank == 0 or self.sharded else None
        text = torch.frombuffer(bytearray(json.dumps(answer).encode()), dtype=torch.uint8)
        size = torch.tensor([len(text)], device=self.device)
        dist.broadcast(size, src=0)
        text = text.to(self.device) if self.rank == 0 else size.new_zeros(int(size)).byte()
        dist.broadcast(text, src=0)
        return json.loads(bytes(text.tolist()))

    def wait(self) -> None:
        dist.barrier()
