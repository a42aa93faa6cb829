"""Does a pass of the model reach what is attached to it?

Every patch in a door has a `Mark`, which its door sets when it uses the patch. A model with tuners
looks at the marks after every pass, and says in one sentence which tuner did nothing, and where.
Hooks tell where a pass begins and ends: on the model, and on every model inside it that reads its
input by itself (`model.model`, `model.bert`, an encoder that `generate` runs alone, the encoder in
a module of one's own). Whichever is called first begins the pass. Every input gets the soft
prompts once: what a model of a library hands on to its parts has them, while a module of one's own
may give several texts to the model inside, one after the other.

| a pass                  | what has to be read                                                  |
|-------------------------|----------------------------------------------------------------------|
| of a whole model        | of every tuner its words, and one of its other places                |
| of a model inside it    | the same, of what lies inside                                        |
| with a filled cache     | nothing: the first pass has read prompts and cross-attention         |
| with `encoder_outputs`  | the encoder's patches by an earlier pass; the words in an input as   |
|                         | long as these outputs                                                |
| under `route`           | tuners that a row names                                              |
| of a saving (`partly`)  | nothing: `train` hands on what it has kept                           |

One place of many may be left out, since nobody can tell a choice of the model from a fault: an
expert that got no token, a layer that LayerDrop skipped, a pooler, cross-attention without an
encoder, a tower that this input does not need. A single place is an error where it is certain: a
layer whose weight was read without calling the layer (torch's fused paths), and an attention layer
that was given a memory and did not read it (see `MemoryDoor`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from torch import Tensor, nn

from minipeft.doors.marks import Mark
from minipeft.doors.memory import PositionDoor
from minipeft.model.libraries import is_library_model
from minipeft.passes.answers import Answers
from minipeft.passes.call_arguments import encoded
from minipeft.passes.entrance import Entrance
from minipeft.passes.word_placing import WordPlacing, lies_in
from tiny_transformer.models import EncoderDecoder


class Reach(WordPlacing):
    """The passes of one model with tuners, one at a time.

    Args:
        model: the model that `attach` was given.
        lock: what a thread holds during a pass.
        wrap: (model, batch) -> the batch with soft prompts.
        without_words: (model, batch, tokens in the cache) -> a batch that gets no soft prompts,
            with its positions.
        prepare: called before every pass.
        look_at_rows: (model, module, arguments) -> None, called before a pass enters that module;
            it may run the module by itself.
    """

    def __init__(
        self,
        model: nn.Module,
        lock,
        wrap: Callable,
        without_words: Callable,
        prepare: Callable,
        look_at_rows: Callable,
    ) -> None:
        self.model, self.lock, self.look_at_rows = model, lock, look_at_rows
        self.wrap, self.without_words, self.prepare = wrap, without_words, prepare
        self.depth, self.partly = 0, False
        self.placed = False  # are the soft prompts in what is being read?
        self.outside: list[bool] = []  # the same for the calls around this one
        self.answers: list[Answers | None] = []  # of each call whose input got soft prompts
        self.caller: FrameType | None = None  # what runs the call that a pass began with
        self.root, self.given = "", {}
        self.masks: tuple[Tensor, Tensor] | None = None  # of the last encoder: given, with prompts
        self.bodies = reading_models(model)

    def __getstate__(self) -> dict:
        """A copy of the model is in no pass."""
        none = {"depth": 0, "caller": None, "given": {}, "masks": None}
        return vars(self) | none | {"placed": False, "outside": [], "answers": []}

    def register(self) -> Iterator:
        """Hooks at every entrance; each is given out as soon as it is there."""
        for path in self.bodies:
            yield from Entrance(self, path).register()

    def tuners(self) -> list:
        """The tuners that act in this pass: enabled, not merged, named by a row under `route`."""
        record = self.model.minipeft
        acting = [t for t in record.tuners.values() if t.enabled and not t.merged]
        if record.routing is None:
            return acting
        named = {name for names in record.routing for name in names}
        return [tuner for tuner in acting if tuner.name in named]

    def end_interrupted(self) -> None:
        """Forget a pass that is over although torch has not called `leave`, which it does after
        an Exception, but not after a KeyboardInterrupt: what began it is on the stack no more.
        """
        frame = sys._getframe() if self.depth else None
        while frame is not None and frame is not self.caller:
            frame = frame.f_back
        if frame is None:
            for _ in range(self.depth):
                self.lock.__exit__(None, None, None)
            self.depth, self.caller, self.outside, self.answers = 0, None, [], []

    def begin(self, path: str, given: dict) -> None:
        """A pass begins with a call of the module at this path, with these arguments."""
        self.root, self.given = path, given
        self.entered: set[str] = set()
        self.placed = False
        self.goes_on = self.begins = False  # was a text given that goes on from a cache; a new one?
        self.clear_marks()
        self.prepare(self.model)

    def clear_marks(self) -> None:
        """Nothing has been read yet."""
        for tuner in self.model.minipeft.tuners.values():
            for mark in (*tuner.marks.values(), *tuner.copy_marks.values()):
                mark.clear()

    def look_at_rows_once(self, module: nn.Module, given: dict) -> None:
        """Let `look_at_rows` look; a pass that it makes for this leaves no trace."""
        kept = self.placed, {*self.entered}, self.masks, self.goes_on, self.begins
        self.look_at_rows(self.model, module, given)
        self.placed, self.entered, self.masks, self.goes_on, self.begins = kept
        self.clear_marks()

    def note_positions(self, given: dict) -> None:
        """Does the caller of a model say where its tokens stand?"""
        for door in self.model.minipeft.doors:
            if isinstance(door, PositionDoor):
                door.given = given.get("position_ids") is not None

    # ---- after a pass ----

    def check(self) -> None:
        """Raise ValueError for a tuner that this pass should have reached and did not."""
        if self.partly or (self.goes_on and not self.begins):
            return
        for tuner in self.tuners():
            self.check_words(tuner)
            self.check_places(tuner)
            self.check_copies(tuner)

    def inside(self, path: str) -> bool:
        """Does a path lie inside the module whose call began this pass?"""
        return lies_in(path, self.root)

    def owner(self, path: str) -> str:
        """Path of the innermost model that a module stands in."""
        return max((b for b in self.bodies if lies_in(path, b)), key=len)

    def is_of_library(self, path: str) -> bool:
        """Does a module stand in a model of a library, whose forward is always the same?"""
        return is_library_model(self.bodies[self.owner(path)])

    def was_called(self, path: str, ever: bool) -> bool:
        """Was the model that a module stands in called? A module of one's own may have reasons to
        leave out a part of itself, but not from the first pass on.
        """
        owner = self.owner(path)
        return owner in self.entered and (not ever or is_library_model(self.bodies[owner]))

    def check_words(self, tuner) -> None:
        """Raise ValueError if the embedding was called without the ids of this soft prompt."""
        mark = tuner.word_mark
        if mark is None or mark.read or encoded(self.given) is not None:
            return
        vectors = self.given.get("inputs_embeds")
        if isinstance(vectors, Tensor) and vectors.shape[1] in mark.lengths:
            return  # made from a wrapped batch
        paths = [path for path in tuner.word_paths if self.inside(path)]
        if not paths or not (mark.skipped or self.was_called(paths[0], mark.ever)):
            return
        names = [name for name, value in self.given.items() if isinstance(value, Tensor)]
        given = " and ".join(names) or "none"
        raise ValueError(
            f"{tuner.name!r} was not reached: its words stand in input_ids, and "
            f"{self.called()} was given {given}; give it input_ids, or what you make of "
            "tuner.wrap(batch), or disable the tuner."
        )

    def check_places(self, tuner) -> None:
        """Raise ValueError if no patch of this tuner was used, or if one was passed by."""
        words = () if tuner.word_mark is None else tuner.word_paths
        marks = {p: m for p, m in tuner.marks.items() if p not in words and self.inside(p)}
        passed = [path for path, mark in marks.items() if mark.weight_read and not mark.read]
        inert = passed if len(passed) < len(marks) and means_all(tuner) else []
        inert = [path for path in inert if not marks[path].ever and self.is_of_library(path)]
        for path in passed:
            if path in inert:
                continue
            raise ValueError(
                f"{tuner.name!r} was passed by at {path}: the layer's weight was read without "
                "calling the layer, so that its patch did nothing; attach it to other targets, "
                "or, where a fused path of torch does so, call "
                "torch.backends.mha.set_fastpath_enabled(False)."
            )
        if not tuner.inert_places.issuperset(inert):
            tuner.inert_places.update(inert)
            others = f" and {len(inert) - 1} more layers" if len(inert) > 1 else ""
            warnings.warn(
                f"{tuner.name!r} does nothing at {inert[0]}{others}: this model reads the weight "
                "without calling the layer; name the other layers as targets to leave it out.",
                UserWarning,
                stacklevel=2,
            )
        if encoded(self.given) is not None:
            return self.check_encoder(tuner, marks)
        if not marks or any(mark.read for mark in marks.values()):
            return
        first, ever = next(iter(marks)), any(mark.ever for mark in marks.values())
        if not tuner.is_in_tree():
            why = "is no longer a part of the model: attach again after changing layers"
        elif ever or not self.was_called(first, ever) or self.may_be_skipped(marks):
            return
        else:
            why = "was never called: detach it and target layers that the model calls"
        raise ValueError(
            f"{tuner.name!r} was not reached: of its {len(marks)} places in {self.called()} none "
            f"was read; {first} {why}."
        )

    def check_copies(self, tuner) -> None:
        """Raise ValueError if a copied layer was used for all rows alike, but not all are the
        tuner's: its numbers were read, or another of its methods was called."""
        rows = self.model.minipeft.routing
        for path, mark in tuner.copy_marks.items() if rows and not rows.uniform else ():
            if mark.weight_read and not mark.read:
                raise ValueError(
                    f"route() cannot tell the rows apart at {path}, of which {tuner.name!r} trains "
                    "a copy, because it was used without being called: give the rows of each tuner "
                    "in a batch of their own."
                )

    def check_encoder(self, tuner, marks: dict[str, Mark]) -> None:
        """Outputs of an encoder were given: its patches must have been read some time before."""
        away = {p: m for p, m in marks.items() if self.owner(p) not in self.entered}
        if away and not any(mark.read or mark.ever for mark in away.values()):
            raise ValueError(
                f"{tuner.name!r} was not reached at {next(iter(away))}: the encoder's outputs that "
                "were given are made without it; leave encoder_outputs out, or make them with this "
                "model's encoder while the tuner is attached."
            )

    def may_be_skipped(self, marks: dict[str, Mark]) -> bool:
        """Are all of these places such as a model leaves out by chance or by the input?"""
        if all("expert" in path for path in marks):
            return True
        configs = (getattr(body, "config", None) for body in self.bodies.values())
        settings = [vars(config) for config in configs if config is not None]
        drops = any(
            "layerdrop" in key and value for each in settings for key, value in each.items()
        )
        return drops and self.model.training

    def called(self) -> str:
        """The class of the module that the pass began with."""
        return type(self.bodies[self.root]).__name__


def means_all(tuner) -> bool:
    """Did nobody name its layers: was every one of a kind asked for, or another library's file?"""
    return tuner.foreign or any(part.means_all() for part in tuner.method.parts())


def reading_models(model: nn.Module) -> dict[str, nn.Module]:
    """The model and those inside it that read an input, by path; no decoder that has an encoder."""
    every = {path: m for path, m in model.named_modules() if not path or is_library_model(m)}
    for module in list(every.values()):
        if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
            ask = getattr(module, "get_decoder", None)
            decoder = ask() if ask else None
        else:
            decoder = module.decoder if isinstance(module, EncoderDecoder) else None
        if decoder is not None and decoder is not module:
            behind = set(decoder.modules())
            every = {path: m for path, m in every.items() if m not in behind}
    return every


@contextmanager
def partly(model: nn.Module) -> Iterator[None]:
    """Passes in which parts of the model hand on what they have kept, so that nothing is missed."""
    record = vars(model).get("minipeft")
    if record is None:
        yield
        return
    before, record.reach.partly = record.reach.partly, True
    try:
        yield
    finally:
        record.reach.partly = before
