"""position_ids beside tuners: what a user gives goes on, and rows count their own tokens."""

import pytest
import torch
import zoo
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st

import minipeft as mp
from minipeft.doors.positions import keep_positions
from minipeft.doors.words import arrange, insert

TEMPLATE = ("P", 7, "{x}", "P", 9, "P")
WORDS = {
    "start": mp.PromptTuning(length=3),
    "after-bos": mp.PromptTuning(length=3, position="after-bos"),
    "end": mp.PromptTuning(length=3, position="end"),
    "ensemble": mp.PromptTuning(length=2, ensemble=2),
    "peft": mp.PromptTuning(length=3, compatibility="peft"),
    "template": mp.PTuning(template=TEMPLATE),
    "embedding only": mp.Prefix(length=3, embedding_only=True, hidden=None, std=1.0),
}


def build(name: str):
    return zoo.build(name).double()


def text(name: str) -> dict:
    batch = zoo.batch(name)
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("method", WORDS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gpt_neox", "bert", "roberta"])
@torch.no_grad()
def test_the_models_own_positions_spelt_out_change_nothing(name, method):
    model, batch = build(name), text(name)
    mp.attach(model, WORDS[method], seed=0)
    first = 1 if name == "roberta" else 0  # behind the id of padding, 0
    T = batch["input_ids"].shape[1]
    positions = torch.arange(T) + first
    expected = model(**batch).logits
    for spelt in (positions.expand(3, T), positions[None], positions):
        if method == "peft" and name == "roberta":
            with pytest.raises(ValueError, match="ignores position_ids"):
                model(**batch, position_ids=spelt)
            continue
        logits = model(**batch, position_ids=spelt).logits
        real = zoo.answered(logits, batch, mp.tuners(model)["default"].wrap(batch))
        close(logits[real], expected[real])


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    steps=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    start=st.integers(0, 5),
    left=st.booleans(),
    at=st.one_of(st.integers(0, 6), st.just("end")),
    P=st.integers(1, 4),
)
def test_positions_go_on_row_by_row(rows, steps, start, left, at, P):
    """In lists: a token moves on by the new words before it, new words count up to the next one."""
    T = max(rows)
    mask = torch.tensor(
        [[0] * (T - n) + [1] * n if left else [1] * n + [0] * (T - n) for n in rows]
    )
    given = torch.zeros_like(mask)
    expected = []
    for b, n in enumerate(rows):
        positions = [start + sum(steps[: i + 1]) for i in range(n)]
        given[b, mask[b] == 1] = torch.tensor(positions)
        k = n if at == "end" else min(at, n)
        first = positions[k] if k < n else positions[-1] + 1
        expected.append(
            positions[:k] + [first + i for i in range(P)] + [p + P for p in positions[k:]]
        )
    batch = {"input_ids": torch.full_like(mask, 5), "attention_mask": mask, "position_ids": given}
    wrapped = keep_positions(batch, lambda rows: insert(rows, torch.arange(50, 50 + P), at))
    for b, row in enumerate(expected):
        assert wrapped["position_ids"][b][wrapped["attention_mask"][b] == 1].tolist() == row


def test_tokens_that_change_places_count_on_where_the_row_began():
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "position_ids": torch.tensor([[4, 5, 6]])}
    wrapped = keep_positions(batch, lambda rows: arrange(rows, [[2, -51, 0, 1, -52]], 0))
    assert wrapped["position_ids"].tolist() == [[4, 5, 6, 7, 8]]


@pytest.mark.parametrize(
    "positions, sentence",
    [
        (torch.arange(7).expand(3, 1, 7), r"have the shape \(3, 1, 7\)"),
        (torch.arange(6)[None], r"have the shape \(1, 6\)"),
        (torch.tensor([[0, 1, 2, 3, 0, 1, 2]]), "must grow along the tokens of a row"),
        (torch.arange(23, 30)[None], "position_ids end at 32, but the model knows 32 positions"),
    ],
)
def test_positions_that_cannot_go_on_are_refused(positions, sentence):
    model, batch = build("gpt2"), text("gpt2")
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, mp.PromptTuning(length=3), seed=0)
    with pytest.raises(ValueError, match=sentence):
        model(**batch, position_ids=positions)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "opt"])
@torch.no_grad()
def test_a_routed_row_counts_as_it_does_in_its_own_run(name, side):
    """Behind padding, of which GPT-2's and BERT's plain rows count every token."""
    model, names = build(name), ["prefix", None, "lora", "prompt", "unipelt"]
    ids = zoo.batch(name, rows=1)["input_ids"].repeat(5, 1)
    mask = torch.ones_like(ids)
    room = slice(0, 3) if side == "left" else slice(-3, None)
    ids[:, room], mask[:, room] = 0, 0
    batch = {"input_ids": ids, "attention_mask": mask}
    alone = {None: model(**batch).logits}
    methods = {"prefix": mp.Prefix(length=3, hidden=None, std=1.0), "lora": mp.LoRA(rank=2)}
    methods |= {"prompt": mp.PromptTuning(length=3), "unipelt": mp.UniPELT(length=3, rank=2)}
    for key, method in methods.items():
        tuner = mp.attach(model, method, name=key, seed=0)
        zoo.shake(tuner)
        alone[key] = model(**batch).logits
        tuner.disable()
    for tuner in mp.tuners(model).values():
        tuner.enable()
    with mp.route(model, names):
        mixed = model(**batch).logits
    for row, key in enumerate(names):
        expected = alone[key][row][-4:] if side == "left" else alone[key][row][:4]
        routed = mixed[row][-4:] if side == "left" else mixed[row][:4]
        close(routed, expected)


def test_vectors_behind_padding_count_as_ids_do():
    model, batch = build("gpt2"), text("gpt2")
    batch["attention_mask"][0, :3] = 0
    mp.attach(model, mp.Prefix(length=3, hidden=None, std=1.0), seed=0)
    vectors = model.transformer.wte(batch["input_ids"])
    by_vectors = model(inputs_embeds=vectors, attention_mask=batch["attention_mask"]).logits
    close(by_vectors, model(**batch).logits)


def test_a_mask_without_the_words_in_the_cache_is_refused():
    model, batch = build("gpt2"), text("gpt2")
    mp.attach(model, mp.PromptTuning(length=3), seed=0)
    cache = model(**batch, use_cache=True).past_key_values
    longer = torch.cat([batch["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)
    with pytest.raises(ValueError, match="The mask is of 8 tokens, but the cache .* are 11"):
        model(input_ids=batch["input_ids"][:, :1], attention_mask=longer, past_key_values=cache)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("routed", [False, True])
def test_a_mask_that_words_cannot_be_put_into_is_refused(name, routed):
    model, ids = build(name), text(name)["input_ids"]
    tuner = mp.attach(model, mp.PromptTuning(length=3), "a", seed=0)
    B, T = ids.shape
    square = torch.ones(T, T, dtype=torch.bool).tril().expand(B, 1, T, T)
    for mask in (square, square[:, 0], torch.ones(B, T + 1, dtype=torch.long)):
        with pytest.raises(
            ValueError, match="The attention_mask has the shape .* number per token"
        ):
            with mp.route(model, ["a", None, "a"] if routed else ["a"] * B):
                model(input_ids=ids, attention_mask=mask)
    tuner.disable()
    model(input_ids=ids, attention_mask=square)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_a_mask_may_be_of_any_kind_of_number(name, dtype):
    model, batch = build(name), text(name)
    zoo.shake(mp.attach(model, mp.PromptTuning(length=3), seed=0))
    batch = batch | ({"decoder_input_ids": batch["input_ids"]} if name == "t5" else {})
    other = batch | {"attention_mask": batch["attention_mask"].to(dtype)}
    assert torch.equal(zoo.logits(model, other), zoo.logits(model, batch))
