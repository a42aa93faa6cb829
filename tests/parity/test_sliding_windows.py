"""Prefixes in layers with a sliding window: PEFT's leave it behind, ours is seen by every token."""

import copy

import pytest
import torch
import transformers as hf
from closeness import close

import minipeft as mp

peft = pytest.importorskip("peft")

P, W, T = 5, 4, 12  # the prefix alone is longer than the window
SIZES = dict(vocab_size=48, hidden_size=16, num_hidden_layers=4, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, intermediate_size=32, max_position_embeddings=64)
SIZES |= dict(sliding_window=W, pad_token_id=0, bos_token_id=1, eos_token_id=2)
SIZES |= dict(initializer_range=0.15, tie_word_embeddings=False)
MIXED = dict(layer_types=["sliding_attention", "full_attention"] * 2)
LLAMA = mp.Family(
    ("any",),
    blocks=("layers",),
    words=("embed_tokens",),
    positions=("rotary_emb",),
    attention=("self_attn",),
)
MODELS = {
    "Mistral": {},
    "Mixtral": dict(num_local_experts=2),
    "Ministral": dict(head_dim=4),
    "Qwen2": dict(use_sliding_window=True, max_window_layers=0) | MIXED,
    "Qwen3": dict(use_sliding_window=True, max_window_layers=0, head_dim=4) | MIXED,
    "Phi3": {},
    "Starcoder2": {},
    "Gemma2": dict(head_dim=4) | MIXED,
    "Gemma3": dict(head_dim=4) | MIXED,
    "Cohere2": MIXED,
    "GptOss": dict(head_dim=4, num_local_experts=2, num_experts_per_tok=1) | MIXED,
    "Olmo3": MIXED,
    "Exaone4": MIXED,
    "SmolLM3": dict(use_sliding_window=True, no_rope_layers=[1, 1, 1, 1]) | MIXED,
}


def build(name: str, **changes):
    """A model in float64, by the name of its classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        end = "TextConfig" if name in ("Gemma3", "Llama4") else "Config"
        config = getattr(hf, name + end)(**SIZES | MODELS.get(name, {}) | changes)
        config._experts_implementation = "eager"  # the faster ones know no float64
        return getattr(hf, f"{name}ForCausalLM")(config).double().eval()


def with_peft(model):
    """PEFT's model with a prefix that says something, in float64."""
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).double().eval()
    with torch.no_grad():
        theirs.prompt_encoder.default.embedding.weight.normal_(0, 0.5)
    return theirs


def text(rows: int = 3, tokens: int = T, seed: int = 0) -> dict:
    ids = torch.randint(3, 48, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("name", MODELS)
def test_their_prefix_leaves_the_window_as_it_does_there(tmp_path, name):
    model = build(name)
    theirs = with_peft(model)
    theirs.save_pretrained(tmp_path)
    batches = [text(tokens=3), text()]
    short = {key: value[:, -7:].clone() for key, value in text().items()}
    short["attention_mask"][0, :3] = 0  # padding on the left, on the right
    short["attention_mask"][1, -2:] = 0
    batches.append(short)
    with torch.no_grad():
        expected = [theirs(**batch).logits for batch in batches]
        mp.load(model, tmp_path, family=LLAMA)
        for batch, logits in zip(batches, expected, strict=True):
            real = batch["attention_mask"].bool()
            inside = torch.float32 if name == "Gemma2" else None  # Gemma2's softmax is in fp32
            ours = model(**batch).logits
            close(ours[real], logits[real], dtype=inside)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_their_prefix_writes_what_it_writes_there(tmp_path, name, cache):
    model, batch = build(name), text(rows=2, tokens=3)
    theirs = with_peft(model)
    theirs.save_pretrained(tmp_path)
    how = dict(max_new_tokens=9, do_sample=False, eos_token_id=None, output_scores=True)
    how |= dict(return_dict_in_generate=True)
    expected = theirs.generate(**batch, **how)
    mp.load(model, tmp_path, family=LLAMA)
    written = model.generate(**batch, **how, use_cache=cache)
    assert torch.equal(written.sequences, expected.sequences)
    for ours, other in zip(written.scores, expected.scores, strict=True):
        close(ours, other)  # scores are fp32


OWN = {
    "Prefix": mp.Prefix(length=P, hidden=None, std=1.0),
    "PTuningV2": mp.PTuningV2(length=P, std=1.0),
    "UniPELT": mp.UniPELT(bottleneck=0, rank=0, length=P),
}


def one_layer(name: str):
    """A model of one layer that looks W tokens back, or not beyond its chunk of W (Llama4)."""
    numbers = dict(num_hidden_layers=1)
    if name == "Llama4":
        numbers |= dict(attention_chunk_size=W, head_dim=4, intermediate_size_mlp=32)
        numbers |= dict(layer_types=["chunked_attention"], num_local_experts=1)
        numbers |= dict(interleave_moe_layer_step=2)
    elif "layer_types" in MODELS[name]:
        numbers["layer_types"] = ["sliding_attention"]
    return build(name, **numbers)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("name", ["Mistral", "Qwen2", "Gemma3", "GptOss", "Llama4"])
def test_every_token_sees_our_prefix_and_its_window_of_the_text(name, method):
    model, batch = one_layer(name), text()
    far = {**batch, "input_ids": batch["input_ids"].clone()}
    far["input_ids"][:, : T - W] = 7  # out of the last token's window, or of its chunk
    tuner = mp.attach(model, OWN[method], seed=0, family=LLAMA)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.normal_(0, 0.5)
    last = model(**batch).logits[:, -1]
    with torch.no_grad():
        close(model(**far).logits[:, -1], last)
    rows = next(p for p in tuner.parameters() if p.shape[0] == P)
    (gradient,) = torch.autograd.grad(last.square().sum(), rows)
    assert (gradient.abs().amax(dim=1) > 1e-9).all(), "the last token sees all P places"


def test_in_pefts_layout_the_last_token_sees_nothing_of_it():
    model, batch = one_layer("Mistral"), text()
    method = mp.Prefix(length=P, hidden=None, std=1.0, compatibility="peft")
    tuner = mp.attach(model, method, seed=0)
    logits = model(**batch).logits
    (rows,) = tuner.parameters()
    for t in range(T):
        (gradient,) = torch.autograd.grad(logits[:, t].square().sum(), rows, retain_graph=True)
        seen = (gradient.abs().amax(dim=1) > 0).tolist()
        assert seen == [P + t - p < W for p in range(P)]


def test_chunks_and_pefts_layout_are_refused():
    model = one_layer("Llama4")
    with pytest.raises(ValueError, match="attends in chunks"):
        mp.attach(model, mp.Prefix(length=P, hidden=None, compatibility="peft"), family=LLAMA)
    assert not mp.tuners(model)


@pytest.mark.parametrize("name", ["Mistral", "Gemma3"])
def test_our_prefix_writes_the_same_with_a_cache_and_without(name):
    model, batch = build(name), text(rows=2, tokens=6)
    batch["attention_mask"][0, :2] = 0
    mp.attach(model, OWN["Prefix"], seed=0, family=LLAMA)
    how = dict(max_new_tokens=9, do_sample=False, eos_token_id=None, output_scores=True)
    how |= dict(return_dict_in_generate=True)
    with_cache = model.generate(**batch, **how)
    without = model.generate(**batch, **how, use_cache=False)
    assert torch.equal(with_cache.sequences, without.sequences)
    for one, other in zip(with_cache.scores, without.scores, strict=True):
        close(one, other)
