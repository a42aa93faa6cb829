"""Whatever is done with tuners, in whatever order, the base is given back bit for bit.

The steps are drawn by soak/orders.py, of which `make soak` runs ten thousand sequences. What stands
below are single situations, some of which a machine meets too seldom.
"""

import contextlib
import copy
import itertools
import random
from dataclasses import replace
from functools import partial

import pytest
import torch
import zoo
from closeness import close
from torch import nn
from torch.nn.utils import parametrize, prune
from whole import WHOLE, part_of

import minipeft as mp
from minipeft.doors.copies import CopyDoor
from minipeft.doors.door import bottom, doors
from minipeft.doors.weights import WeightDoor
from minipeft.methods.bitfit import BiasPatch
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.token_rows import TokenRows
from soak import orders

EXACT = dict(rtol=0, atol=0)


def test_steps_in_any_order():
    orders.run(0, 120 if WHOLE else 30)


@pytest.mark.parametrize("kind", ["gpt2", "encoder"])
def test_one_on_top_of_the_other_for_all_pairs(kind):
    """Attach and merge a, attach b on top and merge it, take both away, in both orders."""
    model, inputs = copy.deepcopy(orders.base(kind)), orders.batch(kind)
    before, merged = orders.photograph(model), 0
    # Every third pair, by a number that does not divide theirs: each method is below and above.
    pairs = part_of([*itertools.product(orders.MERGEABLE, repeat=2)], 66)
    assert all({*side} == {*orders.MERGEABLE} for side in zip(*pairs, strict=True))
    for pair in pairs:
        for name, method in zip("ab", pair, strict=True):
            try:
                tuner = mp.attach(model, method, name, seed=0)
            except ValueError:  # not for this model, or not on top of that
                continue
            zoo.shake(tuner)
            logits = orders.logits(model, inputs)
            try:
                tuner.merge()
            except ValueError:
                continue
            torch.testing.assert_close(orders.logits(model, inputs), logits, **orders.CLOSE)
        tuners = [*mp.tuners(model).values()]
        merged += len(tuners) == 2 and all(tuner.merged for tuner in tuners)
        for tuner in random.Random(str(pair)).sample(tuners, len(tuners)):
            tuner.detach()
        assert orders.photograph(model) == before, pair
    assert merged / len(pairs) > 0.31


@pytest.mark.parametrize("kind", ["gpt2", "encoder"])
def test_a_file_means_the_same_on_a_base_into_which_something_is_merged(kind, tmp_path):
    """What a file says in terms of the base is read beneath what is merged, whatever it is."""
    opened, beneath = 0, (mp.LoRABias(rank=1, bias="all"), mp.BitFit(), mp.LoRAEmbedding(rank=1))
    above = (*orders.MERGEABLE, *orders.OTHERS, mp.LoRABias(rank=1, bias="all"))
    for number, (lower, upper) in enumerate(itertools.product(beneath, above)):
        model = copy.deepcopy(orders.base(kind))
        folder = tmp_path / str(number)
        try:
            tuner = mp.attach(model, upper, "b", seed=0)
        except ValueError:  # not for this model
            continue
        zoo.shake(tuner)
        tuner.save(folder)
        tuner.detach()
        tuner = mp.load(model, folder, "b")
        values = orders.values(tuner)
        tuner.detach()
        lower = mp.attach(model, lower, "a", seed=1)
        zoo.shake(lower, 1.0)
        try:
            lower.merge()
            tuner = mp.load(model, folder, "b")
        except ValueError:  # a matrix with two uses; a copy of what something is merged into
            continue
        assert orders.values(tuner) == values, upper
        opened += 1
    assert opened > 30


# ---- copies of heads ----


def heads(count: int):
    """A classifier with as many tuners, each with a head of its own."""
    model, inputs = zoo.build("bert", "classification"), zoo.batch("bert", "classification")
    made = [mp.attach(model, mp.LoRA(rank=2), f"t{i}", seed=i) for i in range(count)]
    for number, tuner in enumerate(made):
        zoo.shake(tuner, 0.3, seed=number)
    return model, inputs, *made


def test_of_several_heads_the_last_one_answers_merged_or_not():
    model, inputs, a, b = heads(2)
    both = zoo.logits(model, inputs)
    a.disable()
    alone = zoo.logits(model, inputs)
    a.enable()
    for first, second in ((a, b), (b, a)):
        first.merge()
        torch.testing.assert_close(zoo.logits(model, inputs), both, rtol=0, atol=1e-5)
        second.merge()
        torch.testing.assert_close(zoo.logits(model, inputs), both, rtol=0, atol=1e-5)
        first.unmerge()
        torch.testing.assert_close(zoo.logits(model, inputs), both, rtol=0, atol=1e-5)
        second.unmerge()
        torch.testing.assert_close(zoo.logits(model, inputs), both, **EXACT)
    b.merge()
    a.disable()
    torch.testing.assert_close(zoo.logits(model, inputs), alone, rtol=0, atol=1e-5)


def test_a_merged_head_is_in_the_base_s_place_and_is_not_trained_with_the_next():
    model = zoo.build("bert", "classification")
    inputs, head, first = zoo.batch("bert", "classification"), model.classifier, None
    first = head.weight
    a = mp.attach(model, mp.HeadOnly(), "a")
    zoo.shake(a, 0.3)
    values = {key: tensor.clone() for key, tensor in a.named_tensors().items()}
    a.merge()
    assert model.classifier is head and not doors(model)
    assert not any(p.requires_grad for p in model.parameters())
    b = mp.attach(model, mp.LoRA(rank=2), "b")
    torch.testing.assert_close(b.copies["classifier"].weight, values["classifier.weight"], **EXACT)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
    model(**inputs).loss.backward()
    optimizer.step()
    for key, tensor in a.named_tensors().items():
        torch.testing.assert_close(tensor, values[key], **EXACT)
    a.detach()
    b.detach()
    assert model.classifier is head and head.weight is first


def test_a_tuner_with_a_head_opens_on_a_model_with_another_s_merged_head(tmp_path):
    """The base is recognised beneath a head that shares its matrix no longer."""
    model, inputs = zoo.build("gpt2"), zoo.batch("gpt2")
    a = mp.attach(model, mp.HeadOnly(), "a", seed=0)
    zoo.shake(a)
    a.save(tmp_path)
    a.merge()
    merged = zoo.logits(model, inputs)
    b = mp.load(model, tmp_path, "b")
    torch.testing.assert_close(zoo.logits(model, inputs), merged, **EXACT)
    a.detach()
    torch.testing.assert_close(zoo.logits(model, inputs), merged, **EXACT)
    b.detach()
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_module_with_parameters_of_its_own_is_copied_with_all_that_is_in_it(tmp_path):
    """BERT's `cls.predictions` has a bias, and layers with more."""
    model, inputs = zoo.build("bert"), zoo.batch("bert")
    base = zoo.logits(model, inputs)
    tuner = mp.attach(model, mp.HeadOnly(heads=("cls",)), "a")
    zoo.shake(tuner)
    trained = zoo.logits(model, inputs)
    assert not torch.equal(trained, base)
    used = [copied for copied in tuner.copies.values()]
    assert all(p.requires_grad for copied in used for p in copied.parameters())
    model(**inputs).loss.backward()
    assert all(p.grad is not None for p in tuner.parameters())
    tuner.save(tmp_path)
    tuner.merge()
    torch.testing.assert_close(zoo.logits(model, inputs), trained, rtol=0, atol=1e-5)
    tuner.detach()
    torch.testing.assert_close(zoo.logits(model, inputs), base, **EXACT)
    mp.load(model, tmp_path)
    torch.testing.assert_close(zoo.logits(model, inputs), trained, **EXACT)


def test_no_copy_of_what_something_is_merged_into():
    model = zoo.build("tiny-encoder")
    p = mp.attach(model, mp.BitFit(), "p")
    zoo.shake(p)
    p.merge()
    with pytest.raises(ValueError, match="'p' is merged into .* copy is to be trained: unmerge it"):
        mp.attach(model, mp.Adapter(2), "c")
    p.unmerge()
    mp.attach(model, mp.Adapter(2), "c")


# ---- base parameters in training ----


def test_a_merge_above_weights_that_were_trained_in_place():
    model, inputs = copy.deepcopy(orders.base("decoder")), orders.batch("decoder")
    base, before = orders.logits(model, inputs), orders.photograph(model)
    full = mp.attach(model, mp.FullFineTuning(), "full")
    zoo.shake(full, 0.05)
    lora = mp.attach(model, mp.LoRA(rank=2), "lora", seed=0)
    zoo.shake(lora)
    both = orders.logits(model, inputs)
    with pytest.raises(ValueError, match="'full' trains in place: merge, disable or detach 'full'"):
        lora.merge()
    full.merge()
    lora.merge()
    torch.testing.assert_close(orders.logits(model, inputs), both, **orders.CLOSE)
    with pytest.raises(ValueError, match="'full' acts before 'lora', which is merged: unmerge"):
        full.unmerge()
    assert not any(p.requires_grad for p in model.parameters())
    full.detach()
    merged = orders.logits(model, inputs)
    lora.unmerge()
    torch.testing.assert_close(orders.logits(model, inputs), merged, **orders.CLOSE)
    assert not torch.allclose(merged, base)
    lora.detach()
    assert orders.photograph(model) == before


def test_what_is_merged_is_not_trained_in_place():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.LoRA(rank=2), "a").merge()
    with pytest.raises(ValueError, match="'a' is merged into .*, which is to be trained in place"):
        mp.attach(model, mp.FullFineTuning(), "b")
    assert list(mp.tuners(model)) == ["a"]


def test_an_optimizer_that_goes_on_while_the_base_is_back():
    """Momentum and gradients that were left must not move the base's own values."""
    model, inputs = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    before = mp.fingerprint(model)
    tuner = mp.attach(model, mp.FullFineTuning())
    optimizer = torch.optim.AdamW(tuner.parameters(), 1e-2)
    for _ in range(2):
        model(**inputs).loss.backward()
        optimizer.step()
    gradients = [p.grad.clone() for p in tuner.parameters()]
    with tuner.disabled():
        optimizer.step()
        assert mp.fingerprint(model) == before
    assert all(torch.equal(p.grad, g) for p, g in zip(tuner.parameters(), gradients, strict=True))
    tuner.disable()
    optimizer.step()
    assert mp.fingerprint(model) == before
    tuner.detach()
    optimizer.step()
    assert mp.fingerprint(model) == before


# ---- modes, devices, buffers ----


def test_a_patch_that_stood_aside_is_in_the_mode_of_its_base():
    """Merged in training, used in eval mode: dropout is off once it is unmerged."""
    model, inputs = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    tuner = mp.attach(model, mp.LoRA(rank=2, dropout=0.5), seed=0)
    zoo.shake(tuner)
    expected = zoo.logits(model, inputs)
    model.train()
    tuner.merge()
    model.eval()
    tuner.unmerge()
    torch.testing.assert_close(zoo.logits(model, inputs), expected, **EXACT)


def test_a_model_that_changes_its_dtype_while_tuners_are_merged():
    for method, head in ((mp.LoRA(rank=2), "language"), (mp.HeadOnly(), "classification")):
        model, inputs = zoo.build("bert", head), zoo.batch("bert", head)
        expected = zoo.logits(copy.deepcopy(model).double(), inputs)
        tuner = mp.attach(model, method)
        zoo.shake(tuner)
        tuner.merge()
        model.double()
        tuner.detach()
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        torch.testing.assert_close(zoo.logits(model, inputs), expected, **EXACT)


def test_buffers_come_back_to_a_model_that_has_moved():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = {key: value.double() for key, value in model.state_dict().items()}
    tuner = mp.attach(model, mp.LoRA(targets="0"))
    model.double()(torch.randn(8, 4, dtype=torch.float64))
    tuner.detach()
    assert all(torch.equal(value.double(), before[k]) for k, value in model.state_dict().items())


# ---- single doors ----


def test_a_bias_that_two_layers_add_is_not_merged():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].bias = model["a"].bias
    tuner = mp.attach(model, mp.BitFit(targets=("a", "b")))
    with pytest.raises(ValueError, match="is shared with"):
        tuner.merge()


def test_who_reads_the_frozen_weight_reads_it_beneath_what_is_merged():
    for method in (mp.DoRA(rank=2), mp.PiSSA(rank=2)):
        model, inputs = copy.deepcopy(orders.base("gpt2")), orders.batch("gpt2")
        lora = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
        zoo.shake(lora, 0.5)
        lora.merge()
        merged = orders.logits(model, inputs)
        other = mp.attach(model, method, "b", seed=0)
        torch.testing.assert_close(orders.logits(model, inputs), merged, **orders.CLOSE)
        zoo.shake(other)
        both = orders.logits(model, inputs)
        lora.unmerge()
        torch.testing.assert_close(orders.logits(model, inputs), both, **orders.CLOSE)
        other.merge()
        torch.testing.assert_close(orders.logits(model, inputs), both, **orders.CLOSE)


def test_a_door_by_itself_writes_from_its_originals():
    door = WeightDoor(nn.Linear(4, 4))
    before = door.base.weight.clone()
    for name, patch in {"a": LoRAPatch(4, 4, 2, 2), "b": BiasPatch(4)}.items():
        nn.init.normal_(next(reversed(list(patch.parameters()))))
        door.add(name, patch)
    for name in "abab":
        (door.unmerge if name in door.merged else door.merge)(name)
        door.write()  # may be repeated
    assert torch.equal(door.base.weight, before) and not door.originals.values


def test_a_copy_door_by_itself_gives_its_places_back():
    base = nn.LayerNorm(4)
    first, door = base.weight, CopyDoor(base)
    for name in "ab":
        door.add(name, copy.deepcopy(base))
        nn.init.normal_(door.patches[name].weight)
    door.merge("b"), door.merge("a")
    assert torch.equal(base.weight, door.patches["b"].weight)
    door.unmerge("b")
    assert torch.equal(base.weight, door.patches["a"].weight)
    door.unmerge("a")
    assert base.weight is first and not door.originals.tensors


# ---- route ----


def test_what_acts_on_every_row_is_not_begun_inside_a_route():
    model, inputs = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    a = mp.attach(model, mp.LoRA(rank=2), "a")
    full = mp.attach(model, mp.FullFineTuning(), "full").disable()
    zoo.shake(a)
    with mp.route(model, ["a", None, None]):
        expected = zoo.logits(model, inputs)
        with pytest.raises(ValueError, match="'a' would act on every row once it is merged"):
            a.merge()
        with pytest.raises(ValueError, match="'full' trains the base's own weights"):
            full.enable()
        with pytest.raises(ValueError, match=r"route\(\) sends rows to 'a'"):
            a.detach()
        with pytest.raises(ValueError, match=r"leave route\(\) before"):
            mp.attach(model, mp.TopLayers(1), "top")
        b = mp.attach(model, mp.LoRA(rank=2), "b")  # no row names it
        zoo.shake(b)
        torch.testing.assert_close(zoo.logits(model, inputs), expected, **EXACT)


# ---- interruptions ----


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_pass_that_was_interrupted_is_over(name):
    """torch calls no hook after a KeyboardInterrupt: the next pass finds an unfinished one."""
    model, inputs = zoo.build(name), zoo.batch(name)
    tuner = mp.attach(model, mp.PromptTuning(length=2), "a", seed=0)
    zoo.shake(tuner)
    expected = zoo.logits(model, inputs)
    write = partial(mp.generate, model, inputs["input_ids"][:2], max_new_tokens=3)
    written = write()

    def stop(*_):
        raise KeyboardInterrupt

    inner = next(m for m in reversed([*model.modules()]) if type(m) is nn.Dropout)
    for interrupted in (partial(model, **inputs), write):
        hook = inner.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        hook.remove()
        assert torch.equal(write(), written)
        assert torch.equal(zoo.logits(model, inputs), expected)
        assert not model.minipeft.forward_lock.held()


def test_half_a_patch_is_taken_out_of_its_door():
    """Interrupted in each of the lines of `add`, and in each of those of `remove`."""
    for adding in range(1, 9):
        for removing in range(1, 9):
            door, x = WeightDoor(nn.Linear(4, 4)), torch.randn(2, 4)
            for after, step in ((adding, partial(door.add, "a", BiasPatch(4))),
                                (removing, partial(door.remove, "a"))):  # fmt: skip
                with contextlib.suppress(KeyboardInterrupt), orders.interrupted(after):
                    step()
            assert torch.equal(door(x), door.base(x))
            door.remove("a")
            assert not door.patches and not door.marks and not door.off


@pytest.mark.parametrize("act", ["merge", "unmerge", "enable", "disable", "detach", "attach"])
def test_an_interrupted_step_is_undone_or_finished(act):
    """A KeyboardInterrupt in one of the first 2,000 lines that a step runs."""
    kind = "encoder"
    model, inputs = copy.deepcopy(orders.base(kind)), orders.batch(kind)
    before, base = orders.photograph(model), orders.logits(model, inputs)
    seen = set()
    for after in part_of([*range(1, 60), *range(60, 2000, 37)], 40):
        other = mp.attach(model, mp.IA3(targets=("key", "down")), "other", seed=1)
        zoo.shake(other)
        without = orders.logits(model, inputs)
        tuner = mp.attach(model, mp.LoRA(rank=2, targets=("value",)), "a", seed=0)
        zoo.shake(tuner)
        acting = orders.logits(model, inputs)
        if act in ("unmerge", "enable"):
            (tuner.merge if act == "unmerge" else tuner.disable)()
        if act == "attach":
            tuner.detach()
        try:
            with orders.interrupted(after):
                if act == "attach":
                    mp.attach(model, mp.LoRA(rank=2, targets=("value",)), "a", seed=0)
                else:
                    getattr(tuner, act)()
        except KeyboardInterrupt:
            seen.add(after)
        now = orders.logits(model, inputs)
        tuner = mp.tuners(model).get("a")
        if act == "attach" or tuner is None or not tuner.enabled:
            torch.testing.assert_close(now, without, **EXACT)
        else:
            torch.testing.assert_close(now, acting, **orders.CLOSE)
        for each in mp.tuners(model).values():
            each.detach()
        assert orders.photograph(model) == before, after
    assert len(seen) > 20
    assert torch.equal(orders.logits(model, inputs), base)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "encoder"])
def test_an_interrupted_pass_leaves_nothing_of_a_memory(kind):
    """In each of the lines of a pass; the prefix acts, or is disabled."""
    model, inputs = copy.deepcopy(orders.base(kind)).eval(), orders.batch(kind)
    tuner = mp.attach(model, mp.Prefix(length=2), "a", seed=0)
    fresh = orders.photograph(model)  # before any pass
    expected = orders.logits(model, inputs)
    assert orders.photograph(model) == fresh
    for switch in (tuner.enable, tuner.disable):
        switch()
        before = orders.photograph(model)
        for after in range(1, 2000):
            with contextlib.suppress(KeyboardInterrupt), orders.interrupted(after):
                orders.logits(model, inputs)
                break
            assert orders.photograph(model) == before, after
        assert after > 100
    tuner.enable()
    assert torch.equal(orders.logits(model, inputs), expected)


@pytest.mark.parametrize("kind", ["gpt2", "decoder"])
def test_rows_of_a_matrix_of_which_a_copy_is_merged_are_refused(kind):
    """A merged copy of the head shares no matrix with the words, so that the rows would miss it."""
    model = copy.deepcopy(orders.base(kind))
    head = mp.attach(model, mp.HeadOnly(), "head")
    head.merge()
    with pytest.raises(ValueError, match="'head' is merged into .* unmerge it first"):
        mp.attach(model, TokenRows(ids=(3, 4)), "rows")
    head.unmerge()
    mp.attach(model, TokenRows(ids=(3, 4)), "rows")


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.3)


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", nn.Tanh())


def biased(layer):
    prune.l1_unstructured(layer, "bias", amount=0.3)


@pytest.mark.parametrize(
    "change, method",
    [
        (pruned, mp.LoRA(rank=2)),
        (parametrized, mp.IA3()),
        (pruned, mp.BitFit()),
        (biased, mp.BitFit()),
    ],
)
def test_a_weight_that_is_computed_in_every_pass_is_not_merged_into(change, method):
    model, inputs = zoo.build("bert"), zoo.batch("bert")
    for block in model.bert.encoder.layer:
        for part in ("query", "key", "value"):
            change(getattr(block.attention.self, part))
    base = zoo.logits(model, inputs)
    tuner = mp.attach(model, method, seed=0)
    zoo.shake(tuner)
    before = zoo.logits(model, inputs)
    with pytest.raises(ValueError, match="is computed anew in every pass.*make that permanent"):
        tuner.merge()
    assert torch.equal(zoo.logits(model, inputs), before) and not torch.equal(before, base)
    tuner.detach()
    assert torch.equal(zoo.logits(model, inputs), base)


@pytest.mark.parametrize("method", [mp.DoRA(rank=2), mp.LoRA(rank=2)])
def test_a_map_of_gpt2_may_be_parametrized_while_it_is_adapted(method):
    """Its class has another name then, and its weight still is (in, out)."""
    model, inputs = zoo.build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, replace(method, targets=("query", "output")), seed=0)
    zoo.shake(tuner)
    expected = zoo.logits(model, inputs)
    for block in model.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj):
            parametrize.register_parametrization(bottom(layer), "weight", nn.Identity())
    close(zoo.logits(model, inputs), expected)
