"""Checks of lesson 04: where the answer is read, which words a search tries, what shots cost."""

from fractions import Fraction

import pytest
import torch

from minipeft import checks
from minipeft.course.written_prompts import behind_last as at_last
from minipeft.tasks.prompt_search import promising as most_promising


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- behind_last -----------------------------------------------------------------------------------


def by_flip(logits, mask):
    last = mask.shape[1] - 1 - mask.long().flip(1).argmax(dim=1)
    return logits[torch.arange(len(mask)), last]


def by_gather(logits, mask):
    last = (mask.long().cumsum(dim=1)).argmax(dim=1)  # the sum is largest from the last token on
    return logits.gather(1, last[:, None, None].expand(-1, 1, logits.shape[2])).squeeze(1)


def by_loop(logits, mask):
    return torch.stack([row[keep.bool()][-1] for row, keep in zip(logits, mask, strict=True)])


def by_product(logits, mask):
    later = mask.long().flip(1).cumsum(1).flip(1)  # tokens from this place on
    return torch.einsum("bt,btv->bv", ((later == 1) & mask.bool()).to(logits.dtype), logits)


def by_first_zero(logits, mask):
    """The place before the first 0, or the last column: right for padding on one side of a row."""
    return logits[torch.arange(len(mask)), (mask == 0).long().argmax(1) - 1]


def by_where(logits, mask):
    places = torch.where(mask.bool(), torch.arange(mask.shape[1]), -1)
    return logits.take_along_dim(places.amax(1)[:, None, None], 1)[:, 0]


@pytest.mark.parametrize(
    "right", [at_last, by_flip, by_gather, by_loop, by_product, by_first_zero, by_where]
)
def test_every_way_to_find_the_last_token_passes(right, capsys):
    checks.behind_last(right)
    assert "✓" in capsys.readouterr().out


def at(place):
    return lambda logits, mask: logits[torch.arange(len(mask)), place(mask)]


def in_place(logits, mask):
    logits.mul_(mask[..., None])
    return at_last(logits, mask)


def by_first_row(logits, mask):
    """One side for the whole batch, read off its first row."""
    if not mask[0, 0]:
        return logits[:, -1]
    return logits[torch.arange(len(mask)), mask.long().sum(1) - 1]


def by_last_column(logits, mask):
    """One side for the whole batch, read off its last column."""
    if mask[:, -1].all():
        return logits[:, -1]
    return logits[torch.arange(len(mask)), mask.long().sum(1) - 1]


def without_gradient(logits, mask):
    with torch.no_grad():
        return at_last(logits, mask).clone()


def mask_in_place(logits, mask):
    answer = at_last(logits, mask).clone()
    mask.zero_()
    return answer


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (by_first_row, "may differ from row to row"),
        (by_last_column, "may differ from row to row"),
        (at(lambda mask: mask.long().flip(1).argmax(1)), "was not turned back"),
        (lambda logits, mask: (logits * mask[..., None]).sum(1), "summed over the tokens"),
        (lambda logits, mask: at_last(logits, mask).log_softmax(-1), "logarithm of the softmax"),
        (without_gradient, "no_grad"),
        (mask_in_place, "the mask that came in was changed"),
        (lambda logits, mask: at_last(logits, mask).float(), "float64"),
        (at(lambda mask: mask.long().sum(1) - 1), "the number of tokens is not the place"),
        (lambda logits, mask: logits[:, -1], "the last column is padding"),
        (at(lambda mask: mask.long().argmax(1)), "finds the first 1"),
        (lambda logits, mask: logits[:, 0], "the leftmost place"),
        (
            lambda logits, mask: logits[:, by_place(mask)[0]],
            "the first row's last token",
        ),
        (lambda logits, mask: logits[:, by_place(mask)], "pairs every row with every place"),
        (at(lambda mask: (by_place(mask) - 1).clamp(min=0)), "predicts the last token itself"),
        (
            at(lambda mask: (by_place(mask) + 1).clamp(max=mask.shape[1] - 1)),
            "behind the last token",
        ),
        (
            lambda logits, mask: (logits * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
            "averaged over the tokens",
        ),
        (lambda logits, mask: at_last(logits, mask).softmax(-1), "that is the softmax"),
        (lambda logits, mask: at_last(logits, mask).argmax(-1), "that is the chosen token"),
        (lambda logits, mask: at_last(logits.detach(), mask), "do not detach"),
        (in_place, "change"),
        (lambda logits, mask: None, "is a return missing"),
        (lambda logits, mask: at_last(logits, mask)[:, None], "shape"),
    ],
)
def test_wrong_places_are_named(wrong, words):
    refused(checks.behind_last, wrong, words)


def by_place(mask):
    return (mask * torch.arange(mask.shape[1])).argmax(1)


# -- promising -------------------------------------------------------------------------------------


def by_sorted(E, gradient, count):
    change = [(row @ gradient).item() for row in E]
    return sorted(range(len(change)), key=change.__getitem__)[:count]


def by_argsort(E, gradient, count):
    return (E * gradient).sum(dim=-1).argsort()[:count].tolist()


def by_ascent(E, gradient, count):
    order = torch.einsum("vc,c->v", E, -gradient).sort(descending=True).indices
    return [int(word) for word in order[:count]]


def by_difference(E, gradient, count):
    """With the present word's part, which is the same for all words."""
    return ((E - E[0]) @ gradient).argsort()[:count].tolist()


@pytest.mark.parametrize("right", [most_promising, by_sorted, by_argsort, by_ascent, by_difference])
def test_every_way_to_order_the_words_passes(right, capsys):
    checks.promising(right)
    assert "✓" in capsys.readouterr().out


def first(score):
    return lambda E, gradient, count: score(E, gradient).argsort()[:count].tolist()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (first(lambda E, g: -(E @ g)), "raise the loss"),
        (first(lambda E, g: -(E @ g).abs()), "without its sign"),
        (first(lambda E, g: (E @ g).abs()), "the sign decides"),
        (first(lambda E, g: (E @ g) / E.norm(dim=1)), "divided by their lengths"),
        (first(lambda E, g: (E - g).norm(dim=1)), "nearest to the gradient"),
        (first(lambda E, g: (E + g).norm(dim=1)), "nearest to minus the gradient"),
        (first(lambda E, g: (E * g).sum(0)), "the sum is over the words"),
        (first(lambda E, g: E * g), "C numbers for each word"),
        (lambda E, g, count: (E @ g).sort().values[:count].tolist(), "give the numbers of the"),
        (lambda E, g, count: (E @ g).argsort()[:count].tolist()[::-1], "turned round"),
        (lambda E, g, count: sorted((E @ g).argsort()[:count].tolist()), "sorted by their number"),
        (lambda E, g, count: (E @ g).argsort().tolist(), "only the first `count`"),
        (lambda E, g, count: (E @ g).argsort()[1 : count + 1].tolist(), "left out"),
        (lambda E, g, count: (E @ g).argsort()[:count], "give a list"),
        (lambda E, g, count: (E @ g).argsort()[:count].double().tolist(), "whole number (an int)"),
        (
            lambda E, g, count: (E @ g).topk(count, largest=False).indices.tolist(),
            "fewer than `count` words",
        ),
        (lambda E, g, count: None, "is a return missing"),
        (
            lambda E, g, count: ((E @ g).argsort().tolist() * count)[:count],
            "no word is given twice",
        ),
        (lambda E, g, count: (E.T @ g).tolist(), "write the shape"),
    ],
)
def test_wrong_orders_are_named(wrong, words):
    refused(checks.promising, wrong, words)


# -- shots_bytes -----------------------------------------------------------------------------------

RIGHT = 2_580_480


def test_the_answer_is_what_a_model_of_that_shape_keeps():
    import transformers

    shape = dict(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64)
    small = dict(hidden_size=9, intermediate_size=8, vocab_size=8)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **small))
    model.to(torch.bfloat16)
    with torch.no_grad():
        cache = model(torch.zeros(1, 112, dtype=torch.long), use_cache=True).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kept == checks.shots_bytes.right == RIGHT


@pytest.mark.parametrize(
    "answer", [RIGHT, float(RIGHT), torch.tensor(RIGHT), Fraction(RIGHT), lambda: 30 * 192 * 448]
)
def test_the_right_number_in_any_form_is_accepted(answer):
    checks.shots_bytes(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RIGHT // 2, "that is half"),
        (RIGHT * 3, "only 3 keep keys and values"),
        (RIGHT * 3 // 2, "each keeps a key and a value"),
        (RIGHT // 30, "that is one layer"),
        (RIGHT // 3, "that is one head"),
        (RIGHT // 16, "that is one example"),
        (RIGHT // 7, "one token of each example"),
        (RIGHT // 112, "that is one token"),
        (RIGHT // 64, "not one"),
        (RIGHT * 2, "2 bytes, not 4"),
        (RIGHT * 4, "not 9 + 3"),
        (RIGHT // 4, "2 bytes for each number"),
        (112 * 576 * 2, "word vectors"),
        (RIGHT + 1, "off by one"),
        ("2.6 MB", "should be a number"),
    ],
)
def test_a_wrong_number_is_told_where_it_comes_from(answer, words):
    refused(checks.shots_bytes, answer, words)
