"""Attach, train, merge, unmerge, disable, detach, save, load, route, copy: in whatever order.

A machine of hypothesis draws the steps. After each of them

    the base that the tuners stand for is the first one, bit for bit, whatever is written into it;
    a step that was refused said so in one sentence and changed nothing;
    merging and unmerging move no logits beyond rounding, and no tuner's weights move at all
    unless it is trained.

At the end the model answers as a fresh base with the same tuners does, of which none was ever
merged, disabled or saved; and when all are taken away, in any order, the base is bit-identical:
parameters, buffers, flags, modes, module tree, hooks and attention. Everything runs in float64.
"""

from __future__ import annotations

import copy
import linecache
import pickle
import random
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from functools import cache

import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import minipeft as mp
import tiny_transformer as tt
from minipeft.files.saving import fill
from minipeft.model.fingerprint import identity
from soak.ledger import Clock, Line, unclear

COUNT = 10_000
CHUNK = 100  # sequences that hypothesis draws with one seed
STEPS = 16  # of a sequence, at most
NAMES = "abc"
CLOSE = dict(rtol=0, atol=1e-8)  # float64, logits near 1

MERGEABLE = (
    mp.LoRA(rank=2),
    mp.LoRA(rank=1, targets=("qkv", "down"), dropout=0.1),
    mp.LoRABias(rank=1, bias="adapted"),
    mp.DoRA(rank=2),
    mp.PiSSA(rank=2, targets=("query", "output")),
    mp.QLoRA(rank=2, block=16),
    mp.AdaLoRA(init_rank=3, target_rank=2),
    mp.IA3(),
    mp.BitFit(),
    mp.LoRAEmbedding(rank=1),
    mp.TokenRows((3, 4)),
    mp.HeadOnly(),
    mp.TopLayers(1),
    mp.FullFineTuning(),
)
OTHERS = (
    mp.Adapter(bottleneck=2),
    mp.Adapter(bottleneck=2, placement="parallel"),
    mp.Prefix(length=2, hidden=4),
    mp.Prefix(length=2, hidden=None, compatibility="peft"),
    mp.PTuningV2(length=2),
    mp.PromptTuning(length=2),
    mp.PTuning(length=2, encoder="mlp"),
    mp.UniPELT(bottleneck=2, length=2, rank=2),
    mp.Combined((mp.Prefix(length=2, hidden=None), mp.Adapter(bottleneck=2))),
    mp.LoRA(targets=("query", "lm_head")),  # which most of these models do not have
    mp.LoRA(targets=("query", "no such module")),
)
METHODS = st.sampled_from(MERGEABLE) | st.sampled_from(OTHERS)
KINDS = ("decoder", "encoder", "encoder-decoder", "gpt2", "bert", "t5")


@cache
def base(kind: str):
    """A random model in eval mode; copies of it are used."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = build(kind).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        next(model.parameters()).requires_grad_(False)  # flags are not all the same
        model(**batch(kind))  # some models add attributes in their first pass
    return model


def build(kind: str):
    import transformers as hf

    small = dict(vocab_size=24, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=3)
    if kind == "gpt2":
        config = hf.GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=24, **small)
        return hf.GPT2LMHeadModel(config)
    if kind == "bert":
        width = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        return hf.BertForSequenceClassification(
            hf.BertConfig(**width, intermediate_size=12, max_position_embeddings=24, **small)
        )
    if kind == "t5":
        width = dict(d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2)
        return hf.T5ForConditionalGeneration(
            hf.T5Config(**width, decoder_start_token_id=0, **small)
        )
    numbers = dict(vocab_size=24, width=8, layers=1, heads=2, positions=24, dropout=0.1)
    layout = {"decoder": "gpt2", "encoder": "bert", "encoder-decoder": "bart"}[kind]
    config = getattr(tt.TransformerConfig, layout)(**numbers)
    if kind == "encoder":
        return tt.Encoder(config, tt.TaggingHead(config, 3))
    return {"decoder": tt.Decoder, "encoder-decoder": tt.EncoderDecoder}[kind](config)


@cache
def batch(kind: str) -> dict:
    ids = torch.randint(3, 24, (3, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[-1, -1:], mask[-1, -1:] = 0, 0
    labels = {"bert": ids[:, 0] % 3, "encoder": (ids % 3).masked_fill(mask == 0, -100)}
    labels = labels.get(kind, ids.masked_fill(mask == 0, -100))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def photograph(model, same: bool = True) -> dict:
    """Everything that must be as it was; same: the very same objects, not those of a copy."""
    tree = {
        path: (id(module) * same, type(module), module.training, *known(module))
        for path, module in model.named_modules(remove_duplicate=False)
    }
    tensors = {
        name: (id(tensor) * same, tensor.requires_grad, tensor.grad is None, bits(tensor))
        for named in (model.named_parameters, model.named_buffers)
        for name, tensor in named(remove_duplicate=False)
    }
    ties = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        ties.setdefault(id(parameter), []).append(name)
    configs = [getattr(module, "config", None) for module in model.modules()]
    attention = [getattr(config, "_attn_implementation", None) for config in configs]
    every = dict(tree=tree, tensors=tensors, ties=[*ties.values()])
    return every | dict(attention=attention, attached="minipeft" in vars(model))


def known(module) -> tuple[list[str], list[int]]:
    """Names of a module's attributes, and how many hooks of each kind it has."""
    names = sorted(vars(module))
    return names, [len(vars(module)[name]) for name in names if "_hooks" in name]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def values(tuner) -> dict[str, bytes]:
    return {key: bits(tensor) for key, tensor in tuner.named_tensors().items()}


def logits(model, inputs: dict) -> torch.Tensor:
    """In eval mode, and every mode as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            return model(**inputs).logits
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def interrupted(after: int):
    """A KeyboardInterrupt in the line of minipeft that is run as the so-many-th."""
    left = after

    def trace(frame, event, _):
        nonlocal left
        if "/minipeft/" not in frame.f_code.co_filename:
            return None
        # python says the line of a `with` again when it is left, where it looks for no signal
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        inside = frame.f_code.co_name in ("__enter__", "__exit__", "finish")
        if event == "line" and not inside and not line.startswith("with "):
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class Orders(RuleBasedStateMachine):
    """One sequence of steps on one model."""

    count = dict(sequences=0, steps=0, refused=0)

    @initialize(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**16))
    def begin(self, kind, seed):
        self.kind, self.random, self.inputs = kind, random.Random(seed), batch(kind)
        self.model = copy.deepcopy(base(kind))
        self.before, self.same = photograph(self.model), True
        self.known = identity(self.model)
        self.answer = logits(self.model, self.inputs)
        torch.manual_seed(seed)

    # ---- helpers ----

    @property
    def tuners(self) -> dict:
        return mp.tuners(self.model)

    def pick(self, number: int):
        return [*self.tuners.values()][number % len(self.tuners)]

    def state(self) -> dict:
        """Everything that a refused step must not change."""
        answer = bits(logits(self.model, self.inputs))
        every = [(t.name, t.enabled, t.merged, values(t)) for t in self.tuners.values()]
        seen = photograph(self.model, self.same)
        seen["tensors"] = {name: tensor[:3] for name, tensor in seen["tensors"].items()}
        return dict(logits=answer, model=seen, tuners=every)

    def attempt(self, step) -> bool:
        """Run a step; a refusal must be one sentence of ours that leaves everything as it was."""
        Orders.count["steps"] += 1
        before = self.state()
        try:
            step()
        except (ValueError, TypeError) as error:
            Orders.count["refused"] += 1
            assert not unclear(error), unclear(error)
            after = self.state()
            for key, value in before.items():
                assert after[key] == value, f"refused with {error}, but {key} changed"
            return False
        finally:
            self.check_base()
        return True

    def check_base(self) -> None:
        """Check that what the tuners stand on is still the first base."""
        assert identity(self.model) == self.known, "the base is lost"

    def unmoved(self, step, exactly: bool = False) -> None:
        """A step after which logits are the old ones, and every tuner's values exactly so."""
        old, kept = logits(self.model, self.inputs), {n: values(t) for n, t in self.tuners.items()}
        if self.attempt(step):
            new = logits(self.model, self.inputs)
            assert new.shape == old.shape
            torch.testing.assert_close(new, old, **dict(rtol=0, atol=0) if exactly else CLOSE)
            assert {n: values(t) for n, t in self.tuners.items()} == kept

    def meant(self, names) -> torch.Tensor:
        """The logits of a fresh base with some of the tuners, in their order."""
        model = copy.deepcopy(base(self.kind))
        for name, tuner in self.tuners.items():
            if name in names:
                tensors = {key: t.clone() for key, t in tuner.named_tensors().items()}
                method, ranks = tuner.method, isinstance(tuner.method, mp.AdaLoRA)
                method = method.import_state(tensors)[0] if ranks else method
                fill(mp.attach(model, method, name, head=False, seed=0), tensors)
        return logits(model, self.inputs)

    # ---- steps ----

    @precondition(lambda self: len(self.tuners) < len(NAMES))
    @rule(method=METHODS, head=st.sampled_from(("auto", False)), merge=st.booleans())
    def attach(self, method, head, merge):
        name = next(name for name in NAMES if name not in self.tuners)
        kept = {n: values(t) for n, t in self.tuners.items()}
        if self.attempt(lambda: mp.attach(self.model, method, name, head=head)):
            assert {n: values(t) for n, t in self.tuners.items() if n != name} == kept
            self.shake(self.tuners[name])
            if merge:
                self.unmoved(self.tuners[name].merge)

    def shake(self, tuner) -> None:
        """Steps of size 0.1 in random directions, as an optimizer of one's own takes them."""
        with torch.no_grad():
            for parameter in tuner.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)

    @precondition(lambda self: self.tuners)
    @rule(ours=st.booleans(), mode=st.booleans())
    def train(self, ours, mode):
        idle = {n: values(t) for n, t in self.tuners.items() if t.merged or not t.enabled}
        if ours:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # who rests
                    mp.train(self.model, [self.inputs], 2, 1e-2, progress=False)
            except ValueError as error:
                assert not unclear(error), unclear(error)
        else:
            self.model.train(mode)
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            if parameters and not all(t.merged or not t.enabled for t in self.tuners.values()):
                optimizer = torch.optim.AdamW(parameters, 1e-2)
                for _ in range(2):
                    loss = self.model(**self.inputs).loss
                    if loss.requires_grad:
                        loss.backward()
                    optimizer.step()
                optimizer.zero_grad()
        assert {n: values(t) for n, t in self.tuners.items() if n in idle} == idle
        self.check_base()

    @precondition(lambda self: self.tuners)
    @rule(numbers=st.permutations(range(len(NAMES))))
    def merge(self, numbers):
        for number in numbers[: len(self.tuners)]:
            self.unmoved(self.pick(number).merge)

    @precondition(lambda self: any(t.merged for t in self.tuners.values()))
    @rule(number=st.integers(0, 2))
    def unmerge(self, number):
        self.unmoved(self.pick(number).unmerge)

    @precondition(lambda self: self.tuners)
    @rule(number=st.integers(0, 2))
    def disable(self, number):
        self.attempt(self.pick(number).disable)

    @precondition(lambda self: not all(t.enabled for t in self.tuners.values()))
    @rule(number=st.integers(0, 2))
    def enable(self, number):
        self.attempt(self.pick(number).enable)

    @precondition(lambda self: self.tuners)
    @rule(number=st.integers(0, 2))
    def off_and_on(self, number):
        def step():
            with self.pick(number).disabled():
                pass

        self.unmoved(step, exactly=True)

    @precondition(lambda self: self.tuners)
    @rule(number=st.integers(0, 2))
    def detach(self, number):
        name = self.pick(number).name
        kept = {n: values(t) for n, t in self.tuners.items() if n != name}
        if self.attempt(self.tuners[name].detach):
            assert {n: values(t) for n, t in self.tuners.items()} == kept
        if not self.tuners:
            self.check_end()

    @precondition(lambda self: self.tuners)
    @rule(number=st.integers(0, 2))
    def save_and_load(self, number):
        tuner = self.pick(number)
        with tempfile.TemporaryDirectory() as folder:
            tuner.save(folder)
            acting = [n for n, t in self.tuners.items() if t.enabled]
            last = tuner.enabled and acting[-1] == tuner.name
            old = logits(self.model, self.inputs)
            tuner.detach()
            if self.attempt(lambda: mp.load(self.model, folder, tuner.name)) and last:
                torch.testing.assert_close(logits(self.model, self.inputs), old, **CLOSE)
        if not self.tuners:
            self.check_end()

    @precondition(lambda self: self.tuners)
    @rule(rows=st.lists(st.sampled_from([None, *NAMES, ("a", "b")]), min_size=3, max_size=3))
    def route(self, rows):
        rows = [row if row is None or row[0] in self.tuners else None for row in rows]
        rows = [row if len(row or "") < 2 or row[1] in self.tuners else row[0] for row in rows]
        answers = []

        def step():
            with mp.route(self.model, rows):
                answers.append(logits(self.model, self.inputs))
                for tuner in self.tuners.values():  # what would act on every row
                    if tuner.enabled:
                        self.attempt(tuner.merge)
                        assert not tuner.merged

        if self.attempt(step) and not any(t.words for t in self.tuners.values()):
            for number, row in enumerate(rows):
                expected = self.meant(tuple(row or ()))[number]
                torch.testing.assert_close(answers[0][number], expected, **CLOSE)

    @precondition(lambda self: self.tuners)
    @rule(pickled=st.booleans(), leave=st.booleans())
    def duplicate(self, pickled, leave):
        """A copy has tuners of its own; go on with it, or take them away and go on as before."""
        before = self.state()
        twin = pickle.loads(pickle.dumps(self.model)) if pickled else copy.deepcopy(self.model)
        assert bits(logits(twin, self.inputs)) == before["logits"]
        if leave:
            self.model, self.same = twin, False
            return
        for tuner in self.random.sample([*mp.tuners(twin).values()], len(self.tuners)):
            tuner.detach()
        assert photograph(twin, same=False) == without_identity(self.before)
        assert self.state() == before

    @rule(
        what=st.sampled_from(("pass", "attach", "merge", "unmerge", "disable", "enable", "detach")),
        number=st.integers(0, 2),
        after=st.integers(1, 1500),
        method=METHODS,
    )
    def interrupt(self, what, number, after, method):
        """A KeyboardInterrupt in the middle: the step is undone, or it was made."""
        if what == "attach":
            step, name = mp.attach, next((n for n in NAMES if n not in self.tuners), None)
            step = name and (lambda: mp.attach(self.model, method, name))
        elif what == "pass":
            # in eval mode already: an interrupted model.eval() is torch's, and leaves half of it
            self.model.eval()
            step = self.tuners and (lambda: logits(self.model, self.inputs))
        else:
            step = self.tuners and getattr(self.pick(number), what)
        if not step:
            return
        before, kept = self.state(), {n: values(t) for n, t in self.tuners.items()}
        Orders.count["steps"] += 1
        try:
            with interrupted(after):
                step()
        except (KeyboardInterrupt, ValueError, TypeError):
            if what == "pass":
                assert self.state() == before
            if what in ("attach", "merge") and len(self.tuners) == len(kept):
                if not self.tuners or not any(t.merged for t in self.tuners.values()):
                    assert self.state() == before
        assert all(values(t) == kept.get(n, values(t)) for n, t in self.tuners.items())
        self.check_base()
        if not self.tuners:
            self.check_end()

    # ---- the end ----

    def check_end(self) -> None:
        """Nothing is attached, and the base is what it was."""
        now = photograph(self.model, self.same)
        old = self.before if self.same else without_identity(self.before)
        for key, value in old.items():
            if isinstance(value, dict):
                changed = [k for k in {**value, **now[key]} if value.get(k) != now[key].get(k)]
                assert not changed, f"{key} of {changed[:5]} changed"
            assert now[key] == value, f"{key} changed"
        assert torch.equal(logits(self.model, self.inputs), self.answer)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        Orders.count["sequences"] += 1
        if self.tuners:
            acting = [name for name, tuner in self.tuners.items() if tuner.enabled]
            now = logits(self.model, self.inputs)
            torch.testing.assert_close(now, self.meant(acting), **CLOSE)
        for tuner in self.random.sample([*self.tuners.values()], len(self.tuners)):
            tuner.detach()
        self.check_end()


def without_identity(picture: dict) -> dict:
    """A photograph as `photograph(model, same=False)` takes it."""
    cut = {key: {k: (0, *v[1:]) for k, v in picture[key].items()} for key in ("tree", "tensors")}
    return {**picture, **cut}


def run(number: int, count: int, steps: int = STEPS) -> None:
    """So many sequences, drawn from a seed; AssertionError with the shortest one that fails."""
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    chosen = settings(
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=quiet,
        phases=[Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(seed(number)(Orders), settings=chosen)


def soak(count: int | None, clock: Clock) -> list[Line]:
    """Sequences in chunks, each with a seed of its own."""
    line, begun = Line("steps in any order"), time.monotonic()
    count = COUNT if count is None else count
    Orders.count = dict.fromkeys(Orders.count, 0)
    for number in range(0, count, CHUNK):
        if clock.over():
            break
        already = Orders.count["sequences"]
        try:
            run(number, min(CHUNK, count - number))
        except Exception as error:
            steps = "\n".join(getattr(error, "__notes__", ()))
            line.fail(f"seed {number}", f"{type(error).__name__}: {error}\n{steps}")
        else:
            line.worked += Orders.count["sequences"] - already
    line.note = f"{Orders.count['steps']:,} steps, {Orders.count['refused']:,} refused"
    line.seconds = time.monotonic() - begun
    return [line]
