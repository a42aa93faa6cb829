"""Lessons 07, 08, 17, 19 once more: wrong solutions that were new to their checks, right ones."""

import math

import torch
from exercises.changing import changed
from torch import nn
from torch.nn import functional as F

from minipeft.doors.words import place_vectors as right_place
from minipeft.methods.p_tuning import PromptEncoder
from minipeft.training.preferences import answer_log_probability as right_log_probability


def losing(compute):
    def dpo_loss(better, worse, reference_better, reference_worse, beta=0.1):
        return compute(better, worse, reference_better, reference_worse, beta)

    return dpo_loss


def its_words(i, f, v):
    return (i >= f) & (i < f + len(v))


def near(i, f, v):
    return (i - f).clamp(0, len(v) - 1)


def frozen_embedding(x, ids, first, vectors):
    e = nn.Embedding.from_pretrained(vectors.to(x.dtype))
    return torch.where(its_words(ids, first, vectors)[..., None], e(near(ids, first, vectors)), x)


def normalised(x, ids, first, vectors):
    return right_place(x, ids, first, F.normalize(vectors, dim=1))


def breaks(x, ids, first, vectors):
    y = x.clone()
    m = its_words(ids, first, vectors)
    for b in range(len(x)):
        for t in range(ids.shape[1]):
            if m[b, t]:
                y[b, t] = vectors[ids[b, t] - first].to(x.dtype)
                break
    return y


def batch_transposed(x, ids, first, vectors):
    return right_place(x, ids.T.reshape(ids.shape), first, vectors)


def vectors_in_place(x, ids, first, vectors):
    with torch.no_grad():
        vectors /= vectors.norm(dim=1, keepdim=True)
    return right_place(x, ids, first, vectors)


def abs_index(x, ids, first, vectors):
    return right_place(x, torch.where(ids < first, 2 * first - ids, ids), first, vectors)


def vectors_mean(x, ids, first, vectors):
    return right_place(x, ids, first, vectors.mean(0, keepdim=True).expand_as(vectors))


def minus(x, ids, first, vectors):
    return right_place(x, ids, first, -vectors)


def scaled_half(x, ids, first, vectors):
    return right_place(x, ids, first, vectors / len(vectors) ** 0.5)


def mask_float(x, ids, first, vectors):
    m = its_words(ids, first, vectors)[..., None].float()
    return x * (1 - m) + vectors[near(ids, first, vectors)] * m


def squeezed(e):
    return e.mlp(e.vectors if e.lstm is None else e.lstm(e.vectors[:, None])[0].squeeze())


def read(e):
    return e.vectors if e.lstm is None else e.lstm(e.vectors)[0]


def residual_y(e):
    y = read(e)
    return e.mlp(y + e.vectors if y.shape == e.vectors.shape else y)


def layernormed(e):
    return e.mlp(F.layer_norm(read(e), read(e).shape[-1:]))


def vectors_scaled(e):
    return e.mlp(
        e.vectors * e.vectors.shape[1] ** 0.5
        if e.lstm is None
        else e.lstm(e.vectors * e.vectors.shape[1] ** 0.5)[0]
    )


def leaky(e):
    return e.mlp[2](F.leaky_relu(e.mlp[0](read(e)), 0.01))


def by_silu(e):
    return e.mlp[2](F.silu(e.mlp[0](read(e))))


def dropped(e):
    return e.mlp(F.dropout(read(e), 0.1, e.training))


def init_ones(e):
    if e.lstm is None:
        return e.mlp(e.vectors)
    s = torch.ones(4, e.lstm.hidden_size, dtype=e.vectors.dtype)
    return e.mlp(e.lstm(e.vectors, (s, s))[0])


def centred(e):
    h = PromptEncoder.forward(e)
    return h - h.mean(0)


def vectors_as_h(e):
    return e.vectors.clone()


def sequence_of_width(e):
    if e.lstm is None:
        return e.mlp(e.vectors)
    v = e.vectors
    return e.mlp(e.lstm(v.T.reshape(v.shape))[0])


def only_many(e):
    return e.mlp(read(e)) if len(e.vectors) > 1 or e.lstm is None else e.mlp(read(e).detach())


def unique_index(x, y, A, B, who, scale):
    out = y.clone()
    for k, a in enumerate(who[who >= 0].unique()):
        m = who == a
        out[m] = y[m] + scale * x[m] @ A[k].T @ B[k].T
    return out


def each_row(x, y, A, B, who, scale):
    return torch.stack(
        [
            y[i] if a < 0 else y[i] + scale * x[i] @ (B[a] @ A[a]).T
            for i, a in enumerate(who.tolist())
        ]
    )


def absolute(x, y, A, B, who, scale):
    return each_row(x, y, A, B, who.abs().clamp(max=len(A) - 1), scale)


def accumulates(x, y, A, B, who, scale):
    out = y.clone()
    for a in range(len(A)):
        m = who >= a
        out[m] = out[m] + scale * x[m] @ A[a].T @ B[a].T
    return out


def token_mean(x, y, A, B, who, scale):
    return each_row(x.mean(1, keepdim=True).expand_as(x), y, A, B, who, scale)


def last_is_base(x, y, A, B, who, scale):
    return each_row(x, y, A, B, torch.where(who == len(A) - 1, -1, who), scale)


def rank_one(x, y, A, B, who, scale):
    return each_row(x, y, A[:, :1], B[:, :, :1], who, scale)


STORE = {}


def kept_maps(x, y, A, B, who, scale):
    k = STORE.setdefault((A.shape, B.shape), (B @ A).detach())
    return torch.stack(
        [y[i] if a < 0 else y[i] + scale * x[i] @ k[a].T for i, a in enumerate(who.tolist())]
    )


def data_write(x, y, A, B, who, scale):
    out = y.clone()
    out.data.copy_(each_row(x, y, A, B, who, scale))
    return out


def x_for_first(x, y, A, B, who, scale):
    return each_row(x[:1].expand_as(x), y, A, B, who, scale)


def scale_inverse(x, y, A, B, who, scale):
    return each_row(x, y, A, B, who, 1 / scale)


def skips_alone(x, y, A, B, who, scale):
    return y.clone() if len(x) == 1 else each_row(x, y, A, B, who, scale)


def base_twice(x, y, A, B, who, scale):
    return y + each_row(x, y, A, B, who, scale)


def widened(z):
    return z.to(torch.promote_types(z.dtype, torch.float32))


def no_clamp(logits, labels):
    z = widened(logits)[:, :-1]
    y = labels[:, 1:]
    return (z.log_softmax(-1).gather(-1, y[..., None])[..., 0] * (y != -100)).sum(1)


def rolled(logits, labels):
    y = labels.roll(-1, 1)
    a = y != -100
    return (widened(logits).log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0] * a).sum(
        1
    )


def pick(z, y):
    z = widened(z)[:, :-1]
    y = y[:, 1:]
    a = y != -100
    return (z.log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0], a)


def root_length(logits, labels):
    c, a = pick(logits, labels)
    return (c * a).sum(1) / a.sum(1).clamp(min=1) ** 0.5


def exped(logits, labels):
    c, a = pick(logits, labels)
    return (c * a).sum(1).exp()


def product(logits, labels):
    c, a = pick(logits, labels)
    return torch.where(a, c.exp(), 1.0).prod(1).log()


def temperature(logits, labels):
    return right_log_probability(logits / 0.7, labels)


def in_place_labels(logits, labels):
    a = labels[:, 1:] != -100
    labels[labels == -100] = 0
    c = widened(logits)[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:, None])[..., 0]
    return (c * a).sum(1)


def mask_of_first(logits, labels):
    c, a = pick(logits, labels)
    return (c * a[:1]).sum(1)


def entropy(logits, labels):
    z = widened(logits)[:, :-1].log_softmax(-1)
    a = labels[:, 1:] != -100
    return ((z.exp() * z).sum(-1) * a).sum(1)


def minus_inf_fill(logits, labels):
    c, a = pick(logits, labels)
    return c.masked_fill(~a, float("-inf")).logsumexp(1)


def maximum(logits, labels):
    c, a = pick(logits, labels)
    return c.masked_fill(~a, 0).amin(1)


def unshifted_labels(logits, labels):
    z = widened(logits)[:, :-1]
    y = labels[:, :-1]
    a = y != -100
    return (z.log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0] * a).sum(1)


log_sigmoid = F.logsigmoid


def margin(b, w, rb, rw, beta):
    return beta * (b - rb - (w - rw))


def moving(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, b.detach(), w.detach(), beta)).mean()


def smoothing(b, w, rb, rw, beta):
    m = margin(b, w, rb, rw, beta)
    return (-0.9 * log_sigmoid(m) - 0.1 * log_sigmoid(-m)).mean()


def ipo(b, w, rb, rw, beta):
    return ((margin(b, w, rb, rw, 1) - 1 / (2 * beta)) ** 2).mean()


def beta_twice(b, w, rb, rw, beta):
    return -log_sigmoid(beta * margin(b, w, rb, rw, beta)).mean()


def beta_in_out(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, rb, rw, beta)).mean() * beta


def bits_d(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, rb, rw, beta)).mean() / math.log(2)


def exp_ratio(b, w, rb, rw, beta):
    return -log_sigmoid(beta * ((b - rb).exp() - (w - rw).exp())).mean()


def all_pairs(b, w, rb, rw, beta):
    return -log_sigmoid(beta * ((b - rb)[:, None] - (w - rw)[None])).mean()


def median(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, rb, rw, beta)).median()


def margin_added(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, rb, rw, beta) - 1).mean()


def worse_only(b, w, rb, rw, beta):
    return -log_sigmoid(-beta * (w - rw)).mean()


def own_terms(b, w, rb, rw, beta):
    return (-log_sigmoid(beta * (b - rb)) - log_sigmoid(-beta * (w - rw))).mean()


def beta_div(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, rb, rw, beta)).mean() / beta


def absolute_margin(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, rb, rw, beta).abs()).mean()


def first_pair(b, w, rb, rw, beta):
    return -log_sigmoid(margin(b, w, rb, rw, beta))[0]


def isin(x, ids, first, vectors):
    n = len(vectors)
    m = torch.isin(ids, torch.arange(first, first + n))
    y = x.clone()
    y[m] = vectors[ids[m] - first].to(x.dtype)
    return y


def arithmetic(x, ids, first, vectors):
    h = (ids[..., None] == first + torch.arange(len(vectors))).to(x.dtype)
    return x * (1 - h.sum(-1, keepdim=True)) + torch.einsum("btn,nc->btc", h, vectors.to(x.dtype))


def loops_v(x, ids, first, vectors):
    y = x.clone()
    for k, v in enumerate(vectors):
        y[ids == first + k] = v.to(x.dtype)
    return y


def embed(x, ids, first, vectors):
    t = torch.cat([vectors.to(x.dtype), x.flatten(0, 1)])
    k = ids - first
    m = (k >= 0) & (k < len(vectors))
    p = torch.where(m, k, len(vectors) + torch.arange(ids.numel()).view_as(ids))
    return F.embedding(p, t)


def batch_axis(e):
    y = e.vectors
    if e.lstm is not None:
        y, _ = e.lstm(y.unsqueeze(1))
        y = y.squeeze(1)
    for layer in e.mlp:
        y = layer(y)
    return y


def zeros_given(e):
    y = e.vectors
    if e.lstm is not None:
        z = y.new_zeros(4, e.lstm.hidden_size)
        y = e.lstm(y, (z, z))[0]
    return torch.addmm(
        e.mlp[2].bias, F.linear(y, e.mlp[0].weight, e.mlp[0].bias).clamp(min=0), e.mlp[2].weight.t()
    )


def einsum_e(e):
    y = read(e)
    a = torch.einsum("ns,os->no", y, e.mlp[0].weight) + e.mlp[0].bias
    return (
        torch.einsum("no,wo->nw", torch.where(a > 0, a, torch.zeros_like(a)), e.mlp[2].weight)
        + e.mlp[2].bias
    )


def row_by_row(e):
    return torch.stack([e.mlp(y) for y in read(e)])


def by_groups(x, y, A, B, who, scale):
    out = y.clone()
    for a in who.unique().tolist():
        if a >= 0:
            m = who == a
            out[m] = out[m] + scale * F.linear(F.linear(x[m], A[a]), B[a])
    return out


def einsum_x(x, y, A, B, who, scale):
    s = (who >= 0).to(x.dtype) * scale
    i = who.clamp(min=0)
    return y + torch.einsum("r,rti,rki,rok->rto", s, x, A[i], B[i])


def sorted_back(x, y, A, B, who, scale):
    o = who.argsort(stable=True)
    back = o.argsort()
    parts = []
    w = who[o]
    for a in w.unique_consecutive().tolist():
        m = w == a
        p = y[o][m]
        parts.append(p if a < 0 else p + x[o][m] @ A[a].mT @ B[a].mT * scale)
    return torch.cat(parts)[back]


def all_then_pick(x, y, A, B, who, scale):
    every = torch.stack([y] + [y + scale * (x @ a.T) @ b.T for a, b in zip(A, B, strict=True)])
    return every[who + 1, torch.arange(len(x))]


def by_nll_loss(logits, labels):
    z = widened(logits)[:, :-1]
    return -F.nll_loss(
        F.log_softmax(z, -1).transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
    ).sum(-1)


def by_logsumexp(logits, labels):
    z = widened(logits)
    y = F.pad(labels[:, 1:], (0, 1), value=-100)
    a = y != -100
    c = z.gather(2, y.masked_fill(~a, 0).unsqueeze(2)).squeeze(2) - torch.logsumexp(z, 2)
    return torch.where(a, c, torch.zeros_like(c)).sum(1)


def einsum_a(logits, labels):
    z = torch.log_softmax(
        logits[:, :-1].double() if logits.dtype == torch.float64 else logits[:, :-1].float(), -1
    )
    h = (labels[:, 1:, None] == torch.arange(z.shape[-1])).to(z.dtype)
    return torch.einsum("btv,btv->b", z, h)


def doubled(logits, labels):
    return torch.stack(
        [
            sum(
                (widened(z).log_softmax(-1)[t - 1, y[t]] for t in range(1, len(y)) if y[t] != -100),
                start=widened(z).sum() * 0,
            )
            for z, y in zip(logits, labels, strict=True)
        ]
    )


def by_logaddexp(b, w, rb, rw, beta):
    m = margin(b, w, rb, rw, beta)
    return torch.logaddexp(torch.zeros_like(m), -m).mean()


def as_binary(b, w, rb, rw, beta):
    m = margin(b, w, rb, rw, beta)
    return F.binary_cross_entropy_with_logits(m, torch.ones_like(m))


def ratios_first(b, w, rb, rw, beta):
    return -torch.stack(
        [log_sigmoid(beta * (b[i] - w[i] - (rb[i] - rw[i]))) for i in range(len(b))]
    ).mean()


def as_cross_entropy(b, w, rb, rw, beta):
    z = torch.stack([b - rb, w - rw], 1) * beta
    return -z.log_softmax(1)[:, 0].sum() / b.numel()


WRONG = [
    ("place_vectors", frozen_embedding, "the prompt's vectors are cut off from the graph"),
    ("place_vectors", normalised, "`vectors` is divided by its length along axis 1"),
    ("place_vectors", breaks, "it is right at 0, 1, 3, 4 of axis 1 and wrong at 2, 5, 6"),
    ("place_vectors", batch_transposed, "`ids` is reshaped where its axes 0 and 1 are to be"),
    ("place_vectors", vectors_in_place, "the vectors that came in were changed: work on a copy"),
    ("place_vectors", abs_index, "it is right at 0, 2, 5, 6 of axis 1 and wrong at 1, 3, 4"),
    ("place_vectors", vectors_mean, "`vectors` is averaged along axis 0"),
    ("place_vectors", minus, "`vectors` has the opposite sign"),
    ("place_vectors", scaled_half, "`vectors` is divided by the root of the size of axis 0"),
    ("place_vectors", mask_float, "the answer has the dtype of the vectors: it should have"),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=squeezed),
        "h, the output of forward has the right numbers in shape",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=residual_y),
        "e is added to y: the MLP reads the LSTM's output alone",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=layernormed),
        "`self.vectors if self.lstm is None else",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=vectors_scaled),
        "`self.vectors` is multiplied by the root of the size of",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=leaky),
        "the MLP has leaky_relu between its two maps, it should be",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=by_silu),
        "the MLP has silu between its two maps, it should be a",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=dropped),
        "h, the output of forward is wrong, and random numbers are",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=init_ones),
        "the states of the LSTM begin at 1: give it none, then",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=centred),
        "`self.mlp(y)` is less its mean along axis 0",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=vectors_as_h),
        "and is made without lstm.weight_ih_l0 and",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=sequence_of_width),
        "`self.vectors` is reshaped where its axes 0 and 1 are to",
    ),
    (
        "prompt_encoder",
        changed(PromptEncoder, forward=only_many),
        "e gets no gradient: is it detached, or copied with .data?",
    ),
    ("mixed_lora", unique_index, "adapters are counted among those that the batch holds"),
    ("mixed_lora", absolute, "the sign of who is taken away: -1 means the base, not"),
    ("mixed_lora", accumulates, "a row gets every adapter up to its own: only adapter"),
    ("mixed_lora", token_mean, "`x` is averaged along axis 1"),
    ("mixed_lora", last_is_base, "rows of the last adapter are left to the base: -1 alone"),
    ("mixed_lora", rank_one, "`A` is 0 but for its first one along axis 1"),
    ("mixed_lora", kept_maps, "A gets no gradient: do not detach it, and do not make a"),
    ("mixed_lora", data_write, "the detour is cut off from the graph: nothing could train"),
    ("mixed_lora", x_for_first, "`x` is its first one along axis 0, for all"),
    ("mixed_lora", scale_inverse, "`scale` is turned over (1 / it)"),
    ("mixed_lora", skips_alone, "a batch of one row is left to the base: it has its"),
    ("mixed_lora", base_twice, "`y` is twice as large"),
    ("answer_log_probability", no_clamp, "a label of -100 is no word that can be looked up: clamp"),
    ("answer_log_probability", rolled, "the last position is asked for the first label: roll"),
    (
        "answer_log_probability",
        root_length,
        "that is divided by the root of the answer's length: DPO",
    ),
    ("answer_log_probability", exped, "no logarithm is taken: add the logarithms"),
    ("answer_log_probability", product, "with large logits this is -inf or nan: use log_softmax"),
    ("answer_log_probability", temperature, "`logits` is 1.429 times as large"),
    (
        "answer_log_probability",
        in_place_labels,
        "the labels that came in were changed: work on a copy",
    ),
    ("answer_log_probability", mask_of_first, "`labels` is its first one along axis 0, for all"),
    ("answer_log_probability", entropy, "that is the entropy of the words: take the"),
    (
        "answer_log_probability",
        minus_inf_fill,
        "probabilities are added and the logarithm is taken of the",
    ),
    ("answer_log_probability", maximum, "that is the least likely token of the answer alone: take"),
    (
        "answer_log_probability",
        unshifted_labels,
        "logits and labels are both cut, and not shifted: the",
    ),
    ("dpo_loss", losing(moving), "the reference moves along with the model, so the loss is"),
    ("dpo_loss", losing(smoothing), "the labels are smoothed: DPO's loss has one term, -log"),
    ("dpo_loss", losing(ipo), "that is IPO, the square of a distance: DPO's loss is -log"),
    ("dpo_loss", losing(beta_twice), "`beta` is squared"),
    ("dpo_loss", losing(beta_in_out), "beta is there twice, inside of the sigmoid and outside"),
    ("dpo_loss", losing(bits_d), "`F.logsigmoid(reward_better - reward_worse)` is 1.443"),
    ("dpo_loss", losing(exp_ratio), "the exponential is taken first: rewards are differences"),
    ("dpo_loss", losing(all_pairs), "every better answer is compared with every worse one"),
    ("dpo_loss", losing(median), "that is the median over pairs: take the mean"),
    ("dpo_loss", losing(margin_added), "the difference must exceed a margin of 1: DPO has none"),
    ("dpo_loss", losing(worse_only), "the better answer is not used: the loss is of the"),
    ("dpo_loss", losing(own_terms), "each answer has a loss of its own: DPO has one for the"),
    ("dpo_loss", losing(beta_div), "the loss is divided by beta: it multiplies the rewards"),
    (
        "dpo_loss",
        losing(absolute_margin),
        "`reward_better - reward_worse` is without its sign (abs)",
    ),
    ("dpo_loss", losing(first_pair), "`reward_better - reward_worse` is its first one along"),
]
RIGHT = [
    ("place_vectors", isin),
    ("place_vectors", arithmetic),
    ("place_vectors", loops_v),
    ("place_vectors", embed),
    ("prompt_encoder", changed(PromptEncoder, forward=batch_axis)),
    ("prompt_encoder", changed(PromptEncoder, forward=zeros_given)),
    ("prompt_encoder", changed(PromptEncoder, forward=einsum_e)),
    ("prompt_encoder", changed(PromptEncoder, forward=row_by_row)),
    ("mixed_lora", by_groups),
    ("mixed_lora", einsum_x),
    ("mixed_lora", sorted_back),
    ("mixed_lora", all_then_pick),
    ("answer_log_probability", by_nll_loss),
    ("answer_log_probability", by_logsumexp),
    ("answer_log_probability", einsum_a),
    ("answer_log_probability", doubled),
    ("dpo_loss", losing(by_logaddexp)),
    ("dpo_loss", losing(as_binary)),
    ("dpo_loss", losing(ratios_first)),
    ("dpo_loss", losing(as_cross_entropy)),
]
