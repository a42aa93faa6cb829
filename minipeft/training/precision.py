"""What is trained has 24 bits of mantissa, whatever the model is stored in.

Patches and copies are float32 from the start. Parameters of a half-precision model that are trained
in place (FullFineTuning, TopLayers, a model without tuners) get float32 values beside them:

    w16 <- round(w32) before each pass       g32 += g16 after each       AdamW works on w32 and g32

Without them a step of 1e-5 is lost on a weight of 0.1, whose neighbours in bfloat16 are 5e-4 away,
and AdamW divides by zero in float16, where its epsilon of 1e-8 is none.

Gradients inside a float16 model are float16 too, and below 6e-8 they are zero. So the loss is
multiplied by a power of two before the backward pass and the gradients of what is trained are
divided by it (Micikevicius et al. 2018, arXiv 1710.03740, sections 3.1 and 3.2). Where that makes a
gradient overflow, above 65,504, the step is done again with a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

FIRST_SCALE = 1024.0  # gradients inside the model may be as long as 64
DIVISOR = 32.0  # by which a scale is made smaller
RECORD = "loss scale"  # its name in History.records


class Precision:
    """The values that the optimizer works on, and the scale of the loss.

    Attributes:
        trained: name -> parameter of the model.
        parameters: name -> the parameter itself, or its float32 values where it is in half
            precision.
        scale: of the loss; 1 unless the model is in float16.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.trained = parameters
        self.half = {name: p for name, p in parameters.items() if p.element_size() < 4}
        wide = {name: nn.Parameter(p.detach().float()) for name, p in self.half.items()}
        self.parameters = parameters | wide
        self._wide = {p: wide[name] for name, p in self.half.items()}
        self.in_half = any(p.dtype == torch.float16 for p in model.parameters())
        self.scale = FIRST_SCALE if self.in_half else 1.0

    def groups(self, groups: Iterable[dict]) -> list[dict]:
        """Groups of an optimizer, with the values that it works on."""
        return [g | {"params": [self._wide.get(p, p) for p in g["params"]]} for g in groups]

    def gather(self) -> None:
        """Add the half-precision gradients of one pass to those of the float32 values."""
        for parameter, wide in self._wide.items():
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                wide.grad = gradient if wide.grad is None else wide.grad + gradient
                parameter.grad = None

    def unscale(self) -> None:
        """Gradients of the scaled loss -> of the loss."""
        for parameter in self.parameters.values():
            if parameter.grad is not None and self.scale != 1:
                parameter.grad /= self.scale

    @torch.no_grad()
    def write(self) -> None:
        """Round the float32 values into the model."""
        for parameter, wide in self._wide.items():
            parameter.copy_(wide)

    def lower(self, step: int, records: dict) -> bool:
        """Make the scale smaller, and write it down; False when it is 1 already."""
        if self.scale == 1:
            return False
        self.scale = max(1.0, self.scale / DIVISOR)
        records.setdefault(RECORD, []).append({"step": step, "scale": self.scale})
        return True

    def hint(self) -> str:
        """What an error says besides, for a model in float16."""
        if not self.in_half:
            return ""
        return ", or load the model in bfloat16 or float32, since float16 ends at 65,504"

    def resume(self, records: dict) -> None:
        """The scale and the rounded values of a run that goes on."""
        if records.get(RECORD):
            self.scale = records[RECORD][-1]["scale"]
        self.write()

    def clear(self) -> None:
        """Leave no gradient behind."""
        for parameter in [*self.half.values(), *self.parameters.values()]:
            parameter.grad = None
