"""Checks of lesson 07: they take what is right, however it is written, and name what is wrong."""

from decimal import Decimal
from fractions import Fraction

import diagnoses
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks
from minipeft.checks.exercises.prompt_patients import HINTS
from minipeft.course import prompt_tuning as lesson
from minipeft.doors.words import place_vectors


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- place_vectors ---------------------------------------------------------------------------------


def by_where(x, ids, first, vectors):
    its_words = (ids >= first) & (ids - first < len(vectors))
    rows = vectors.to(x.dtype)[(ids - first).clamp(0, len(vectors) - 1)]  # (B, T, C)
    return torch.where(its_words.unsqueeze(-1), rows, x)


def by_one_hot(x, ids, first, vectors):
    """A sum over the prompt's words, each where its id stands."""
    hot = (ids[..., None] == first + torch.arange(len(vectors))).to(x.dtype)  # (B, T, n)
    return x * (1 - hot.sum(-1, keepdim=True)) + hot @ vectors.to(x.dtype)


def by_clone(x, ids, first, vectors):
    y = x.clone()
    for i, vector in enumerate(vectors):
        y[ids == first + i] = vector.to(x.dtype)
    return y


def by_rows(x, ids, first, vectors):
    words = range(first, first + len(vectors))
    texts = []
    for row, numbers in zip(x, ids.tolist(), strict=True):
        texts.append(
            torch.stack(
                [
                    vectors[i - first].to(x.dtype) if i in words else old
                    for old, i in zip(row, numbers, strict=True)
                ]
            )
        )
    return torch.stack(texts)


def by_one_table(x, ids, first, vectors):
    """The places of the text and the prompt's rows in one table, looked up once."""
    B, T, C = x.shape
    its_words = (first <= ids) * (ids <= first + len(vectors) - 1)
    whole = torch.cat([x.reshape(B * T, C), vectors.to(x.dtype)])
    rows = torch.where(its_words, B * T + ids - first, torch.arange(B * T).view(B, T))
    return F.embedding(rows, whole)


def words_of(ids, first, vectors):
    return (ids >= first) & (ids < first + len(vectors))


def masked_scatter(x, ids, first, vectors):
    mask = words_of(ids, first, vectors)
    rows = vectors.to(x.dtype)[ids[mask] - first]
    return x.masked_scatter(mask[..., None].expand_as(x), rows)


def by_scatter(x, ids, first, vectors):
    B, T, C = x.shape
    at = words_of(ids, first, vectors).reshape(-1).nonzero()[:, 0]
    return (
        x.reshape(-1, C)
        .index_copy(0, at, vectors.to(x.dtype)[ids.reshape(-1)[at] - first])
        .view(B, T, C)
    )


def by_einsum(x, ids, first, vectors):
    hot = torch.stack([(ids == first + i) for i in range(len(vectors))], -1)
    return torch.einsum("btn,nc->btc", hot.to(x.dtype), vectors.to(x.dtype)) + x.masked_fill(
        hot.any(-1, keepdim=True), 0
    )


def padded_lookup(x, ids, first, vectors):
    n = len(vectors)
    tab = F.pad(vectors.to(x.dtype), (0, 0, 0, 1))
    j = ids - first
    j = torch.where((j < 0) | (j >= n), n, j)
    keep = (j == n)[..., None]
    return tab[j] + x * keep


def by_gather(x, ids, first, vectors):
    """Each row's table: the prompt, then the row itself."""
    (B, T, C), n = x.shape, len(vectors)
    table = torch.cat([vectors.to(x.dtype).expand(B, n, C), x], dim=1)  # (B, n + T, C)
    rows = torch.where(words_of(ids, first, vectors), ids - first, n + torch.arange(T))
    return table.gather(1, rows[..., None].expand(B, T, C))


def by_negative_rows(x, ids, first, vectors):
    """Rows counted from the end."""
    mask = words_of(ids, first, vectors)
    return x.index_put((mask,), vectors.to(x.dtype)[ids[mask] - first - len(vectors)])


RIGHT = [place_vectors, by_where, by_one_hot, by_clone, by_rows, by_one_table]
RIGHT += [masked_scatter, by_scatter, by_einsum, padded_lookup]
RIGHT += [by_gather, by_negative_rows]


@pytest.mark.parametrize("right", RIGHT)
def test_right_ways_to_place_vectors_pass(right, capsys):
    checks.place_vectors(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def in_place(x, ids, first, vectors):
    its_words = (ids >= first) & (ids < first + len(vectors))
    with torch.no_grad():
        x[its_words] = vectors.to(x.dtype)[ids[its_words] - first]
    return x


def too_many(x, ids, first, vectors):
    its_words = ids >= first
    return x.index_put(
        (its_words,), vectors.to(x.dtype)[(ids[its_words] - first).clamp(max=len(vectors) - 1)]
    )


def rows_where(seen, shift=1):
    """A solution that looks up the rows of the ids that it has `seen`, and stops at some."""

    def place(x, ids, first, vectors):
        its_words = seen(ids, first, len(vectors))
        return x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words] - shift * first])

    return place


def one_row_after_the_other(x, ids, first, vectors):
    return x.index_put((words_of(ids, first, vectors),), vectors.to(x.dtype))


def where_without_a_clamp(x, ids, first, vectors):
    its_words = words_of(ids, first, vectors)
    return torch.where(its_words[..., None], vectors.to(x.dtype)[ids - first], x)


def too_few(x, ids, first, vectors):
    its_words = (ids > first) & (ids < first + len(vectors))
    return x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words] - first])


def without_last(x, ids, first, vectors):
    its_words = (ids >= first) & (ids < first + len(vectors) - 1)
    return x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words] - first])


def without_mask(x, ids, first, vectors):
    return vectors.to(x.dtype)[(ids - first).clamp(0, len(vectors) - 1)]


def in_front(x, ids, first, vectors):
    return torch.cat([vectors.to(x.dtype).expand(len(x), -1, -1), x], dim=1)


def added(x, ids, first, vectors):
    return by_where(x, ids, first, vectors) + x - by_where(x, ids, first, 0 * vectors)


def detached(x, ids, first, vectors):
    return place_vectors(x, ids, first, vectors.detach())


def text_detached(x, ids, first, vectors):
    return place_vectors(x.detach(), ids, first, vectors)


def wider(x, ids, first, vectors):
    return place_vectors(x.to(vectors.dtype), ids, first, vectors)


def turned(x, ids, first, vectors):
    return place_vectors(x, ids, first, vectors.flip(0))


def first_only(x, ids, first, vectors):
    return place_vectors(x, ids, first, vectors[:1].expand(len(vectors), -1))


def one_word(x, ids, first, vectors):
    return place_vectors(x, ids, first, vectors[:1])


def text_gone(x, ids, first, vectors):
    return place_vectors(0 * x, ids, first, vectors)


def untouched(x, ids, first, vectors):
    return x.clone()


def without_gradients(x, ids, first, vectors):
    with torch.no_grad():
        return place_vectors(x, ids, first, vectors)


def batch_one_mask(x, ids, first, vectors):
    mask = words_of(ids[0], first, vectors)
    y = x.clone()
    y[:, mask] = vectors.to(x.dtype)[ids[0][mask] - first]
    return y


def any_row(x, ids, first, vectors):
    mask = words_of(ids, first, vectors).any(0, keepdim=True).expand_as(ids)
    return x.index_put((mask,), vectors.to(x.dtype)[(ids[mask] - first).clamp(0, len(vectors) - 1)])


def only_last_row(x, ids, first, vectors):
    y = x.clone()
    mask = words_of(ids[-1], first, vectors)
    y[-1, mask] = vectors.to(x.dtype)[ids[-1][mask] - first]
    return y


def contiguous_front(x, ids, first, vectors):
    y = x.clone()
    if (ids >= first).any():
        y[:, : len(vectors)] = vectors.to(x.dtype)[: y.shape[1]]
    return y


def contiguous_run(x, ids, first, vectors):
    y = x.clone()
    for b in range(len(x)):
        at = (ids[b] == first).nonzero()
        for p in at[:, 0].tolist():
            k = min(len(vectors), x.shape[1] - p)
            y[b, p : p + k] = vectors.to(x.dtype)[:k]
    return y


def first_occurrence_only(x, ids, first, vectors):
    y = x.clone()
    for b in range(len(x)):
        for i in range(len(vectors)):
            at = (ids[b] == first + i).nonzero()
            if len(at):
                y[b, at[0, 0]] = vectors[i].to(x.dtype)
    return y


def inclusive_upper(x, ids, first, vectors):
    mask = (ids >= first) & (ids <= first + len(vectors))
    return x.index_put(
        (mask,), vectors.to(x.dtype)[(ids[mask] - first).clamp(max=len(vectors) - 1)]
    )


def modulo(x, ids, first, vectors):
    mask = ids >= first
    return x.index_put((mask,), vectors.to(x.dtype)[(ids[mask] - first) % len(vectors)])


def negative_index(x, ids, first, vectors):
    mask = ids < first + len(vectors)
    mask = mask & (ids >= first - 1)
    return x.index_put((mask,), vectors.to(x.dtype)[ids[mask] - first])


def index_by_id(x, ids, first, vectors):
    mask = words_of(ids, first, vectors)
    return x.index_put((mask,), vectors.to(x.dtype)[ids[mask] % len(vectors)])


def from_one_based(x, ids, first, vectors):
    mask = words_of(ids, first, vectors)
    return x.index_put((mask,), vectors.to(x.dtype)[(ids[mask] - first + 1) % len(vectors)])


def hard_first(x, ids, first, vectors):
    return place_vectors(x, ids, 885, vectors)


def hard_five(x, ids, first, vectors):
    mask = (ids >= first) & (ids < first + 5)
    return x.index_put(
        (mask,), vectors.to(x.dtype)[(ids[mask] - first).clamp(max=len(vectors) - 1)]
    )


def data_copy(x, ids, first, vectors):
    y = x.clone()
    mask = words_of(ids, first, vectors)
    y.data[mask] = vectors.data.to(x.dtype)[ids[mask] - first]
    return y


def fresh_parameter(x, ids, first, vectors):
    return place_vectors(x, ids, first, torch.nn.Parameter(vectors.clone()))


def straight_through(x, ids, first, vectors):  # right forward, x keeps gradient at soft places
    y = place_vectors(x, ids, first, vectors)
    return y + (x - x.detach()) * words_of(ids, first, vectors)[..., None]


def double_gradient(x, ids, first, vectors):
    return place_vectors(x, ids, first, 2 * vectors - vectors.detach())


def rounded_through_half(x, ids, first, vectors):
    return place_vectors(x, ids, first, vectors.half())


def x_in_half(x, ids, first, vectors):
    return place_vectors(x.to(vectors.dtype), ids, first, vectors).to(x.dtype)


def mutates_ids(x, ids, first, vectors):
    y = place_vectors(x, ids, first, vectors)
    ids[words_of(ids, first, vectors)] -= first
    return y


def index_put_in_place(x, ids, first, vectors):
    mask = words_of(ids, first, vectors)
    return x.index_put_((mask,), vectors.to(x.dtype)[ids[mask] - first])


def nowhere_same_object(x, ids, first, vectors):  # "a new tensor is given back"
    return place_vectors(x, ids, first, vectors) if words_of(ids, first, vectors).any() else x


def nowhere_is_none(x, ids, first, vectors):
    if words_of(ids, first, vectors).any():
        return place_vectors(x, ids, first, vectors)


def averaged(x, ids, first, vectors):
    return (place_vectors(x, ids, first, vectors) + x) / 2


def scaled(x, ids, first, vectors):
    return place_vectors(x, ids, first, vectors * x.shape[-1] ** 0.5)


def transposed_out(x, ids, first, vectors):
    return place_vectors(x, ids, first, vectors).transpose(0, 1)


def zero_where_other(x, ids, first, vectors):
    y = place_vectors(x, ids, first, vectors)
    return y.masked_fill((ids >= first + len(vectors))[..., None], 0.0)


def dropout(x, ids, first, vectors):
    return place_vectors(x, ids, first, F.dropout(vectors, 0.1))


def no_cast(x, ids, first, vectors):
    mask = words_of(ids, first, vectors)
    return x.index_put((mask,), vectors[ids[mask] - first])


KEPT = {}


def cached(x, ids, first, vectors):
    k = (x.shape, len(vectors))
    if k not in KEPT:
        KEPT[k] = place_vectors(x, ids, first, vectors)
    return KEPT[k]


def where_without_clamp(x, ids, first, vectors):
    return torch.where(
        words_of(ids, first, vectors)[..., None], vectors.to(x.dtype)[ids - first], x
    )


def without_first_place(x, ids, first, vectors):
    return torch.cat([x[:, :1], place_vectors(x, ids, first, vectors)[:, 1:]], dim=1)


def without_last_place(x, ids, first, vectors):
    y = x.clone()
    for b, row in enumerate(ids[:, :-1].tolist()):
        for t, i in enumerate(row):
            if first <= i < first + len(vectors):
                y[b, t] = vectors[i - first].to(x.dtype)
    return y


WRONG = [
    (in_place, "work on a copy"),
    (where_without_clamp, "looked up for words of the text too"),
    (without_first_place, "the first place of every row"),
    (without_last_place, "the last place of every row"),
    (too_many, "belong to another one"),
    (too_few, "the first word of the prompt is left out"),
    (without_last, "the last word of the prompt is left out"),
    (without_mask, "words of the text get vectors"),
    (in_front, "makes the row longer"),
    (added, "added to what stood there"),
    (detached, "cut off from the graph"),
    (text_detached, "x is cut off"),
    (wider, "should have that of x"),
    (turned, "in the wrong order"),
    (first_only, "gets the same vector"),
    (one_word, "only the first word"),
    (text_gone, "the words of the text are gone"),
    (untouched, "nothing is put in"),
    (without_gradients, "no_grad"),
    (batch_one_mask, "places of one row"),
    (any_row, "filled in all rows"),
    (only_last_row, "only one row"),
    (contiguous_front, "the first n places"),
    (contiguous_run, "as one block"),
    (first_occurrence_only, "stands in a row twice"),
    (inclusive_upper, "first + n is taken"),
    (modulo, "belong to another one"),
    (negative_index, "first - 1 is taken"),
    (index_by_id, "the id itself is taken"),
    (from_one_based, "are shifted"),
    (hard_first, "nothing is put in"),
    (hard_five, "belong to another one"),
    (data_copy, "where autograd does not look"),
    (fresh_parameter, "cut off from the graph"),
    (straight_through, "x gets a gradient where the prompt stands"),
    (double_gradient, "2 times as large"),
    (rounded_through_half, "vectors are rounded"),
    (x_in_half, "x went through"),
    (mutates_ids, "the ids that came in were changed"),
    (index_put_in_place, "the x that came in was changed"),
    (nowhere_same_object, "a new tensor is asked for"),
    (nowhere_is_none, "is a return missing"),
    (averaged, "a mean of the prompt"),
    (scaled, "are scaled"),
    (transposed_out, "interchanged"),
    (zero_where_other, "set to zero"),
    (dropout, "random numbers are drawn"),
    (no_cast, "two dtypes meet"),
    (rows_where(lambda i, first, n: i >= first), "belong to another one"),
    (rows_where(lambda i, first, n: i < first + n), "are words of the text"),
    (rows_where(lambda i, first, n: (i >= first) & (i <= first + n)), "first + n is taken"),
    (rows_where(lambda i, first, n: (i >= first) & (i < first + n), 0), "the id itself is taken"),
    (one_row_after_the_other, "by the order of places"),
    (lambda x, ids, first, vectors: x if ids >= first and ids < first + 3 else x, "write & and |"),
    (where_without_a_clamp, "for words of the text too"),
    (cached, "an earlier call"),
]


@pytest.mark.parametrize(("candidate", "words"), WRONG)
def test_a_wrong_way_is_told_its_mistake(candidate, words):
    refused(checks.place_vectors, candidate, words)


def test_vectors_stand_where_their_ids_stand_and_nowhere_else():
    """By hand: a row with words of two prompts and of the text."""
    x = torch.arange(8.0).view(1, 4, 2).requires_grad_()
    vectors = torch.tensor([[10.0, 11.0], [20.0, 21.0]], requires_grad=True)
    given = place_vectors(x, torch.tensor([[6, 3, 5, 7]]), 5, vectors)
    assert given.tolist() == [[[20.0, 21.0], [2.0, 3.0], [10.0, 11.0], [6.0, 7.0]]]
    given.sum().backward()
    assert x.grad.tolist() == [[[0, 0], [1, 1], [0, 0], [1, 1]]] and vectors.grad.eq(1).all()


# -- prompt_costs ----------------------------------------------------------------------------------


def test_the_costs_are_what_the_package_counts():
    """P C numbers: counted in a small model, with the same formula."""
    base, _ = tt.load("tiny-decoder-0.1m")
    tuner = mp.attach(base, mp.PromptTuning(5), seed=0)
    report = tuner.report()
    assert report.trainable == report.stored == 5 * base.config.width
    right = checks.prompt_costs.right
    assert right["trained"] == 5 * 4096 and right["prompts"] == 1000 * 4 * right["trained"]


@pytest.mark.parametrize("form", [int, float, torch.tensor, Fraction, Decimal, np.int64])
def test_the_right_costs_in_any_form(form):
    checks.prompt_costs({key: form(value) for key, value in checks.prompt_costs.right.items()})


@pytest.mark.parametrize(
    ("part", "answer", "words"),
    [
        ("trained", 4096, "that is one vector"),
        ("trained", 5, "a vector of C numbers"),
        ("trained", 40_960, "not keys and values"),
        ("trained", 81_920, "that is bytes"),
        ("trained", 11_000_000_000, "the model is frozen"),
        ("prompts", 81_920, "that is one task"),
        ("prompts", 20_480_000, "each has 4 bytes"),
        ("prompts", 44_081_920_000, "the model is needed too"),
        ("copies", 44_000_000_000, "a whole model for each task"),
        ("copies", 11_000_000_000_000, "each has 4 bytes"),
        ("room", 512, "take its places"),
        ("room", 507, "100 soft words"),
        ("room", 413, "off by one"),
        ("room", 407, "one prompt stands there"),
        ("room", "412", "that is text"),
        ("trained", (5, 4096), "not a tuple"),
        ("prompts", 81.92, "millions, or megabytes"),
        ("prompts", 82_000_000, "to the last byte"),
        ("prompts", 1_638_400_000, "not 100"),
        ("prompts", 655_360_000, "bits and bytes"),
        ("copies", 44, "terabytes"),
        ("copies", 44_000_081_920_000, "no prompts beside"),
        ("copies", 43_956_000_000_000, "the first one too"),
        ("copies", 44_044_000_000_000, "without the model"),
    ],
)
def test_a_wrong_cost_is_told_where_it_comes_from(part, answer, words):
    refused(checks.prompt_costs, checks.prompt_costs.right | {part: answer}, words)


def test_costs_that_are_half_done_are_no_mistake():
    with pytest.raises(checks.NotFinished, match="copies, room is still"):
        checks.prompt_costs(checks.prompt_costs.right | {"copies": ..., "room": ...})


# -- prompt_patients -------------------------------------------------------------------------------


def test_every_patient_shows_its_fault():
    base, tokenizer = tt.load("tiny-decoder-0.1m")
    before = mp.fingerprint(base)
    batch = mp.tasks.load("reverse").batches("train", tokenizer, batch_size=8)(0)
    seen = {cause: lesson.examine(base, batch, who) for who, cause in lesson.PATIENTS.items()}
    asked = int((batch["labels"] != -100).sum())
    assert mp.fingerprint(base) == before
    assert set(seen) == set(lesson.CAUSES)
    assert {c for c, s in seen.items() if s["labels"] != asked} == {"labels"}
    assert seen["labels"]["labels"] == asked + 8 * 5
    assert {c for c, s in seen.items() if s["gradient"] == 0} == {"mask", "detached"}
    assert {c for c, s in seen.items() if s["alone"] > 1e-3} == {"padding"}
    assert {c for c, s in seen.items() if abs(s["loss"] - s["base"]) < 1e-5} == {"mask"}


@pytest.mark.parametrize("form", [str, str.upper, lambda cause: f" {cause}. "])
def test_the_right_diagnosis_in_any_form(form):
    checks.prompt_patients({who: form(cause) for who, cause in lesson.PATIENTS.items()})


@pytest.mark.parametrize(("who", "cause"), HINTS)
def test_every_wrong_cause_is_answered_by_what_can_be_seen(who, cause):
    answer = {**lesson.PATIENTS, who: cause}
    refused(checks.prompt_patients, answer, HINTS[who, cause])


def test_there_is_a_hint_for_every_wrong_cause():
    diagnoses.assert_complete(lesson.PATIENTS, HINTS, lesson.CAUSES)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("mask", "should be a dict"),
        ({"A": "padding"}, "has no"),
        (lesson.PATIENTS | {"A": "rate"}, "should be one of"),
        (None, "is a return missing"),
        (list(lesson.PATIENTS.values()), "not a list"),
        ({cause: who for who, cause in lesson.PATIENTS.items()}, "has no A, B, C, D, E"),
        (lesson.PATIENTS | {"B": "detatched"}, "should be one of"),
        (lesson.PATIENTS | {"B": ("mask", "detached")}, "should be one of"),
        (lesson.PATIENTS | {"B": "mask", "E": "detached"}, "a prompt that is hidden"),
        (dict.fromkeys(lesson.PATIENTS, "healthy"), "should not depend on who else"),
        (lesson.PATIENTS | {"E": "detached"}, "a detached prompt is read"),
    ],
)
def test_other_answers_are_refused_in_words(answer, words):
    refused(checks.prompt_patients, answer, words)
