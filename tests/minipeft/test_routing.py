"""Rows inside a model: each gets what its own tuner alone gives it, or route() stops beforehand."""

import pytest
import torch
import transformers as hf
import zoo
from closeness import close, tolerance
from torch import nn

import minipeft as mp
from minipeft.analysis import support
from minipeft.doors import followed_rows
from minipeft.doors.door import doors
from minipeft.doors.layers import is_linear
from minipeft.doors.words import WordDoor
from minipeft.model.anatomy import Anatomy
from minipeft.passes.reach import partly

SIZES = dict(vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(intermediate_size=32, max_position_embeddings=40)
RELATIVE = dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4)
RELATIVE |= dict(norm_rel_ebd="layer_norm", position_biased_input=False, max_relative_positions=-1)
LLAMA = mp.Family(
    ("any",), ("layers",), ("embed_tokens",), ("rotary_emb",), ("self_attn",),
    query=("self_attn.q_proj",), value=("self_attn.v_proj",),
)  # fmt: skip


def made(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double().eval()


def ids(rows: int, tokens: int) -> dict:
    generator = torch.Generator().manual_seed(1)
    whole = torch.randint(3, 48, (rows, tokens), generator=generator)
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole)}


def attach(model, methods: dict, family=None) -> None:
    for number, (name, method) in enumerate(methods.items()):
        zoo.shake(mp.attach(model, method, name=name, family=family), 0.3, seed=number)


def compare(
    model,
    inputs: dict,
    rows: list,
    answer=lambda model, inputs: model(**inputs).logits,
    dtype: torch.dtype | None = None,
):
    """The rows of a mixed batch, and of runs in which only their own tuners are enabled."""
    known, rounding = mp.tuners(model), tolerance(1.0, dtype or torch.float64)
    with torch.no_grad():
        with mp.route(model, rows):
            mixed = answer(model, inputs)
        for row, names in enumerate(rows):
            names = (names,) if isinstance(names, str) else names or ()
            for name, tuner in known.items():
                (tuner.enable if name in names else tuner.disable)()
            alone = answer(model, inputs)[row]
            close(mixed[row], alone, dtype=dtype)
        for tuner in known.values():
            tuner.disable()
        base = answer(model, inputs)
        for tuner in known.values():
            tuner.enable()
    for row, names in enumerate(rows):
        assert torch.allclose(mixed[row], base[row], rtol=0, atol=rounding) != bool(names), (
            "it does something"
        )


# ---- layers that read what belongs to no row


def deberta(head: str = "SequenceClassification", **changes):
    config = hf.DebertaV2Config(**SIZES | RELATIVE | changes)
    return made(lambda: getattr(hf, f"DebertaV2For{head}")(config))


DISENTANGLED = {
    "LoRA": mp.LoRA(rank=2),
    "all": mp.LoRA(rank=2, targets=("all-linear",)),
    "DoRA": mp.DoRA(rank=2),
    "VeRA": mp.VeRA(rank=4),
    "IA3": mp.IA3(),
    "BitFit": mp.BitFit(),
    "Adapter": mp.Adapter(bottleneck=3),
    "UniPELT": mp.UniPELT(length=0, bottleneck=3, rank=2),
    "PromptTuning": mp.PromptTuning(length=2),
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "its own maps"])
@pytest.mark.parametrize("method", DISENTANGLED)
def test_relative_positions_that_are_projected(method, shared):
    """DeBERTa's: one projection reads the text (B, T, C) and positions (1, 2 S, C)."""
    model, inputs = deberta(share_att_key=shared), ids(4, 7)
    inputs["attention_mask"][2, -3:] = 0
    attach(model, {"a": DISENTANGLED[method], "b": DISENTANGLED[method]})
    compare(model, inputs, ["a", None, "b", "a"])


def test_the_maps_of_positions_themselves():
    model, inputs = deberta(share_att_key=False), ids(4, 8)
    attach(model, {"a": mp.LoRA(rank=2, targets=("pos_key_proj", "pos_query_proj"))})
    compare(model, inputs, ["a", None, None, "a"])


def test_several_tuners_of_a_row_and_all_outputs():
    model, inputs = deberta("TokenClassification", share_att_key=True), ids(4, 4)
    inputs["attention_mask"][:2, -1] = 0  # UniPELT's gates leave padding out
    attach(model, {"a": mp.LoRA(rank=2), "b": DISENTANGLED["UniPELT"], "c": mp.Adapter()})
    rows = [("a", "b"), "b", None, ("c", "b")]
    compare(model, inputs, rows)
    compare(model, inputs, rows, lambda m, i: m(**i, output_hidden_states=True).hidden_states[-1])
    compare(
        model, inputs, rows[:1] * 2 + rows[2:], lambda m, i: m(**i, output_attentions=True)[1][1]
    )


def test_routes_inside_routes_leave_the_forward_as_it_was():
    model, inputs = deberta(share_att_key=True), ids(2, 8)
    attach(model, {"a": mp.LoRA(rank=2), "b": mp.LoRA(rank=2)})
    encoder = model.deberta.encoder
    with torch.no_grad(), mp.route(model, ["a", None]):
        outer = model(**inputs).logits
        with mp.route(model, ["b", "a"]):
            inner = model(**inputs).logits
        assert torch.equal(model(**inputs).logits, outer) and not torch.equal(inner, outer)
    assert "forward" not in vars(encoder)


def test_gradients_come_from_the_rows_of_a_tuner_and_checkpointing_is_refused():
    model, inputs = deberta(share_att_key=True), ids(3, 8)
    attach(model, {"a": mp.LoRA(rank=2)})
    (query, value) = [patch for _, patch in mp.tuners(model)["a"].patches][:2]
    for row, reached in ((1, False), (0, True)):
        with mp.route(model, ["a", None, "a"]):
            model(**inputs).logits[row].sum().backward()
        assert all(bool(p.grad.any()) == reached for p in (query.A, query.B, value.A, value.B))
    model.train().gradient_checkpointing_enable()
    with mp.route(model, ["a", None, "a"]), pytest.raises(ValueError, match="checkpointing"):
        model(**inputs)


# ---- models that nobody listed


class Mixer(nn.Module):
    """Words, two linear maps, a head; `layout` says how the tokens lie in between."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout, self.words = layout, nn.Embedding(48, 8)
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask=None):
        ids = input_ids.T if self.layout == "ids first" else input_ids
        x = self.words(ids)
        if self.layout == "tokens first":
            x = x.transpose(0, 1)  # (T, B, C)
        shape = x.shape
        if self.layout == "flat":
            x = x.flatten(0, 1)  # (B T, C)
        if self.layout == "flat, tokens first":
            x = x.transpose(0, 1).flatten(0, 1)  # (T B, C)
        x = self.second(self.first(x).tanh()).tanh()
        if self.layout == "flat":
            x = x.view(shape)
        if self.layout == "flat, tokens first":
            x = x.view(shape[1], shape[0], -1).transpose(0, 1)
        if self.layout in ("tokens first", "ids first"):
            x = x.transpose(0, 1)
        return self.head(x.cumsum(dim=1))  # (B, T, 3)


@pytest.mark.parametrize("tokens", [1, 3, 4, 6, 12])
@pytest.mark.parametrize(
    "layout", ["rows first", "flat", "tokens first", "ids first", "flat, tokens first"]
)
def test_layouts_are_followed_and_not_guessed(layout, tokens):
    """Three rows; as many tokens, a multiple, or something else: right, or refused."""
    model, inputs = made(lambda: Mixer(layout)), ids(3, tokens)
    attach(model, {"a": mp.LoRA(rank=2, targets=("first", "second"))})
    rows = ["a", None, "a"]

    def answer(m, i):
        return m(**i)

    if layout in ("rows first", "flat") or (tokens == 1 and layout == "flat, tokens first"):
        compare(model, inputs, rows, answer)
        return
    before = model(**inputs)
    with mp.route(model, rows), pytest.raises(ValueError, match="cannot tell the rows apart in"):
        model(**inputs)
    assert torch.equal(model(**inputs), before)
    with mp.route(model, ["a"] * 3):  # nobody need be told apart
        close(model(**inputs), before)


def test_what_was_right_for_one_length_is_looked_at_again_for_another():
    model = made(lambda: Mixer("flat, tokens first"))
    attach(model, {"a": mp.LoRA(rank=2, targets=("first",))})
    with mp.route(model, ["a", None, "a"]):
        model(**ids(3, 1))
        with pytest.raises(ValueError, match="cannot tell the rows apart in first"):
            model(**ids(3, 6))


def test_looking_leaves_no_trace_and_is_done_once():
    model, inputs = made(lambda: Mixer("rows first")), ids(3, 5)
    attach(model, {"a": mp.LoRA(rank=2, targets=("first",))})
    calls = []
    hook = model.words.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    with mp.route(model, ["a", None, "a"]):
        for _ in range(3):
            model(**inputs)
    hook.remove()
    assert len(calls) == 4 and model.training and model.first.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.words._forward_hooks and mp.tuners(model)["a"].enabled


def test_a_part_of_the_model_alone_has_not_been_looked_at():
    model = made(lambda: Mixer("rows first"))
    attach(model, {"a": mp.LoRA(rank=2, targets=("first",))})
    with mp.route(model, ["a", None]), pytest.raises(ValueError, match="call the model itself"):
        model.first(torch.zeros(2, 3, 8, dtype=torch.float64))


@pytest.mark.parametrize("name", ["Gemma2", "Olmo3", "Qwen3Moe"])
def test_unlisted_models_that_read_row_after_row(name):
    dtype = torch.float32 if name == "Gemma2" else None  # its softmax is taken in float32
    numbers = dict(head_dim=4, num_key_value_heads=2, pad_token_id=0)
    numbers |= dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    config = getattr(hf, f"{name}Config")(**SIZES | numbers)
    config._experts_implementation = "eager"
    model = made(lambda: getattr(hf, f"{name}ForCausalLM")(config))
    attach(model, {"a": mp.LoRA(rank=2), "p": mp.Prefix(length=3, hidden=None, std=1.0)}, LLAMA)
    for tokens in (4, 8, 7):
        compare(model, ids(4, tokens), ["a", None, "p", ("a", "p")], dtype=dtype)
    inputs = ids(3, 4)
    how = dict(max_new_tokens=4, do_sample=False, eos_token_id=None)
    compare(
        model, inputs, ["a", None, "p"], lambda m, i: m.generate(**i, **how, num_beams=2).double()
    )


@pytest.mark.parametrize("tokens", [4, 8])
@pytest.mark.parametrize("name", ["XLNet", "Longformer", "Deberta"])
def test_unlisted_models_that_do_not(name, tokens):
    numbers, target = dict(SIZES), "query"
    if name == "XLNet":
        numbers = dict(vocab_size=48, d_model=16, n_layer=2, n_head=4, d_inner=32)
        target = "layer_1"
    if name == "Longformer":
        numbers |= dict(attention_window=4, pad_token_id=0)
    if name == "Deberta":
        numbers |= RELATIVE
        target = "pos_q_proj"
    model = made(lambda: getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**numbers)))
    attach(model, {"a": mp.LoRA(rank=2, targets=(target,))})
    with mp.route(model, ["a", None, "a", None]):
        with pytest.raises(ValueError, match=f"cannot tell the rows apart in .*{target}"):
            model(**ids(4, tokens))


def test_pictures():
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        image_size=8, patch_size=4,
    )  # fmt: skip
    model = made(lambda: hf.ViTForImageClassification(config))
    attach(model, {"a": mp.LoRA(rank=2, targets=("q_proj",))})
    pictures = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    compare(model, {"pixel_values": pictures}, ["a", None, "a"])


@pytest.mark.parametrize("tokens", [3, 6])
@pytest.mark.parametrize("name", [*zoo.MODELS, *zoo.MORE])
def test_what_we_know_of_the_listed_ones_is_so(name, tokens):
    """Every linear map, attention layer and head, as many tokens as rows and twice as many."""
    classifies = "classification" in support.ARCHITECTURES.get(name, support.HEADS)
    model = zoo.build(name, "classification" if classifies else "language")
    inputs = ids(3, tokens)
    if name in zoo.SEQ2SEQ and classifies:
        inputs["input_ids"][:, -1] = 2  # these heads read the end token
    elif name in zoo.SEQ2SEQ:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    every = [path for path, module in model.named_modules() if is_linear(module)]
    mp.attach(model, mp.LoRA(rank=2, targets=tuple(every)), name="maps", head=False)
    if name not in support.NO_MEMORY:
        mp.attach(model, mp.Prefix(length=2, hidden=None), name="memory")
    changed = [d for d in doors(model) if d.patches and not isinstance(d, WordDoor)]
    assert len(changed) > 5 and followed_rows.is_known(model, Anatomy(model))
    with partly(model):
        assert followed_rows.out_of_order(model, changed, inputs, size=3, count=3) == []


def test_following_the_rows_finds_the_positions_of_deberta():
    model, inputs = deberta(share_att_key=True), ids(3, 8)
    mp.attach(model, mp.LoRA(rank=2))
    changed = [d for d in doors(model) if d.patches]
    with partly(model):
        wrong = followed_rows.out_of_order(model, changed, inputs, size=3, count=3)
    assert [text.split(",")[0].split(".")[-1] for text in wrong] == ["query_proj"] * 2
    assert all("(1, 8, 16)" in text for text in wrong)
