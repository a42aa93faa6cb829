"""Lessons 02 and 04 once more: wrong solutions that were new to their checks, and right ones."""

import math

import torch
from torch.nn import functional as F

from minipeft.course.written_prompts import behind_last as right_logits
from minipeft.tasks.prompt_search import promising as right_words
from tiny_transformer import objectives as objectives
from tiny_transformer.pretraining import learning_rate as right_rate


def masking(change):
    def masked(ids, tokenizer, generator=None, corruption_rate=0.15):
        return change(ids, tokenizer, generator, corruption_rate)

    return masked


def rating(change):
    def learning_rate(step, steps, peak, warmup, floor=0.05):
        return change(step, steps, peak, warmup, floor)

    return learning_rate


def right_batch(ids, t):
    return objectives.causal(ids, t)


def both_shifted(ids, tokenizer, generator=None):
    d = right_batch(ids, tokenizer)
    return {
        "input_ids": ids[:, :-1],
        "attention_mask": d["attention_mask"][:, :-1],
        "labels": d["labels"][:, 1:],
    }


def by_length(ids, tokenizer, generator=None):
    n = (ids != tokenizer.pad_token_id).sum(1, keepdim=True)
    m = (torch.arange(ids.shape[1]) < n).long()
    return {"input_ids": ids, "attention_mask": m, "labels": ids.masked_fill(m == 0, -100)}


def first_row_mask(ids, tokenizer, generator=None):
    m = (ids[:1] != tokenizer.pad_token_id).long().expand_as(ids)
    return {"input_ids": ids, "attention_mask": m, "labels": ids.masked_fill(m == 0, -100)}


def until_first_pad(ids, tokenizer, generator=None):
    m = (ids != tokenizer.pad_token_id).long().cumprod(1)
    return {"input_ids": ids, "attention_mask": m, "labels": ids.masked_fill(m == 0, -100)}


def until_eos(ids, tokenizer, generator=None):
    e = (ids == tokenizer.eos_token_id).long()
    m = (e.cumsum(1) - e == 0).long()
    return {"input_ids": ids, "attention_mask": m, "labels": ids.masked_fill(m == 0, -100)}


def float_mask(ids, tokenizer, generator=None):
    d = right_batch(ids, tokenizer)
    return d | {"attention_mask": d["attention_mask"].float()}


def additive(ids, tokenizer, generator=None):
    d = right_batch(ids, tokenizer)
    return d | {"attention_mask": (1 - d["attention_mask"]) * -10000}


def last_only(ids, tokenizer, generator=None):
    d = right_batch(ids, tokenizer)
    z = d["labels"].clone()
    z[:, :-1] = -100
    return d | {"labels": z}


def pads_right_only(ids, tokenizer, generator=None):
    m = (ids != tokenizer.pad_token_id).flip(1).cummax(1).values.flip(1).long()
    return {"input_ids": ids, "attention_mask": m, "labels": ids.masked_fill(m == 0, -100)}


def first_token_out(ids, tokenizer, generator=None):
    d = right_batch(ids, tokenizer)
    z = d["labels"].clone()
    z[:, 0] = -100
    return d | {"labels": z}


FIRST = 14


def hide(
    ids, t, g, rate, hide=0.8, noise=0.9, first=FIRST, choose=None, mask=None, pad=None, size=None
):

    def u(s=None):
        return torch.rand(s or ids.shape, generator=g)

    c = (u() < rate) & (ids >= first) if choose is None else choose(u)
    a = u()
    n = torch.randint(first, size or len(t), ids.shape, generator=g)
    h = ids.masked_fill(c & (a < hide), t.mask_token_id if mask is None else mask)
    h = torch.where(c & (a >= noise), n, h)
    return {
        "input_ids": h,
        "attention_mask": (ids != (t.pad_token_id if pad is None else pad)).long(),
        "labels": ids.masked_fill(~c, -100),
    }


def mask_id_4(ids, t, g, rate):
    return hide(ids, t, g, rate, mask=4)


def pad_id_0(ids, t, g, rate):
    return hide(ids, t, g, rate, mask=None, pad=0)


def twenty_noise(ids, t, g, rate):
    return hide(ids, t, g, rate, noise=0.8)


def attention_hides_masks(ids, t, g, rate):
    d = hide(ids, t, g, rate, mask=None)
    return d | {
        "attention_mask": (
            (d["input_ids"] != t.pad_token_id) & (d["input_ids"] != t.mask_token_id)
        ).long()
    }


def noise_per_row(ids, t, g, rate):
    d = hide(ids, t, g, rate, mask=None)
    n = torch.randint(FIRST, len(t), (len(ids), 1), generator=g).expand_as(ids)
    noisy = (d["labels"] != -100) & (d["input_ids"] != t.mask_token_id) & (d["input_ids"] != ids)
    return d | {"input_ids": torch.where(noisy, n, d["input_ids"])}


def noise_one_less(ids, t, g, rate):
    return hide(ids, t, g, rate, size=len(t) - 1)


def no_generator_action(ids, t, g, rate):
    c = (torch.rand(ids.shape, generator=g) < rate) & (ids >= FIRST)
    a = torch.rand(ids.shape)
    n = torch.randint(FIRST, len(t), ids.shape, generator=g)
    h = ids.masked_fill(c & (a < 0.8), t.mask_token_id)
    h = torch.where(c & (a >= 0.9), n, h)
    return {
        "input_ids": h,
        "attention_mask": (ids != t.pad_token_id).long(),
        "labels": ids.masked_fill(~c, -100),
    }


def exact_in_row(ids, t, g, rate):

    def choose(u):
        s = u().masked_fill(ids < FIRST, 2.0)
        n = ((ids >= FIRST).sum(1, keepdim=True) * rate).round()
        return s.argsort(1).argsort(1) < n

    return hide(ids, t, g, rate, choose=choose)


def action_per_column(ids, t, g, rate):

    def u(s):
        return torch.rand(s, generator=g)

    c = (u(ids.shape) < rate) & (ids >= FIRST)
    a = u((1, ids.shape[1])).expand_as(ids)
    n = torch.randint(FIRST, len(t), ids.shape, generator=g)
    h = ids.masked_fill(c & (a < 0.8), t.mask_token_id)
    h = torch.where(c & (a >= 0.9), n, h)
    return {
        "input_ids": h,
        "attention_mask": (ids != t.pad_token_id).long(),
        "labels": ids.masked_fill(~c, -100),
    }


def three_draws(ids, t, g, rate):

    def u():
        return torch.rand(ids.shape, generator=g)

    c = (u() < rate) & (ids >= FIRST)
    h = ids.masked_fill(c & (u() < 0.8), t.mask_token_id)
    n = torch.randint(FIRST, len(t), ids.shape, generator=g)
    h = torch.where(c & (u() < 0.1), n, h)
    return {
        "input_ids": h,
        "attention_mask": (ids != t.pad_token_id).long(),
        "labels": ids.masked_fill(~c, -100),
    }


def in_pairs(ids, t, g, rate):

    def choose(u):
        s = u() < rate / 2
        s = s | s.roll(1, 1)
        return s & (ids >= FIRST)

    return hide(ids, t, g, rate, choose=choose)


def half_cosine(s, n):
    return (1 + math.cos(math.pi * s / n)) / 2


def zero_division(s, n, p, w, f):
    return p * min(1, (s + 1) / w) * (f + (1 - f) * half_cosine(s, n))


def precedence(s, n, p, w, f):
    return p * min(1, s + 1 / max(1, w)) * (f + (1 - f) * half_cosine(s, n))


def precedence2(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) * (f + (1 - f) * 1 + math.cos(math.pi * s / n) / 2)


def floordiv(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) * (f + (1 - f) * (1 + math.cos(math.pi * s // n)) / 2)


def divided_outside(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) * (f + (1 - f) * (1 + math.cos(math.pi * s) / n) / 2)


def restart(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) * (f + (1 - f) * half_cosine(s % n, n))


def exponential(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) * max(f, 1e-09) ** (s / n)


def inverse_root(s, n, p, w, f):
    return p * min((s + 1) / max(1, w), math.sqrt(max(1, w) / (s + 1)))


def steps400(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) * (f + (1 - f) * half_cosine(s, 400))


def squared(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) ** 2 * (f + (1 - f) * half_cosine(s, n))


def rounded(s, n, p, w, f):
    return round(right_rate(s, n, p, w, f), 4)


def warm_share(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w * n)) * (f + (1 - f) * half_cosine(s, n))


def two_pi(s, n, p, w, f):
    return p * min(1, (s + 1) / max(1, w)) * (f + (1 - f) * (1 + math.cos(math.pi / 2 * s / n)) / 2)


def every_row(m):
    return torch.arange(len(m))


def squeezed(logits, mask):
    return logits[every_row(mask), (mask * torch.arange(mask.shape[1])).argmax(1)].squeeze()


def masked_then_last(logits, mask):
    return (logits * mask[..., None].to(logits.dtype))[:, -1]


def in_place_fill(logits, mask):
    with torch.no_grad():
        logits.masked_fill_(mask[..., None] == 0, 0)
    return right_logits(logits, mask)


def max_over(logits, mask):
    return logits.masked_fill(mask[..., None] == 0, float("-inf")).amax(1)


def gather_wrong(logits, mask):
    return logits.gather(1, (mask.long().sum(1) - 1)[:, None, None].expand(-1, 1, logits.shape[2]))[
        :, 0
    ]


def nonzero_max(logits, mask):
    return logits[every_row(mask), mask.nonzero()[:, 1].max()]


def cumsum_last(logits, mask):
    return logits[every_row(mask), mask.long().cumsum(1).argmax(1) - 1]


def first_row_only(logits, mask):
    return logits[0, (mask * torch.arange(mask.shape[1])).argmax(1)]


def turned(logits, mask):
    return right_logits(logits, mask).T


def in_float32(logits, mask):
    return right_logits(logits.float(), mask)


def best_set_wrong_order(E, gradient, count):
    return (E @ gradient).argsort(descending=True)[-count:].tolist()


def largest(E, gradient, count):
    return (E @ gradient).argsort()[-count:].tolist()


def both_normed(E, gradient, count):
    return (F.normalize(E, dim=1) @ F.normalize(gradient, dim=0)).argsort()[:count].tolist()


def in_place_pr(E, gradient, count):
    with torch.no_grad():
        E *= gradient
    return E.sum(1).argsort()[:count].tolist()


def in_half(E, gradient, count):
    return (E.half() @ gradient.half()).argsort()[:count].tolist()


def ranks(E, gradient, count):
    return (E @ gradient).argsort().argsort()[:count].tolist()


def one_based(E, gradient, count):
    return [i + 1 for i in right_words(E, gradient, count)]


def from_E_columns(E, gradient, count):
    return (E.T.reshape(E.shape) @ gradient).argsort()[:count].tolist()


def last_left_out(E, gradient, count):
    return (E[:-1] @ gradient).argsort()[:count].tolist()


def sums(E, gradient, count):
    return E.sum(1).argsort()[:count].tolist()


def softmax_noise(E, gradient, count):
    return torch.multinomial((-(E @ gradient)).softmax(0), min(count, len(E))).tolist()


def loops_c(ids, tokenizer, generator=None):
    pad = tokenizer.pad_token_id
    return {
        "labels": torch.tensor([[-100 if i == pad else i for i in row] for row in ids.tolist()]),
        "input_ids": ids.clone(),
        "attention_mask": ids.ne(pad),
    }


def by_arithmetic(ids, tokenizer, generator=None):
    m = (ids - tokenizer.pad_token_id).abs().clamp(max=1)
    return dict(input_ids=ids, attention_mask=m, labels=ids * m - 100 * (1 - m))


def by_where(ids, tokenizer, generator=None):
    real = ~torch.eq(ids, tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    labels[real] = ids[real]
    return {"input_ids": ids, "attention_mask": real.to(torch.int32), "labels": labels}


def sizes(t):
    return t.sep_token_id + 1 + len(objectives.SENTINELS)


def one_draw(ids, t, g, rate):
    f = sizes(t)
    u = torch.rand(ids.shape, generator=g, dtype=torch.float64)
    w_ = ids >= f
    n = torch.randint(f, len(t), ids.shape, generator=g)
    h = torch.where(
        w_ & (u < 0.8 * rate),
        t.mask_token_id,
        torch.where(w_ & (u >= 0.8 * rate) & (u < 0.9 * rate), n, ids),
    )
    return {
        "input_ids": h,
        "attention_mask": ids != t.pad_token_id,
        "labels": torch.where(w_ & (u < rate), ids, -100),
    }


def by_bernoulli(ids, t, g, rate):
    f = sizes(t)

    def B(p):
        return torch.bernoulli(torch.full(ids.shape, p), generator=g).bool()

    c = B(rate) & (ids >= f)
    hid = c & B(0.8)
    ran = c & ~hid & B(0.5)
    x = ids.clone()
    x[hid] = t.mask_token_id
    x[ran] = torch.randint(f, len(t), (int(ran.sum()),), generator=g)
    y = torch.full_like(ids, -100)
    y[c] = ids[c]
    return {"input_ids": x, "attention_mask": ids.ne(t.pad_token_id).long(), "labels": y}


def multinom(ids, t, g, rate):
    f = sizes(t)
    a = torch.multinomial(
        torch.tensor([0.8, 0.1, 0.1]), ids.numel(), replacement=True, generator=g
    ).view(ids.shape)
    c = (
        torch.rand(ids.shape, generator=g) <= rate
        if rate > 0
        else torch.zeros(ids.shape, dtype=torch.bool)
    ) & (ids >= f)
    n = f + (torch.rand(ids.shape, generator=g) * (len(t) - f)).long()
    x = torch.where(c & (a == 0), t.mask_token_id, torch.where(c & (a == 1), n, ids))
    return {
        "input_ids": x,
        "attention_mask": (ids != t.pad_token_id).int(),
        "labels": torch.where(c, ids, torch.tensor(-100)),
    }


def branches(s, n, p, w, f):
    fall = f + (1 - f) * 0.5 * (1 + math.cos(s * math.pi / n))
    return fall * p if s + 1 >= w else fall * p * (s + 1) / w


def half_angle(s, n, p, w, f):
    return (
        p
        * (1 if w == 0 else min(s + 1, w) / w)
        * (1 - (1 - f) * math.sin(math.pi * s / n / 2) ** 2)
    )


def by_numpy(s, n, p, w, f):
    import numpy as np

    return (
        np.float64(p)
        * np.clip((s + 1) / max(w, 1), None, 1)
        * (f + 0.5 * (1 - f) * (1 + np.cos(np.pi * s / n)))
    )


def lerp(s, n, p, w, f):
    return float(
        torch.lerp(
            torch.tensor(f * p, dtype=torch.float64),
            torch.tensor(p, dtype=torch.float64),
            half_cosine(s, n),
        )
    ) * min(1.0, (s + 1) / max(1, w))


def first_pad(logits, mask):
    return logits[every_row(mask), (mask == 0).long().argmax(1) - 1]


def by_argmin(logits, mask):
    return logits[every_row(mask), mask.long().argmin(1) - 1]


def by_cumsum(logits, mask):
    behind = mask.flip(1).long().cumsum(1).flip(1)
    last = (behind == 1) & (mask != 0)
    return logits[last]


def by_one_hot(logits, mask):
    i = torch.where(mask != 0, torch.arange(mask.shape[1]), -1).amax(1)
    return torch.einsum("btv,bt->bv", logits, F.one_hot(i, mask.shape[1]).to(logits.dtype))


def by_nonzero(logits, mask):
    return torch.stack([logits[b, int(m.nonzero()[-1])] for b, m in enumerate(mask)])


def by_index_select(logits, mask):
    T = mask.shape[1]
    last = T - 1 - mask.flip(1).to(torch.int32).argmax(1)
    return logits.flatten(0, 1).index_select(0, torch.arange(len(mask)) * T + last)


def loop(E, gradient, count):
    s = [sum((a * b for a, b in zip(row, gradient.tolist(), strict=True))) for row in E.tolist()]
    return sorted(range(len(s)), key=s.__getitem__)[:count]


def einsum_pr(E, gradient, count):
    return torch.argsort(torch.einsum("vc,c->v", E.double(), -gradient.double()), descending=True)[
        :count
    ].tolist()


def heap(E, gradient, count):
    import heapq

    s = (E * gradient).sum(-1).tolist()
    return heapq.nsmallest(count, range(len(s)), key=lambda i: s[i])


def by_topk(E, gradient, count):
    return [int(i) for i in torch.topk(-(gradient @ E.T), k=min(count, E.shape[0])).indices]


WRONG = [
    ("causal", both_shifted, "input_ids has shape (2, 5), it should be (2, 6)"),
    ("causal", by_length, "padding is looked for behind the text only, by the number"),
    ("causal", first_row_mask, "padding is not looked for: its labels should be -100, its"),
    ("causal", until_first_pad, "padding is looked for behind the text only, from the"),
    ("causal", until_eos, "what stands behind <eos> is taken for padding, and"),
    ("causal", float_mask, "attention_mask is float32, it should be int64 here"),
    ("causal", additive, "attention_mask is what is added to the scores: the model"),
    ("causal", last_only, "it is right at 5 of axis 1 and wrong at 0, 1, 2, 3, 4"),
    ("causal", pads_right_only, "padding is looked for before the last word only: it may"),
    ("causal", first_token_out, "the start of a text is taken out of the labels: label t"),
    ("masked", masking(mask_id_4), "<mask> has not always the id 4: ask the tokenizer"),
    ("masked", masking(pad_id_0), "padding has not always the id 0: ask the tokenizer"),
    ("masked", masking(twenty_noise), "0% of the chosen words stay: it should be 10 %"),
    (
        "masked",
        masking(attention_hides_masks),
        "attention_mask is 1 on every token but padding, <mask>",
    ),
    ("masked", masking(noise_per_row), "the random words are not drawn evenly from the words of"),
    ("masked", masking(noise_one_less), "the random words are only 2 of 3 kinds: draw from 14 to"),
    (
        "masked",
        masking(no_generator_action),
        "random numbers come from torch's global generator: draw",
    ),
    ("masked", masking(exact_in_row), "every row has the same number of chosen words: each word"),
    ("masked", masking(action_per_column), "13% of the chosen words stay: it should be 10 %"),
    ("masked", masking(three_draws), "74% of the chosen become <mask>: it should be 80 %"),
    ("masked", masking(in_pairs), "of neighbours 8.1% are chosen together, by chance it is"),
    (
        "learning_rate",
        rating(zero_division),
        "ZeroDivisionError with a warm-up of 0 steps: divide by",
    ),
    ("learning_rate", rating(precedence), "brackets are missing, step + 1 / warmup: the rise is"),
    ("learning_rate", rating(precedence2), "brackets are missing around 1 + cos: (1 - floor)"),
    ("learning_rate", rating(floordiv), "`math.pi * step / steps` is rounded down"),
    (
        "learning_rate",
        rating(divided_outside),
        "the cosine of pi s is divided by steps: the cosine is of",
    ),
    ("learning_rate", rating(restart), "it is right at 0, 1, 2, 3, 4, 5, 6, 7, 8, .. of axis 0"),
    (
        "learning_rate",
        rating(exponential),
        "the fall is exponential, floor ** (s / steps): it should",
    ),
    (
        "learning_rate",
        rating(inverse_root),
        "the fall is 1 / sqrt(step), as in the first transformer",
    ),
    ("learning_rate", rating(steps400), "`steps` is 400, whatever it should be"),
    ("learning_rate", rating(squared), "`(step + 1) / max(1, warmup)` is squared"),
    ("learning_rate", rating(rounded), "`peak * rise * (floor + (1 - floor) * (1 +"),
    ("learning_rate", rating(warm_share), "`warmup` is 100 times as large in the smallest case"),
    ("learning_rate", rating(two_pi), "`step` is half as large"),
    ("behind_last", squeezed, "the logits behind the last tokens has the right numbers"),
    ("behind_last", masked_then_last, "padding is set to 0 and the last column taken: in a row"),
    ("behind_last", in_place_fill, "the logits that came in were changed: work on a copy"),
    ("behind_last", max_over, "that is the largest logit of all tokens of a row: take"),
    ("behind_last", gather_wrong, "with padding before the row the number of tokens is not"),
    ("behind_last", nonzero_max, "the last column is padding in a short row that is padded"),
    ("behind_last", cumsum_last, "`logits` is shifted by one place along axis 1"),
    ("behind_last", first_row_only, "`logits` is its first one along axis 0, for all"),
    ("behind_last", turned, "the logits behind the last tokens has its axes 0 and 1"),
    ("behind_last", in_float32, "the logits behind the last tokens is float32, it should"),
    ("promising", best_set_wrong_order, "the order is turned round: the most promising word comes"),
    ("promising", largest, "these are the last ones of the order, with the largest"),
    ("promising", both_normed, "the words are divided by their lengths: the straight line"),
    ("promising", in_place_pr, "the E that came in was changed: work on a copy"),
    ("promising", in_half, "it is computed in half precision, where near values"),
    ("promising", ranks, "these are the ranks of the first words: argsort once"),
    ("promising", one_based, "words are counted from 1: a word's number is its row in"),
    ("promising", from_E_columns, "`E` is reshaped where its axes 0 and 1 are to be"),
    ("promising", last_left_out, "the last word of the vocabulary is left out: all rows of"),
    ("promising", sums, "the numbers of a word are summed: multiply them with the"),
    ("promising", softmax_noise, "the words are drawn at random: take those with the"),
]
RIGHT = [
    ("causal", loops_c),
    ("causal", by_arithmetic),
    ("causal", by_where),
    ("masked", masking(one_draw)),
    ("masked", masking(by_bernoulli)),
    ("masked", masking(multinom)),
    ("learning_rate", rating(branches)),
    ("learning_rate", rating(half_angle)),
    ("learning_rate", rating(by_numpy)),
    ("learning_rate", rating(lerp)),
    ("behind_last", first_pad),
    ("behind_last", by_argmin),
    ("behind_last", by_cumsum),
    ("behind_last", by_one_hot),
    ("behind_last", by_nonzero),
    ("behind_last", by_index_select),
    ("promising", loop),
    ("promising", einsum_pr),
    ("promising", heap),
    ("promising", by_topk),
]
