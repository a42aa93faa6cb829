"""The memory door against its equation, and against everything that may go wrong around it."""

from dataclasses import dataclass

import pytest
import torch
import transformers as hf
import zoo
from closeness import close
from torch import nn

import minipeft as mp
from minipeft.doors.memory import (
    MemoryDoor,
    PositionDoor,
    capture_keys_values,
    memory_in_front,
    reading_memory,
)
from minipeft.doors.rows import Routing
from minipeft.methods.method import Method
from minipeft.passes.reach import partly
from tiny_transformer.attention import Attention

B, T, P, D = 3, 5, 2, 4


class Constant(nn.Module):
    """The same keys and values in every row."""

    def __init__(self, heads: int, length: int, width: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(1, heads, length, width))
        self.values = nn.Parameter(torch.randn(1, heads, length, width))

    def forward(self, x):
        return self.keys, self.values


@dataclass(frozen=True)
class Remember(Method):
    length: int = 3
    shift: int = 0

    def install(self, tuner) -> None:
        for site in tuner.attentions():
            tuner.add_memory(site, Constant(site.heads, self.length, site.head_width))
        if self.shift:
            tuner.shift_positions(self.shift)


def plain(query, key, value, memory, allowed, bias=0.0, scale=D**-0.5):
    """softmax(Q [M_k ; K]^T scale + [0 ; bias]) [M_v ; V], with loops over rows and heads.

    memory: keys, values (B or 1, H, P, D), which tokens see which of it (B, T, P).
    allowed (B or 1, T, S); bias (H, P + T, ...) as (H, T, P + S) or 0. Returns (B, T, H, D).
    """
    more_keys, more_values, seen = memory
    rows, H = query.shape[:2]
    group = H // key.shape[1]
    out = torch.empty(rows, query.shape[2], H, query.shape[3])
    for b in range(rows):
        for h in range(H):
            m = min(b, len(more_keys) - 1)
            K = torch.cat([more_keys[m, h // group], key[b, h // group]])  # (P + S, D)
            V = torch.cat([more_values[m, h // group], value[b, h // group]])
            scores = query[b, h] @ K.T * scale  # (T, P + S)
            scores = scores + (bias if isinstance(bias, float) else bias[h])
            may_look = torch.cat([seen[b], allowed[min(b, len(allowed) - 1)]], dim=1)  # (T, P + S)
            out[b, :, h] = scores.masked_fill(~may_look, -torch.inf).softmax(-1) @ V
    return out


def random_case(heads=4, groups=1, seed=0):
    torch.manual_seed(seed)
    query = torch.randn(B, heads, T, D)
    key, value = torch.randn(2, B, heads // groups, T, D)
    more_keys, more_values = torch.randn(2, 1, heads // groups, P, D)
    return query, key, value, more_keys, more_values


def visibilities():
    """None, per row, per token; each beside the (B, T, P) that it stands for."""
    everything = torch.ones(B, T, P, dtype=torch.bool)
    row = torch.tensor([[True, True], [False, True], [False, False]])
    token = torch.rand(B, T, P, generator=torch.Generator().manual_seed(3)) < 0.5
    return [(None, everything), (row, row[:, None].expand(-1, T, -1)), (token, token)]


LAYERS = {
    "gpt2": "transformer.h.0.attn",
    "llama": "model.layers.0.self_attn",
    "bert": "bert.encoder.layer.0.attention.self",
    "t5": "decoder.block.0.layer.0.SelfAttention",
}


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_equation_in_transformers(name, kind):
    layer = zoo.build(name, layers=1).get_submodule(LAYERS[name])
    layer.training = False
    groups = 2 if name == "llama" else 1
    query, key, value, more_keys, more_values = random_case(groups=groups)
    past = torch.ones(T, T, dtype=torch.bool).tril()
    padding = torch.tensor([T, T - 1, T - 2])[:, None, None] > torch.arange(T)  # (B, 1, T)
    allowed = past & padding
    masks = {"bool": allowed[:, None]}
    masks["numbers"] = torch.zeros(B, 1, T, T).masked_fill(~allowed[:, None], -1e30)
    if kind == "eager":
        del masks["bool"]  # eager attention adds its mask
    attention = reading_memory(kind)
    bias = torch.randn(1, 4, T, T) if name == "t5" else None
    extra = {} if bias is None else {"position_bias": bias}
    scale = 1.0 if name == "t5" else D**-0.5
    for label, mask in masks.items():
        for visible, seen in visibilities():
            layer.memory = (more_keys, more_values, visible)
            out = attention(layer, query, key, value, mask, scaling=scale, dropout=0.0, **extra)[0]
            wide = 0.0 if bias is None else torch.cat([torch.zeros(4, T, P), bias[0]], dim=-1)
            memory = (more_keys, more_values, seen)
            expected = plain(query, key, value, memory, allowed, wide, scale)
            close(out, expected, label=f"{label} {visible}")
    if name == "t5":  # a memory with a place: its own bias before the others
        memory_bias = torch.randn(1, 4, T, P)
        layer.memory = (more_keys, more_values, None, [(P, lambda *sizes: memory_bias)])
        out = attention(layer, query, key, value, mask, scaling=1.0, dropout=0.0, **extra)[0]
        memory = (more_keys, more_values, torch.ones(B, T, P, dtype=torch.bool))
        wide = torch.cat([memory_bias[0], bias[0]], dim=-1)
        expected = plain(query, key, value, memory, allowed, wide, 1.0)
        close(out, expected)


@pytest.mark.parametrize("causal", [True, False])
def test_without_a_mask_it_depends_on_the_layer(causal):
    """A causal layer hides the future of the words, never the memory."""
    name = "gpt2" if causal else "bert"
    layer = zoo.build(name, layers=1).get_submodule(LAYERS[name])
    query, key, value, more_keys, more_values = random_case()
    layer.memory = (more_keys, more_values, None)
    out = reading_memory("sdpa")(layer, query, key, value, None, scaling=D**-0.5, dropout=0.0)[0]
    everything = torch.ones(1, T, T, dtype=torch.bool)
    memory = (more_keys, more_values, torch.ones(B, T, P, dtype=torch.bool))
    expected = plain(query, key, value, memory, everything.tril() if causal else everything)
    close(out, expected)


@pytest.mark.parametrize("keep_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_the_equation_in_tiny_transformer(causal, keep_weights):
    torch.manual_seed(0)
    layer = Attention(16, 4)
    layer.output = nn.Identity()
    layer.keep_weights = keep_weights
    x = torch.randn(B, T, 16)
    query, key, value = (layer.split(part(x)) for part in (layer.query, layer.key, layer.value))
    _, _, _, more_keys, more_values = random_case()
    allowed = torch.ones(1, T, T, dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    for visible, seen in visibilities():
        layer.memory = (more_keys, more_values, visible)
        memory = (more_keys, more_values, seen)
        expected = plain(query, key, value, memory, allowed).flatten(2)  # (B, T, C)
        close(layer(x, causal=causal), expected)


def test_the_door_lays_memories_side_by_side():
    """Patches with rows of their own, one since a token, one off: who sees what."""
    door = MemoryDoor(nn.Identity())
    torch.manual_seed(0)
    a, b, c = (Constant(2, n, D) for n in (1, 2, 3))
    for name, patch in zip("abc", (a, b, c), strict=True):
        door.add(name, patch)
    door.off.add("c")
    x = torch.randn(4, T, 8)
    keys, values, visible = door.gather(x)
    assert visible is None
    assert torch.equal(keys, torch.cat([a.keys, b.keys], dim=2))
    assert torch.equal(values, torch.cat([a.values, b.values], dim=2))
    door.routing = Routing([("a",), ("a", "b"), ("b",), ()])
    keys, values, visible = door.gather(x)
    assert visible.tolist() == [[1, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert torch.equal(values[1, :, 1:], b.values[0]) and values[0, :, 1:].abs().max() == 0
    door.routing = None
    b.since = torch.tensor([0, 9, 3, 4])
    seen = door.gather(x, past=1)[2]  # the first of these tokens is number 1
    assert seen[..., 0].all() and torch.equal(seen[..., 1], seen[..., 2])
    assert seen[..., 1].tolist() == [[1] * 5, [0] * 5, [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    beams = door.gather(torch.randn(8, 1, 8), past=3)[2]  # two beams for each row
    assert beams[:, 0, 1].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


MODELS = ("tiny-decoder", "tiny-encoder-decoder", "gpt2", "bert", "t5", "bart", "llama")


@pytest.mark.parametrize("name", MODELS)
def test_rows_gradients_checkpointing_and_detach(name):
    model, batch = zoo.build(name), zoo.batch(name)
    before, base = mp.fingerprint(model), zoo.logits(model, batch)
    kind = getattr(model.config, "_attn_implementation", None)
    first = mp.attach(model, Remember(3), "first", seed=0)
    one = zoo.logits(model, batch)
    assert (one - base).abs().max() > 1e-3
    second = mp.attach(model, Remember(2), "second", seed=1)
    first.disable()
    two = zoo.logits(model, batch)
    first.enable()
    with mp.route(model, ["first", "second", None]):
        mixed = zoo.logits(model, batch)
    for row, alone in enumerate((one, two, base)):
        close(mixed[row], alone[row])

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.train()
        model(**batch).loss.backward()
        model.eval()
        return [p.grad.clone() for p in (*first.parameters(), *second.parameters())]

    stored = gradients()
    assert all(g.abs().max() > 0 for g in stored)
    assert all(p.grad is None for p in first.anatomy.parameters())
    if name.startswith("tiny"):
        for part in (model, *model.children()):
            part.gradient_checkpointing = True
    else:
        model.activation_checkpointing_enable()
    for grad, again in zip(stored, gradients(), strict=True):
        close(again, grad)
    if not name.startswith("tiny"):
        assert model.config._attn_implementation == f"minipeft_{kind}"
    first.detach()
    second.detach()
    assert getattr(model.config, "_attn_implementation", None) == kind
    assert mp.fingerprint(model) == before and torch.equal(zoo.logits(model, batch), base)
    assert not any(isinstance(module, MemoryDoor) for module in model.modules())


@pytest.mark.parametrize("name", ["tiny-decoder", "tiny-encoder-decoder", "gpt2", "t5", "llama"])
def test_generation_with_a_cache_and_without_and_with_beams(name):
    model = zoo.build(name)
    mp.attach(model, Remember(3), seed=0)
    ids = zoo.batch(name)["input_ids"][:2]
    for beams in (1, 2):
        how = dict(max_new_tokens=5, beams=beams)
        kept = mp.generate(model, ids, **how)
        assert torch.equal(kept, mp.generate(model, ids, **how, use_cache=False))


@pytest.mark.parametrize("name", ["tiny-decoder", "llama", "gpt2", "tiny-encoder", "bert"])
def test_left_and_right_padding(name):
    model = zoo.build(name)
    mp.attach(model, Remember(3), seed=0)
    ids = torch.randint(3, zoo.WORDS, (1, 5), generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(1, 2, dtype=torch.long)
    mask = torch.ones_like(ids)
    outs = []
    for left in (False, True):
        order = (lambda *parts: parts[::-1]) if left else (lambda *parts: parts)
        batch = {"input_ids": torch.cat(order(ids, padding), dim=1)}
        batch["attention_mask"] = torch.cat(order(mask, padding), dim=1)
        if not name.startswith("tiny"):  # their positions count padding unless they are told
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = zoo.logits(model, batch)
        outs.append(logits[:, 2:] if left else logits[:, :5])
    close(outs[0], outs[1])
    alone = zoo.logits(model, {"input_ids": ids})
    close(outs[0], alone)


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "t5", "llama"])
def test_a_half_precision_base(name):
    model, batch = zoo.build(name), zoo.batch(name)
    mp.attach(model, Remember(3), seed=0)
    exact = zoo.logits(model, batch)
    half = zoo.build(name).to(torch.bfloat16)
    tuner = mp.attach(half, Remember(3), seed=0)
    logits = zoo.logits(half, batch)
    assert logits.dtype == torch.bfloat16
    assert {p.dtype for p in tuner.parameters()} == {torch.float32}
    assert (logits.float() - exact).abs().max() < 0.05 * exact.abs().max() + 0.05
    half(**batch).loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in tuner.parameters())


def test_a_kernel_without_a_mask_is_refused():
    model = zoo.build("gpt2")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match='load it with attn_implementation="sdpa"'):
        mp.attach(model, Remember())
    assert not mp.tuners(model)


def test_eager_attention_stays_eager():
    batch = zoo.batch("llama")
    outs = []
    for kind in ("eager", "sdpa"):
        model = zoo.build("llama")
        model.set_attn_implementation(kind)
        tuner = mp.attach(model, Remember(), seed=0)
        assert model.config._attn_implementation == f"minipeft_{kind}"
        outs.append(zoo.logits(model, batch))
        tuner.detach()
        assert model.config._attn_implementation == kind
    close(*outs, dtype=torch.float32)  # eager attention has its softmax in fp32


@pytest.mark.parametrize("name", ["tiny-decoder", "tiny-encoder", "gpt2", "llama"])
def test_capturing_keys_and_values(name):
    """The same as the cache holds; a tuner that is attached does not change them."""
    model, ids = zoo.build(name), torch.tensor([[7, 8, 9, 10]])
    tuner = mp.attach(model, Remember(), seed=0)
    layers = [site.module for site, _ in tuner.patches]
    captured = capture_keys_values(model, layers, {"input_ids": ids})
    assert all(pair.shape[:2] == (2, 1) and pair.shape[3] == 4 for pair in captured)
    assert not any(hasattr(layer, "captured") for layer in layers) and tuner.enabled
    tuner.detach()
    if name.startswith("tiny"):
        x = model.embeddings(ids, torch.arange(4)[None], None)
        block = model.blocks[0]
        x = block.attention_norm(x) if block.pre_norm else x
        layer = block.attention
        expected = torch.stack([layer.split(layer.key(x)), layer.split(layer.value(x))])
        close(captured[0], expected)
    else:
        cache = model(ids, use_cache=True).past_key_values
        for pair, layer in zip(captured, cache.layers, strict=True):
            expected = torch.stack([layer.keys, layer.values])
            close(pair, expected)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "opt", "bert"])
def test_positions_move(name):
    model, batch = zoo.build(name), zoo.batch(name, rows=1)
    plainly = zoo.logits(model, {**batch, "position_ids": 4 + torch.arange(7)[None]})
    tuner = mp.attach(model, Remember(1, shift=4), seed=0)
    for door in model.modules():  # the shift alone
        if isinstance(door, MemoryDoor):
            door.off.add("default")
    with partly(model):  # else it says that no memory is read
        moved = zoo.logits(model, batch)
    close(moved, plainly)
    tuner.detach()
    assert not any(isinstance(module, PositionDoor) for module in model.modules())


def test_padding_keeps_its_position_in_roberta():
    model = zoo.build("roberta")
    tuner = mp.attach(model, Remember(1, shift=4))
    table = dict(tuner.anatomy.position_layers())
    door = next(m for m in model.modules() if isinstance(m, PositionDoor))
    assert door.base in table.values() and door.base.padding_idx == 0
    asked = []
    door.base.forward = lambda ids: asked.append(ids)
    door(torch.tensor([[1, 2, 3, 0]]))
    assert asked[0].tolist() == [[5, 6, 7, 0]]


def test_positions_that_do_not_exist_and_rows_that_differ():
    model = zoo.build("gpt2")  # 32 positions
    mp.attach(model, Remember(1, shift=30), name="far")
    with pytest.raises(ValueError, match="Behind a prefix of 30 the input ends at a position"):
        model(**zoo.batch("gpt2"))
    with pytest.raises(ValueError, match="cannot count positions differently"):
        with mp.route(model, ["far", None, "far"]):
            model(**zoo.batch("gpt2"))


def test_a_mask_that_differs_from_head_to_head():
    """As Doge's: every head sees all of the memory, and of the text what it saw before."""
    generator = torch.Generator().manual_seed(0)
    key, prefix = (torch.randn(2, 4, n, 6, generator=generator) for n in (3, 5))
    mask = torch.randn(2, 4, 3, 3, generator=generator)  # (B, H, T, S), to be added
    _, _, whole = memory_in_front((prefix, prefix, None), key, key, key, mask, causal=True)
    assert whole.shape == (2, 4, 3, 8)
    assert not whole[..., :5].any() and torch.equal(whole[..., 5:], mask)


def test_a_memory_whose_width_the_layer_does_not_have():
    """Keys and values of two widths, as in DeepSeek's latent attention: one sentence."""
    key, value = torch.zeros(1, 2, 3, 6), torch.zeros(1, 2, 3, 4)
    memory = (torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4), None)
    with pytest.raises(ValueError, match="keys of 2 heads of width 6 and values of width 4"):
        memory_in_front(memory, key, key, value, None, causal=True)


def test_a_mask_that_is_the_same_for_every_query():
    """As MarkupLM's, (B, 1, 1, S)."""
    generator = torch.Generator().manual_seed(0)
    key, prefix = (torch.randn(2, 4, n, 6, generator=generator) for n in (3, 5))
    mask = torch.randn(2, 1, 1, 3, generator=generator)
    for numbers, free in ((mask, 0), (mask > 0, 1)):  # to add, or whether one may look
        _, _, whole = memory_in_front((prefix, prefix, None), key, key, key, numbers, causal=False)
        whole = whole.expand(2, 1, 3, 8)  # as attention reads it
        assert whole.dtype == numbers.dtype and (whole[..., :5] == free).all()
        assert torch.equal(whole[..., 5:], numbers.expand(2, 1, 3, 3))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_rows_without_a_prefix_where_attention_adds_its_mask(name):
    """Eager attention, and no padding, so that the model itself makes no mask."""
    model, inputs = zoo.build(name), {"input_ids": zoo.batch(name)["input_ids"]}
    model.set_attn_implementation("eager")
    methods = {"a": mp.Prefix(length=3), "b": mp.PTuningV2(length=2)}
    zoo.mixed_equals_separate(model, inputs, methods, ["a", None, "b"], 0.3)


SMALL = dict(vocab_size=48, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
SMALL |= dict(num_key_value_heads=2, intermediate_size=32, max_position_embeddings=40)


def unlisted(kind: str, **numbers):
    """A model of transformers that no family has, and the family that describes it."""
    cls = getattr(hf, kind)
    torch.manual_seed(0)
    names = dict(words=("embed_tokens",), positions=("rotary_emb",), attention=("self_attn",))
    family = mp.Family((), ("layers",), **names)
    return cls(cls.config_class(**SMALL, **numbers)).double().eval(), family


@pytest.mark.parametrize("method", [mp.Prefix(length=3), mp.PTuningV2(length=3)])
def test_attention_that_reads_parts_of_its_values_takes_no_memory(method):
    """DiffLlama looks twice with the same keys, each time at half of its values."""
    (model, family), batch = unlisted("DiffLlamaForCausalLM"), zoo.batch("llama")
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, method, family=family)
    with pytest.raises(ValueError, match="does not fit DiffLlamaAttention, .*a part of its values"):
        model(**batch)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


def test_rows_that_count_positions_differently_in_a_model_that_nobody_listed():
    (model, family), batch = unlisted("ArceeForCausalLM"), zoo.batch("llama")
    method = mp.Prefix(length=3, compatibility="peft")
    mp.attach(model, method, name="a", family=family)
    expected = zoo.logits(model, batch)
    with mp.route(model, ["a", "a", "a"]):
        assert torch.equal(zoo.logits(model, batch), expected)
    with pytest.raises(ValueError, match="cannot count positions differently"):
        with mp.route(model, ["a", None, "a"]):
            model(**batch)
