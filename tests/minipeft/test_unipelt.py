"""UniPELT against the paper's equations, written with plain tensors; methods together."""

import pytest
import torch
import zoo
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st

import minipeft as mp
from minipeft.methods.adapter import Adapter, AdapterPatch
from minipeft.methods.combined import Combined, mam
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.parts.gates import GatedMemory, GatedPatch, gates
from minipeft.methods.prefix import PrefixEncoder, PrefixPatch
from minipeft.methods.unipelt import Gate


def gate_by_hand(gate, x, mask=None):
    """Mean over a text's own tokens of sigmoid(w x + b): (B,)."""
    each = torch.sigmoid((x * gate.weight).sum(-1) + gate.bias)  # (B, T)
    if mask is None:
        return each.mean(dim=1)
    return torch.stack([row[real.bool()].mean() for row, real in zip(each, mask, strict=True)])


def shaken(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return module


def test_the_gate_is_the_mean_over_own_tokens():
    gate, x = shaken(Gate(6, "mean")), torch.randn(3, 5, 6)
    close(gate(x).flatten(), gate_by_hand(gate, x))
    gate.mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    close(gate(x).flatten(), gate_by_hand(gate, x, gate.mask))
    gate.mask = torch.ones(3, 9)  # of other tokens than these
    close(gate(x).flatten(), gate_by_hand(gate, x))
    assert gate(x).shape == (3, 1, 1) and torch.equal(gate.value, gate(x).detach())


def test_a_causal_gate_knows_its_own_token_only():
    gate, x = shaken(Gate(6, "token")), torch.randn(2, 5, 6)
    other = x.clone()
    other[:, 3:] = 0
    assert torch.equal(gate(x)[:, :3], gate(other)[:, :3])
    alone = shaken(Gate(6, "alone"))
    assert alone(x).shape == (1, 1, 1)
    close(alone(x), torch.sigmoid(alone.bias).view(1, 1, 1))


@pytest.mark.parametrize("lora_gate, alpha", [("replace", 2), ("scale", 6)])
def test_lora_behind_its_gate(lora_gate, alpha):
    model, batch = zoo.build("tiny-encoder"), zoo.batch("tiny-encoder")
    method = mp.UniPELT(bottleneck=0, length=0, rank=2, alpha=6, lora_gate=lora_gate)
    tuner = mp.attach(model, method, seed=0)
    zoo.shake(tuner)
    places = {place.target: (place, patch) for place, patch in tuner.patches if place.layer == 0}
    (query, patch), (_, value) = places["query"], places["value"]
    assert patch.gate is value.gate, "one gate per submodule and layer"
    tuner.model(**batch)  # tells the gate which tokens count
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    g = gate_by_hand(patch.gate, x, batch["attention_mask"])
    lora = patch.inner
    y = query.module(x)
    expected = y + g[:, None, None] * (alpha / 2) * (x @ lora.A.T @ lora.B.T)
    close(patch(x, y), expected)


def test_the_adapters_gate_reads_what_enters_the_feed_forward_layer():
    model = zoo.build("tiny-encoder")
    tuner = mp.attach(model, mp.UniPELT(bottleneck=3, length=0, rank=0), seed=0)
    zoo.shake(tuner)
    door = model.blocks[0].feed_forward
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    patch = next(p for place, p in tuner.patches if isinstance(p, GatedPatch) and place.layer == 0)
    hidden = torch.nn.functional.gelu(door.up.base(x))
    h = door.down.base(hidden)
    adapter = patch.inner
    change = adapter.up(torch.nn.functional.gelu(adapter.down(h)))
    expected = h + gate_by_hand(patch.gate, x)[:, None, None] * change
    close(door(x), expected)


def test_the_prefix_gate_multiplies_keys_and_values():
    patch = GatedMemory(
        PrefixPatch(PrefixEncoder(3, 2 * 2 * 8, 8, None, 1.0), 0, (2, 4)), Gate(8, "mean")
    )
    shaken(patch)
    x = torch.randn(4, 5, 8)
    g = gate_by_hand(patch.gate, x)[:, None, None, None]
    for gated, plain in zip(patch(x), patch.inner(x), strict=True):
        close(gated, g * plain)


@pytest.mark.parametrize("name", ["tiny-encoder", "bert", "t5", "tiny-decoder", "llama"])
def test_counts(name):
    tuner = mp.attach(zoo.build(name), mp.UniPELT(bottleneck=5, length=3, rank=2), seed=0)
    expected, shared = 0, set()
    for place, patch in tuner.patches:
        if isinstance(patch, GatedPatch) and isinstance(patch.inner, LoRAPatch):
            expected += 2 * (place.in_features + place.out_features)
        elif isinstance(patch, GatedPatch):
            expected += 2 * 5 * place.out_features + place.out_features + 5
        elif isinstance(patch, GatedMemory):
            expected += 2 * 3 * place.heads * place.head_width
        if hasattr(patch, "gate") and patch.gate not in shared:
            shared.add(patch.gate)
            expected += 1 if patch.gate.mode == "alone" else patch.gate.weight.numel() + 1
    assert tuner.report().trainable == expected == sum(p.numel() for p in tuner.parameters())


def test_padding_does_not_open_a_gate():
    model = zoo.build("bert")
    tuner = mp.attach(model, mp.UniPELT(bottleneck=3, length=2, rank=2), seed=0)
    zoo.shake(tuner)
    ids = torch.randint(3, 40, (1, 5), generator=torch.Generator().manual_seed(0))
    short = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    wide = torch.nn.functional.pad(ids, (0, 4))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 4))
    close(model(input_ids=wide, attention_mask=mask).logits[:, :5], short)


def test_a_gate_knows_nothing_of_the_batch_before():
    """A pass of vectors brings no mask: it is the same whatever went through the model before."""
    model, batch = zoo.build("bert"), zoo.batch("bert")
    zoo.shake(mp.attach(model, mp.UniPELT(bottleneck=3, length=2, rank=2), seed=0))
    vectors = torch.randn(*batch["input_ids"].shape, 16, generator=torch.Generator().manual_seed(1))
    vectors = vectors.to(torch.float64)
    first = model(inputs_embeds=vectors).logits
    assert not bool(batch["attention_mask"].all())
    model(**batch)
    assert torch.equal(model(inputs_embeds=vectors).logits, first)


def test_routed_gates_read_the_mask_of_their_own_rows():
    model, batch = zoo.build("bert"), zoo.batch("bert")
    method = mp.UniPELT(bottleneck=3, length=2, rank=2)
    for number, name in enumerate("ab"):
        zoo.shake(mp.attach(model, method, name=name, seed=number), seed=number)
    first, second = mp.tuners(model).values()
    second.disable()
    alone = zoo.logits(model, batch)
    second.enable()
    with mp.route(model, ["b", None, "a"]):  # the last row is the padded one
        together = zoo.logits(model, batch)
    close(together[2], alone[2])


def test_gates_can_be_read_by_name():
    model = zoo.build("tiny-encoder-decoder")
    tuner = mp.attach(model, mp.UniPELT(bottleneck=3, length=2, rank=2), seed=0)
    model(**zoo.batch("tiny-encoder-decoder"))
    gate_of = gates(tuner)
    assert {"LoRA encoder 0", "LoRA cross decoder 1", "prefix decoder 0", "adapter encoder 1"} <= {
        *gate_of
    }
    assert all(0 < float(gate.value.mean()) < 1 for gate in gate_of.values())
    assert len(gate_of) == 2 * (3 + 5)  # encoder: three; decoder: LoRA and prefix twice


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))
def test_any_subset(bottleneck, length, rank):
    if not bottleneck + length + rank:
        with pytest.raises(ValueError, match="all three are 0"):
            mp.UniPELT(bottleneck=0, length=0, rank=0)
        return
    model, batch = zoo.build("tiny-decoder", layers=1), zoo.batch("tiny-decoder")
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, mp.UniPELT(bottleneck=bottleneck, length=length, rank=rank), seed=0)
    zoo.shake(tuner)
    kinds = {key.split()[0] for key in gates(tuner)}
    wanted = {"adapter": bottleneck, "prefix": length, "LoRA": rank}
    assert kinds == {name for name, size in wanted.items() if size}
    assert not torch.equal(zoo.logits(model, batch), base)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@pytest.mark.parametrize("mode", ["mean", "token"])
def test_gradients_in_double_precision(mode):
    patch = GatedPatch(LoRAPatch(4, 3, 2, 2), Gate(4, mode)).double()
    shaken(patch)
    x, y = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 3).double()
    numbers = list(patch.parameters())

    def run(*_):
        return patch(x, y)

    assert torch.autograd.gradcheck(run, numbers)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(rank=-1), "rank must be a whole number from 0"),
        (dict(length=True), "length must be a whole number"),
        (dict(bottleneck=2.5), "bottleneck must be a whole number"),
        (dict(lora_gate="both"), "lora_gate must be one of"),
        (dict(alpha=0), "alpha must be a number above 0"),
        (dict(hidden=0), "hidden must be a whole number from 1"),
        (dict(targets=()), "targets must be one or more names"),
        (dict(layers=(-1,)), "layers must be None or layer numbers"),
    ],
)
def test_bad_settings(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.UniPELT(**wrong)


# Combined


def test_combined_is_one_after_the_other_under_one_name():
    batch = zoo.batch("bert")
    whole, separate = zoo.build("bert"), zoo.build("bert")
    parts = (LoRA(rank=2), Adapter(bottleneck=3, norms=False))
    tuner = mp.attach(whole, Combined(parts), seed=0)
    singles = [mp.attach(separate, part, name=f"n{i}") for i, part in enumerate(parts)]
    zoo.shake(tuner)
    with torch.no_grad():
        theirs = [p for single in singles for p in single.parameters()]
        for mine, other in zip(tuner.parameters(), theirs, strict=True):
            other.copy_(mine)
    close(zoo.logits(whole, batch), zoo.logits(separate, batch))
    assert tuner.report().trainable == sum(single.report().trainable for single in singles)


def test_together_keeps_what_its_parts_do_in_training(tmp_path):
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    parts = (
        mp.AdaLoRA(init_rank=3, target_rank=1, targets=("output",)),
        mp.PromptTuning(length=2),
        mp.Adapter(bottleneck=2, norms=False, placement="pfeiffer"),
    )
    tuner = mp.attach(model, Combined(parts), seed=0)
    history = mp.train(model, [batch], 30, 1e-2, progress=False)
    assert history.losses[-1] < history.losses[0]
    left = tuner.shares[0].patches
    assert sum(len(patch.Lambda) for _, patch in left) < 3 * len(left), "ranks have fallen"
    tuner.save(tmp_path)
    other = zoo.build("tiny-decoder")
    again = mp.load(other, tmp_path)
    close(zoo.logits(other, batch), zoo.logits(model, batch))
    kinds = [type(part) for part in again.method.methods]
    assert kinds == [type(part) for part in parts]


def test_the_mam_adapter():
    model = zoo.build("bert")
    base = zoo.logits(model, zoo.batch("bert"))
    tuner = mp.attach(model, mam(length=3, bottleneck=4), seed=0)
    kinds = {type(patch).__name__ for _, patch in tuner.patches}
    assert kinds == {"PrefixPatch", "InputTap", "ParallelAdapterPatch"}
    adapters = [patch for _, patch in tuner.patches if isinstance(patch, AdapterPatch)]
    assert all(patch.scale == 4 and not bool(patch.up.weight.any()) for patch in adapters)
    zoo.shake(tuner)
    assert not torch.equal(zoo.logits(model, zoo.batch("bert")), base)
    with pytest.raises(ValueError, match="cannot be merged"):
        tuner.merge()


def test_together_refuses_what_is_no_method():
    with pytest.raises(ValueError, match="one or more methods"):
        Combined(())
    with pytest.raises(TypeError, match="needs methods such as"):
        Combined((LoRA(), "adapter"))
    with pytest.raises(ValueError, match="already has a patch"):
        mp.attach(zoo.build("tiny-decoder"), Combined((LoRA(), LoRA())))
