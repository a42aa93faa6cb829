"""Where a pass begins, goes on inside and ends: the hooks of one module; see reach.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from torch import nn

from minipeft.model.libraries import is_library_model, is_of_library
from minipeft.passes.call_arguments import named_arguments

if TYPE_CHECKING:
    from minipeft.passes.reach import Reach


class Entrance:
    """The hooks of one module where a pass may begin."""

    def __init__(self, reach: Reach, path: str) -> None:
        self.reach, self.path = reach, path

    def register(self) -> Iterator:
        """The three hooks; each is given out as soon as it is there."""
        module = self.reach.bodies[self.path]
        yield module.register_forward_pre_hook(self.enter, with_kwargs=True)
        yield module.register_forward_hook(self.passed)
        yield module.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
        """Before a call: a pass begins, or goes on inside; soft prompts are put in."""
        reach = self.reach
        reach.lock.__enter__()
        reach.end_interrupted()
        if not reach.depth:
            reach.caller = frame_outside()
        reach.depth += 1
        every = named_arguments(module, args, kwargs)
        given = {name: value for name, value in every.items() if value is not None}
        if reach.depth == 1:
            reach.begin(self.path, given)
        reach.entered.add(self.path)
        reach.outside.append(reach.placed)
        reach.answers.append(None)
        changed = None if reach.placed else reach.place_words(self.path, module, given)
        if not (is_library_model(module) and is_of_library(type(module))):
            reach.placed = reach.outside[-1]  # what it will give to the model inside is not known
        reach.note_positions(given | (changed or {}))
        if reach.depth == 1:
            reach.look_at_rows_once(module, given | (changed or {}))
        return None if changed is None else ((), every | changed)

    def passed(self, module: nn.Module, args: tuple, output):
        """After a call that has ended well: was every tuner reached? What it gives is given for
        the tokens of its input; see answers.py."""
        if self.reach.depth == 1:
            self.reach.check()
        answers = self.reach.answers[-1]
        return None if answers is None else answers.of(module, output)

    def leave(self, *_) -> None:
        """After every call, also one that has raised: the lock is given back."""
        reach = self.reach
        if not reach.lock.held():  # a thread that never got in
            return
        reach.depth -= 1
        reach.placed = bool(reach.outside) and reach.outside.pop()
        del reach.answers[-1:]
        if not reach.depth:
            reach.given, reach.caller = {}, None
        reach.lock.__exit__(None, None, None)


def frame_outside() -> FrameType:
    """What runs the function of this file that asks; torch.compile cuts such a function up."""
    frame = sys._getframe()
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame
