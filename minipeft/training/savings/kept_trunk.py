"""An exact saving: blocks below the lowest door in use run once per batch, not once per epoch.

What they hand to the first block that has something to train is the same in every epoch, as long as
nothing is dropped out. `train(..., keep_trunk=True)` keeps it in memory:

    first epoch     every block runs; of each stack the last frozen block's output is kept (B, T, C)
    later epochs    the frozen blocks hand on what was kept: no forward work there, and no backward

Which blocks are frozen is not looked up but seen: those whose output needs no gradient. So it holds
for the head alone, top layers, or any method with `layers=`, and for an encoder below a tuned
decoder. Soft prompts and patches in the first block leave nothing to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from tqdm import tqdm

from minipeft.attached import anatomy_of
from minipeft.passes.reach import partly
from minipeft.routing import wrap
from minipeft.training.batches import tidy
from minipeft.training.savings.shared_prompt import drops


class Trunk:
    """The frozen blocks of a model and what they gave for each batch of a list.

    Attributes:
        frozen: paths of the blocks that run once per batch.
        bytes: what keeping their outputs for all batches takes.

    Raises:
        ValueError: the batches are no list, something is dropped out, or no block is frozen.
    """

    def __init__(self, model: nn.Module, batches: Sequence[dict], ready: Callable) -> None:
        """ready: makes the batch that the model is called with (puts it on the device)."""
        if not isinstance(batches, list | tuple) or not batches:
            raise ValueError("keep_trunk=True needs batches in a list, to know them again.")
        if drops(model):
            raise ValueError(
                "keep_trunk=True needs dropout off, since what is dropped differs from epoch to "
                "epoch: set the dropout of the model's config to 0."
            )
        self.model = model
        self.blocks = dict(anatomy_of(model).blocks())
        with self.outputs_of(self.blocks) as given:
            model(**ready(batches[0]))
        self.frozen = [
            path
            for path, output in given.items()
            if not any(part.requires_grad for part in tensors(output))
        ]
        if not self.frozen:
            raise ValueError(
                "keep_trunk=True has nothing to keep: something is trained before or in the first "
                "block. Tune upper layers only (layers=...), or leave it out."
            )
        last = {stack_of(path): path for path in self.frozen}  # of each stack
        self.ends = {path: self.blocks[path] for path in last.values()}
        parts = [part for path in self.ends for part in tensors(given[path])]
        tokens = [batch["input_ids"].numel() for batch in batches]
        size = sum(part.numel() * part.element_size() for part in parts)
        self.bytes = round(size * sum(tokens) / tokens[0])
        # number of a batch -> path of an end -> output
        self.kept: dict[int, dict[str, object]] = {}

    @staticmethod
    @contextmanager
    def outputs_of(blocks: dict[str, nn.Module]) -> Iterator[dict[str, object]]:
        """Inside, what these blocks give back is put down, in the order of their turns."""
        outputs: dict[str, object] = {}
        with ExitStack() as stack:
            for path, block in blocks.items():
                hook = block.register_forward_hook(
                    lambda block, args, output, path=path: outputs.update({path: output})
                )
                stack.callback(hook.remove)
            yield outputs

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Inside, the model runs on the batch of this number, without needless work."""
        if number in self.kept:
            with partly(self.model), self.handing_on(self.kept[number]):
                yield
            return
        with self.outputs_of(self.ends) as outputs:
            yield
        self.kept[number] = outputs

    @contextmanager
    def handing_on(self, outputs: dict[str, object]) -> Iterator[None]:
        """Inside, the frozen blocks hand on these outputs instead of working."""
        of_stack = {stack_of(path): output for path, output in outputs.items()}
        try:
            for path in self.frozen:
                output = of_stack[stack_of(path)]
                self.blocks[path].forward = lambda *args, _output=output, **kwargs: _output
            yield
        finally:
            for path in self.frozen:
                vars(self.blocks[path]).pop("forward", None)


def stack_of(path: str) -> str:
    """The list that a block stands in: "transformer.h" of "transformer.h.3"."""
    return path.rpartition(".")[0]


def tensors(output: object) -> Iterator[Tensor]:
    """The tensors in what a block gives back."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for part in output:
            yield from tensors(part)


def trunk_of(model: nn.Module, batches: Sequence[dict], processes, progress: bool) -> Trunk:
    """The trunk of a model in training; `progress` tells its size.

    Raises:
        ValueError: there is nothing to keep, or several processes would have to keep it.
    """
    if processes.size > 1:
        raise ValueError("keep_trunk=True works in one process: leave it out under torchrun.")
    device = next(model.parameters()).device
    trunk = Trunk(model.train(), batches, lambda batch: wrap(model, tidy(batch, device)))
    if progress:
        tqdm.write(
            f"{len(trunk.frozen)} frozen blocks run once for each of {len(batches)} batches; what "
            f"they give is kept: {trunk.bytes / 2**20:.1f} MiB."
        )
    return trunk
