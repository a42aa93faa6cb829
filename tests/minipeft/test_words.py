"""The words door, and the batches with prompts in them: lengths, padding sides, positions, rows."""

import pytest
import torch
import transformers as hf
import zoo
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import minipeft as mp
from minipeft.doors.words import (
    WordDoor,
    answer_begins,
    arrange,
    insert,
    is_left_padded,
    place_known,
    place_vectors,
    positions,
    together,
)
from minipeft.routing import wrap

V = 20
rows = st.lists(st.lists(st.integers(1, V - 1), min_size=1, max_size=6), min_size=1, max_size=4)
sides = st.booleans()


def padded(rows, left, labels=True):
    """Rows of ids -> a batch; labels are 100 + id, so that one sees where they went."""
    T = max(map(len, rows))

    def pad(values, fill):
        return [
            [fill] * (T - len(v)) + list(v) if left else list(v) + [fill] * (T - len(v))
            for v in values
        ]

    batch = {
        "input_ids": torch.tensor(pad(rows, 0)),
        "attention_mask": torch.tensor(pad([[1] * len(row) for row in rows], 0)),
    }
    if labels:
        batch["labels"] = torch.tensor(pad([[100 + i for i in row] for row in rows], -100))
    return batch


def real_tokens(batch, key="input_ids"):
    """What each row has where its mask is 1."""
    return [
        [int(v) for v, m in zip(values, mask, strict=True) if m]
        for values, mask in zip(batch[key], batch["attention_mask"], strict=True)
    ]


def reads_one_side(batch, left):
    """Padding is on one side only, and on the right one."""
    for mask in batch["attention_mask"].tolist():
        assert mask == sorted(mask, reverse=not left)


# ---- insert


@settings(max_examples=60)
@given(rows=rows, left=sides, P=st.integers(1, 4), at=st.sampled_from([0, 1, 3, "end"]))
def test_insert_is_list_surgery_row_by_row(rows, left, P, at):
    new = list(range(V, V + P))
    batch = insert(padded(rows, left), torch.tensor(new), at)
    for row, ids, labels in zip(
        rows, real_tokens(batch), real_tokens(batch, "labels"), strict=True
    ):
        place = len(row) if at == "end" else min(at, len(row))
        assert ids == row[:place] + new + row[place:]
        expected = [100 + i for i in row]
        assert labels == expected[:place] + [-100] * P + expected[place:]
    reads_one_side(batch, left)
    outside = batch["attention_mask"] == 0
    assert bool((batch["labels"][outside] == -100).all())


@given(rows=rows, left=sides)
def test_insert_takes_a_place_and_words_for_each_row(rows, left):
    B = len(rows)
    new = torch.arange(V, V + 2 * B).view(B, 2)
    at = torch.tensor([b % (len(row) + 1) for b, row in enumerate(rows)])
    batch = insert(padded(rows, left), new, at)
    for b, (row, ids) in enumerate(zip(rows, real_tokens(batch), strict=True)):
        place = b % (len(row) + 1)
        assert ids == row[:place] + new[b].tolist() + row[place:]


@given(rows=rows, left=sides)
def test_in_front_is_before_the_padding_too(rows, left):
    before = padded(rows, left)
    batch = insert(before, torch.tensor([V, V + 1]), "front")
    assert torch.equal(batch["input_ids"][:, 2:], before["input_ids"])
    assert torch.equal(batch["attention_mask"][:, 2:], before["attention_mask"])
    assert bool((batch["attention_mask"][:, :2] == 1).all())


def test_insert_without_a_mask_makes_one_and_leaves_other_entries_alone():
    given = {
        "input_ids": torch.tensor([[3, 4]]),
        "labels": torch.tensor([[7, 8]]),
        "token_type_ids": torch.tensor([[0, 1]]),
        "decoder_input_ids": torch.tensor([[5, 6]]),
        "scores": torch.tensor([[0.5, 0.5]]),
        "name": "x",
    }
    batch = insert(given, torch.tensor([V]), 1, aligned=False)
    assert batch["input_ids"].tolist() == [[3, V, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1]]
    for key in ("labels", "decoder_input_ids", "scores", "name"):
        assert batch[key] is given[key]


# ---- arrange, together, positions


@given(rows=rows, left=sides, data=st.data())
def test_arrange_reads_columns_and_new_words(rows, left, data):
    batch = padded(rows, left)
    starts = [batch["input_ids"].shape[1] - len(row) if left else 0 for row in rows]
    plans = []
    for row, start in zip(rows, starts, strict=True):
        old = [st.integers(start, start + len(row) - 1), st.integers(-1 - V - 3, -1 - V)]
        plans.append(data.draw(st.lists(st.one_of(*old), min_size=1, max_size=5)))
    out = arrange(batch, plans, padding=0)
    for row, start, plan, ids, labels in zip(
        rows, starts, plans, real_tokens(out), real_tokens(out, "labels"), strict=True
    ):
        assert ids == [row[t - start] if t >= 0 else -1 - t for t in plan]
        assert labels == [100 + row[t - start] if t >= 0 else -100 for t in plan]
    reads_one_side(out, left and is_left_padded(batch))


@given(rows=rows, left=sides, seed=st.integers(0, 99))
def test_together_is_what_split_up_came_from(rows, left, seed):
    whole = padded(rows, left)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    parts = [part for part in (order[::2], order[1::2]) if part]
    batches = [padded([rows[i] for i in part], left) for part in parts]
    again = together(batches, parts, left, padding=0)
    for key in whole:
        assert torch.equal(again[key], whole[key]), key


@given(rows=rows, left=sides)
def test_positions_count_own_tokens_from_zero(rows, left):
    batch = padded(rows, left)
    batch["positions"] = positions(batch["attention_mask"])
    for row, counted in zip(rows, real_tokens(batch, "positions"), strict=True):
        assert counted == list(range(len(row)))


@given(rows=rows, left=sides, question=st.integers(0, 6))
def test_the_answer_begins_at_the_first_label(rows, left, question):
    batch = padded(rows, left)
    for b, row in enumerate(rows):
        start = batch["input_ids"].shape[1] - len(row) if left else 0
        batch["labels"][b, start : start + question] = -100
    expected = [min(question, len(row)) for row in rows]
    assert answer_begins(batch).tolist() == expected
    del batch["labels"]
    assert answer_begins(batch).tolist() == [len(row) for row in rows]


# ---- the door


class Vectors(nn.Module):
    def __init__(self, n, C, value):
        super().__init__()
        self.vectors = nn.Parameter(torch.full((n, C), float(value)))

    def forward(self):
        return self.vectors


def door(dtype=torch.float32):
    base = nn.Embedding(V, 3, dtype=dtype)
    door = WordDoor(base)
    for name, n, value in (("a", 2, 1), ("b", 3, 2)):
        door.reserve(name, n)
        door.add(name, Vectors(n, 3, value))
    return base, door


def test_ids_from_v_on_are_the_patches_words():
    base, words = door()
    ids = torch.tensor([[0, V, V + 2], [V + 4, V - 1, V + 1]])
    x = words(ids)
    assert torch.equal(x[0, 0], base.weight[0]) and torch.equal(x[1, 1], base.weight[V - 1])
    assert x[0, 1].tolist() == [1, 1, 1] and x[0, 2].tolist() == [2, 2, 2]
    assert x[1, 0].tolist() == [2, 2, 2] and x[1, 2].tolist() == [1, 1, 1]
    x.sum().backward()
    assert words.patches["a"].vectors.grad.tolist() == [[1] * 3, [1] * 3]
    assert words.patches["b"].vectors.grad.tolist() == [[1] * 3, [0] * 3, [1] * 3]


def test_a_word_of_nobody_is_refused():
    _, words = door()
    with pytest.raises(ValueError, match=f"The id {V + 5} is no word of this model"):
        words(torch.tensor([[V + 5]]))
    words.off.add("a")
    with pytest.raises(ValueError, match=f"The id {V} is no word .* no prompt that is enabled"):
        words(torch.tensor([[V]]))


def test_ids_are_given_anew_when_a_prompt_has_gone():
    _, words = door()
    words.remove("b")
    assert words.reserve("c", 4) == range(V + 2, V + 6)


def test_a_half_precision_table_stays_half_precision():
    _, words = door(torch.bfloat16)
    assert words(torch.tensor([[0, V]])).dtype == torch.bfloat16


def test_without_prompts_in_the_ids_the_table_answers_alone():
    base, words = door()
    ids = torch.tensor([[1, 2]])
    assert torch.equal(words(ids), base(ids))


# ---- entering a model


def test_a_batch_is_wrapped_once_by_whoever_comes_first():
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    tuner = mp.attach(model, mp.PromptTuning(length=3), seed=0)
    wrapped = tuner.wrap(batch)
    assert wrapped["input_ids"].shape[1] == batch["input_ids"].shape[1] + 3
    assert tuner.wrap(wrapped) is wrapped and wrap(model, wrapped) is wrapped
    assert torch.equal(zoo.logits(model, batch), zoo.logits(model, wrapped))
    positional = model(batch["input_ids"], batch["attention_mask"], batch["labels"])
    assert torch.equal(positional.logits, zoo.logits(model, wrapped))
    with tuner.disabled():
        assert wrap(model, batch) is batch


def test_a_row_that_became_too_long_is_refused():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.PromptTuning(length=30), seed=0)
    with pytest.raises(ValueError, match="has 37 tokens, prompts included, .* knows 32 positions"):
        model(**zoo.batch("tiny-decoder"))


def test_a_continued_text_must_have_its_prompt():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.PromptTuning(length=2), seed=0)
    with pytest.raises(ValueError, match="The prompt is not in the ids that are to be continued"):
        model(torch.tensor([[3, 4]]), cache=[])


# ---- routes

NAMES = (("a",), ("b",), ("c",), (), ("a", "c"))


@settings(max_examples=15)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    left=sides,
    seed=st.integers(0, 9),
)
def test_a_mixed_batch_equals_separate_runs(names, left, seed):
    """Prompts of several lengths and places, nobody's prompt, and two prompts in one row."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.randint(5, zoo.WORDS, (int(n),), generator=generator).tolist()
        for n in torch.randint(1, 7, (len(names),), generator=generator)
    ]
    model = zoo.build("tiny-decoder", seed=1)
    methods = dict(
        a=mp.PromptTuning(length=3),
        b=mp.PTuning(template=("P", "{x}", "P"), encoder="mlp"),
        c=mp.PromptTuning(length=2, position="after-bos"),
    )
    for number, (name, method) in enumerate(methods.items()):
        mp.attach(model, method, name=name, seed=number)
    batch = padded(rows, left, labels=False)
    with mp.route(model, names):
        mixed = zoo.logits(model, batch)
        wrapped = wrap(model, batch)
    for b, (row, own_names) in enumerate(zip(rows, names, strict=True)):
        with mp.route(model, [own_names]):
            alone = zoo.logits(model, {"input_ids": torch.tensor([row])})[0]
        got = mixed[b][wrapped["attention_mask"][b] == 1]
        close(got, alone)


def test_route_names_every_row():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.PromptTuning(length=2), name="a", seed=0)
    with mp.route(model, ["a", None]), pytest.raises(ValueError, match="names 2 rows, .* has 3"):
        model(**zoo.batch("tiny-decoder"))


def test_a_model_without_a_config_is_described_by_its_family():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(zoo.WORDS, 8), nn.Linear(8, zoo.WORDS)
            self.layers = nn.ModuleList([nn.Identity()])

        def forward(self, input_ids, attention_mask=None):
            return self.out(self.words(input_ids).cumsum(dim=1))

    model, ids = Sums().double(), torch.randint(0, zoo.WORDS, (2, 5))
    family = mp.Family(model_types=(), blocks=("layers",), words=("words",))
    tuner = mp.attach(model, mp.PromptTuning(length=3), family=family, head=False)
    prompt = tuner.patches[0][1]()
    expected = model.out(torch.cat([prompt.expand(2, -1, -1), model.words.base(ids)], 1).cumsum(1))
    close(model(ids), expected)


def test_a_prompt_for_each_question_with_several_choices():
    """`route` names questions; a choice has the prompt of its question."""
    torch.manual_seed(0)
    numbers = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    model = hf.BertForMultipleChoice(hf.BertConfig(vocab_size=48, **numbers)).double().eval()
    ids = torch.randint(5, 48, (3, 2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 1, -3:] = 0
    methods = {"a": mp.PromptTuning(length=3), "b": mp.PTuning(length=2)}
    inputs = {"input_ids": ids, "attention_mask": mask}
    zoo.mixed_equals_separate(model, inputs, methods, ["a", None, "b"], 0.3)
    with pytest.raises(ValueError, match="names 2 rows, but the batch has 3"):
        with mp.route(model, ["a", "b"]):
            model(**inputs)


def test_a_decoder_that_reads_the_input_too_has_its_table_named():
    """T5Gemma's tagger; its language model's decoder reads what it writes."""
    part = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=4, vocab_size=48)
    part |= dict(num_key_value_heads=2, head_dim=4, intermediate_size=32)
    config = hf.T5GemmaConfig(encoder=part, decoder=part, vocab_size=48, num_labels=3)
    names = ("encoder.embed_tokens", "decoder.embed_tokens")
    half, whole = (mp.Family((), ("layers",), words=names[:n]) for n in (1, 2))
    batch = {"input_ids": torch.arange(5, 12)[None]}
    model, method = hf.T5GemmaForTokenClassification(config).eval(), mp.PromptTuning(length=3)
    with pytest.raises(ValueError, match="reads the input too, .*model.decoder.embed_tokens"):
        mp.attach(model, method, family=half)
    mp.attach(model, method, family=whole)
    assert zoo.logits(model, batch).shape == (1, 7, 3)
    mp.tuners(model)["default"].detach()
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("all-linear",)), family=half)
    mp.train(model, [batch | {"labels": torch.zeros(1, 7).long()}], 1, progress=False)
    tuner.detach()
    writer = hf.T5GemmaForConditionalGeneration(config).eval()
    mp.attach(writer, method, family=half)
    assert zoo.logits(writer, batch | {"decoder_input_ids": batch["input_ids"]}).shape[1] == 7


def test_numbers_of_every_token_that_new_words_have_not():
    """Where a word stands on a page: bbox (B, T, 4)."""
    model, batch = zoo.build("bert", "tagging"), zoo.batch("bert", "tagging")
    tuner = mp.attach(model, mp.PromptTuning(length=3))
    box = torch.zeros(3, 7, 4, dtype=torch.long)
    for numbers in (box, box.double()):
        with pytest.raises(ValueError, match="bbox has 4 numbers for each token"):
            tuner.wrap(batch | {"bbox": numbers})
    states = torch.zeros(3, 7, 16)  # of an encoder, which may have as many tokens
    assert tuner.wrap(batch | {"encoder_hidden_states": states})["input_ids"].shape == (3, 10)


@pytest.mark.parametrize("where", ["in front", "anywhere, some twice", "nowhere"])
def test_words_are_placed_alike_whoever_knows_the_places(where):
    """`place_known` tells an accelerator the places, `place_vectors` has it find them."""
    ids = torch.randint(0, V, (3, 6))
    if where == "in front":
        ids[:, :4] = torch.arange(V, V + 4)
    elif where != "nowhere":
        ids[0, 5], ids[1, 0], ids[1, 3], ids[2, 2] = V + 3, V + 1, V + 1, V
    ids[2, 5] = V + 7  # another prompt's
    results = []
    x = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 6, 5, dtype=torch.float64)
    for place in (place_known, place_vectors):
        y = place(x, ids, V, vectors)
        results.append((y, *torch.autograd.grad(y, (x, vectors), upstream)))
    for ours, plain in zip(*results, strict=True):
        close(ours, plain)
