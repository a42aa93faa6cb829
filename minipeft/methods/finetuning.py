"""What there was before: train the model itself, all of it, its top, or its head.

These are the baselines that every parameter-efficient method is measured against.

| method         | trained                                    | parameters (GPT-2 layout, I = 4 C) |
|----------------|--------------------------------------------|------------------------------------|
| FullFineTuning | everything                                 | all                                |
| TopLayers(k)   | the last k blocks and what lies above them | k (12 C^2 + 13 C) + 2 C, plus head |
| HeadOnly       | the head                                   | head (V C for a language head)     |

"Variable fine-tuning" of Houlsby et al. 2019 (arXiv 1902.00751), section 3.3, is TopLayers with k
chosen per task. Base parameters that are trained keep a copy of their first value, so that
`detach` can give the base back bit for bit, and `disable` can compare. In a half-precision model
they stay so, and `train` keeps float32 values beside them while it runs.

Path: attach(model, TopLayers(2)) -> TopLayers.install -> tuner.unfreeze(parameters), which lets the
base's own parameters ask for gradients: the one kind of tuner that changes no layer's forward and
needs no door. HeadOnly.install -> tuner.copy(path) puts a trained copy in the head's place.

Departure: a language head that shares its matrix with the word embeddings is not trained by
TopLayers (it lies at both ends of the model); HeadOnly trains a separate copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipeft.methods.method import Method
from minipeft.methods.parts.validation import check_names, shorten


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Train every parameter of the model."""

    default_rate = 2e-4  # SST-2 with MiniLM: 51 % at 1e-3; lesson 15: 0.0001 to 0.009

    def install(self, tuner) -> None:
        tuner.unfreeze(tuner.anatomy.parameters())


@dataclass(frozen=True)
class TopLayers(Method):
    """Train the last `count` blocks, the final norm above them, and the task head if there is one.

    In an encoder-decoder these are the last blocks of the decoder.
    """

    default_rate = 2e-4  # as of full fine-tuning: the same weights, fewer of them

    count: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"TopLayers needs a count of at least 1, not {shorten(self.count)}.")

    def install(self, tuner) -> None:
        tuner.unfreeze(tuner.anatomy.top(self.count))


@dataclass(frozen=True)
class HeadOnly(Method):
    """Train the head and nothing else.

    heads: names of modules to train instead of the head that anatomy finds.
    """

    default_rate = 3e-2  # words of VADER with MiniLM: 84 % (75 at 1e-2); SST-2: 58 (52 at 1e-3)

    heads: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.heads is not None:
            check_names(self, "heads")

    def install(self, tuner) -> None:
        for path in self.heads or tuner.anatomy.heads() or tuner.anatomy.language_head():
            tuner.copy(path)
