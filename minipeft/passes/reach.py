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

import torch
from torch import Tensor, nn

from minipeft.doors.marks import Mark
from minipeft.doors.memory import PositionDoor
from minipeft.model.devices import on_host
from minipeft.model.libraries import is_library_model
from minipeft.passes.answers import COLUMNS, Answers, numbered, stays_whole, tell_of_labels
from minipeft.passes.call_arguments import CACHES, encoded, past_tokens, takes
from minipeft.passes.entrance import Entrance
from tiny_transformer.models import EncoderDecoder


class Reach:
    """The passes of one model with tuners, one at a time.

    Args:
        model: the model that `attach` was given.
        lock: what a thread holds during a pass.
        wrap: (model, batch) -> the batch with soft prompts.
        later: (model, batch, tokens in the cache) -> a batch that gets none, with its positions.
        prepare: called before every pass.
        look_at_rows: (model, module, arguments) -> None, called before a pass enters that module;
            it may run the module by itself.
    """

    def __init__(
        self,
        model: nn.Module,
        lock,
        wrap: Callable,
        later: Callable,
        prepare: Callable,
        look_at_rows: Callable,
    ) -> None:
        self.model, self.lock, self.look_at_rows = model, lock, look_at_rows
        self.wrap, self.later, self.prepare = wrap, later, prepare
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
        self.placed = self.goes_on = self.begins = False  # a text: from a cache, or from its start
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

    def tell_positions(self, given: dict) -> None:
        """Does the caller of a model say where its tokens stand?"""
        for door in self.model.minipeft.doors:
            if isinstance(door, PositionDoor):
                door.given = given.get("position_ids") is not None

    # ---- soft prompts ----

    def place_words(self, path: str, module: nn.Module, given: dict) -> dict | None:
        """What changes in the arguments of a module, None where nothing does.

        A module of one's own that takes no mask leaves it to the model inside.
        """
        past, states = past_tokens(given), encoded(given)  # now, since a pass fills the cache
        self.goes_on |= past > 0
        if states is not None:
            self.placed = True
            self.begins |= past == 0
            return self.with_encoded_words(states, given.get("attention_mask"))
        if "input_ids" not in given and "inputs_embeds" not in given:
            return None
        decodes = reads_behind_an_encoder(module)  # the cache is of its decoder, not of these ids
        if (past and not decodes) or "input_ids" not in given:
            self.placed = True
            self.begins |= past == 0
            batch = self.later(self.model, given, past)
            return None if batch is given else batch
        if not path and len(self.bodies) > 1 and not takes(module, "attention_mask"):
            return None
        self.placed = True
        self.begins |= past == 0
        acting = [tuner for tuner in self.tuners() if tuner.words]
        numbers = numbered(given) if acting else given
        wrapped = self.wrap(self.model, numbers)
        if wrapped is numbers:
            return None
        for tuner in acting:
            if not tuner.is_at(tuner.word_paths[0]):
                raise ValueError(
                    f"{tuner.name!r} was not reached: {tuner.word_paths[0]} is another layer now "
                    "than when it was attached, and knows no words of it; attach again after "
                    "changing layers."
                )
        longer = wrapped["input_ids"].shape != given["input_ids"].shape
        if longer and not decodes and any(name in given for name in CACHES):
            raise ValueError(
                "The prompt is not in the ids that are to be continued: call minipeft.generate, or "
                "give generate a batch from tuner.wrap(batch)."
            )
        if path and longer:
            mask = given.get("attention_mask")
            mask = torch.ones_like(given["input_ids"]) if mask is None else mask
            self.masks = mask, wrapped["attention_mask"]
        columns = wrapped.pop(COLUMNS, None)
        changed = {key: value for key, value in wrapped.items() if takes(module, key)}
        outer = [body for p, body in self.bodies.items() if p != path and lies_in(path, p)]
        both = [] if columns is None else [on_host(columns), on_host(numbers[COLUMNS])]
        moved = bool(both) and not torch.equal(*both)
        if moved and not stays_whole(module, given, outer, acting):
            self.answers[-1] = answers = Answers(columns, given)
            changed |= answers.asked()
        elif moved:
            tell_of_labels(module, given, acting)
        return changed

    def with_encoded_words(self, states: Tensor, mask: Tensor | None) -> dict | None:
        """The mask (B, S) of what an encoder gave (B, S, C), where the one given is of the text."""
        tuners = [tuner for tuner in self.tuners() if tuner.words]
        if not tuners:
            return None
        S = states.shape[1]
        for tuner in tuners:
            if S not in tuner.word_mark.lengths:
                raise ValueError(
                    f"{tuner.name!r} was not reached: the encoder's outputs that were given are "
                    "made without its words; leave encoder_outputs out, or make them with this "
                    "model's encoder from the batch of tuner.wrap(batch)."
                )
        text, longer = self.masks or (None, None)
        if mask is None and text is not None and bool(on_host(text).all()) and longer.shape[1] == S:
            mask = text.repeat_interleave(max(1, len(states) // len(text)), 0)  # rows that differ
        if mask is None or not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] == S:
            return None
        beams = max(1, len(mask) // len(text)) if text is not None else 1
        known = text is not None and longer.shape[1] == S
        given = on_host(mask)
        if not known or not torch.equal(on_host(text).repeat_interleave(beams, 0).to(given), given):
            raise ValueError(
                f"The attention_mask is for {mask.shape[1]} tokens and the encoder's outputs are "
                f"{S} long, soft words included: give the mask of tuner.wrap(batch)."
            )
        return {"attention_mask": longer.repeat_interleave(beams, 0).to(mask)}

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
        if not tuner.told_of_passed.issuperset(inert):
            tuner.told_of_passed.update(inert)
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


def lies_in(path: str, other: str) -> bool:
    """Is the module at this path the other one, or inside it?"""
    return not other or f"{path}.".startswith(f"{other}.")


def means_all(tuner) -> bool:
    """Did nobody name its layers: was every one of a kind asked for, or another library's file?"""
    return tuner.foreign or any(part.means_all() for part in tuner.method.parts())


def reads_behind_an_encoder(module: nn.Module) -> bool:
    """Is this an encoder-decoder?"""
    config = getattr(module, "config", None)
    return isinstance(module, EncoderDecoder) or getattr(config, "is_encoder_decoder", False)


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
