"""Lessons 00, 03, 05, 06, 09: wrong solutions that were new to their checks, unusual right ones."""

import math
from dataclasses import replace
from itertools import chain

import torch
from exercises.changing import changed
from torch import nn
from torch.nn import functional as F

from minipeft.course.prefix import prefix_gradients as right_gradients
from minipeft.course.transfer import forgotten as right_share
from minipeft.course.transfer import train_top as right_top
from minipeft.methods.adapter import AdapterPatch
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.prefix import Prefix, PrefixEncoder
from minipeft.tasks.metrics import normal

# -- the loss --------------------------------------------------------------------------------------


def losing(compute):
    """A loss of logits (N, V) and labels (N,), each flattened."""

    def cross_entropy(logits, labels):
        if labels is None:
            return None
        return compute(logits.float().flatten(0, -2), labels.flatten())

    return cross_entropy


def row_by_row(logits, labels):
    if labels is None:
        return None
    if labels.dim() == 1:
        return F.cross_entropy(logits.float(), labels)
    return torch.stack(
        [F.cross_entropy(a.float(), b) for a, b in zip(logits, labels, strict=True)]
    ).mean()


def with_a_floor(z, y):
    p = z.softmax(-1)[y != -100]
    return -(p.gather(1, y[y != -100][:, None]) + 1e-8).log().mean()


def over_rows(logits, labels):
    if labels is None:
        return None
    return F.nll_loss(logits.float().log_softmax(0).flatten(0, -2), labels.flatten())


def smoothed(z, y):
    return F.cross_entropy(z, y, label_smoothing=0.1)


def labels_first(labels, logits):
    return None if labels is None else F.cross_entropy(logits.float().flatten(0, -2), labels)


def one_hot(z, y):
    counts = y != -100
    hot = F.one_hot(y.where(counts, 0), z.shape[-1]) * counts[:, None]
    return -(z.log_softmax(-1) * hot).sum() / counts.sum()


def word_by_word(z, y):
    """Where nothing counts its NaN hangs at no graph."""
    terms = [a.logsumexp(0) - a[b] for a, b in zip(z, y.tolist(), strict=True) if b != -100]
    return torch.stack(terms).mean() if terms else torch.tensor(math.nan)


def by_logsumexp(z, y):
    z, y = z[y != -100], y[y != -100]
    return (z.logsumexp(-1) - z.gather(-1, y[:, None])[:, 0]).mean()


def classes_second(logits, labels):
    return None if labels is None else F.cross_entropy(logits.float().movedim(-1, 1), labels)


# -- freezing --------------------------------------------------------------------------------------


def by_value(parts, count):
    kept = []
    for p in right_top(parts, count):
        if not any(p.shape == q.shape and torch.equal(p, q) for q in kept):
            kept.append(p)
    return kept


def a_set(parts, count):
    return set(right_top(parts, count))


def at_most_all(parts, count):
    if count < 0:
        raise ValueError("below 0")
    return right_top(parts, min(count, len(parts)))


def at_least_one(parts, count):
    if not 1 <= count <= len(parts):
        raise ValueError("impossible")
    return right_top(parts, count)


def never_all(parts, count):
    if not 0 <= count < len(parts):
        raise ValueError("impossible")
    return right_top(parts, count)


def copies(parts, count):
    return [nn.Parameter(p.detach().clone()) for p in right_top(parts, count)]


def reversing(parts, count):
    if isinstance(parts, list):
        parts.reverse()
        return right_top(parts[::-1], count)
    return right_top(parts, count)


def with_ids(parts, count):
    if not 0 <= count <= len(parts):
        raise ValueError("impossible")
    cut, frozen, trained = len(parts) - count, set(), {}
    for p in chain.from_iterable(part.parameters() for part in parts[:cut]):
        p.requires_grad = False
        frozen.add(id(p))
    for p in chain.from_iterable(part.parameters() for part in parts[cut:]):
        if id(p) not in frozen:
            p.requires_grad = True
            trained.setdefault(id(p), p)
    return list(trained.values())


def by_module_list(parts, count):
    if count not in range(len(parts) + 1):
        raise ValueError("impossible")
    nn.ModuleList(parts).requires_grad_(True)
    nn.ModuleList(parts[: len(parts) - count]).requires_grad_(False)
    top = nn.ModuleList(parts[len(parts) - count :])
    return [p for p in top.parameters() if p.requires_grad]


def tail_first(parts, count):
    if count < 0 or count > len(parts):
        raise ValueError("impossible")
    head, tail = list(parts)[: len(parts) - count], list(parts)[len(parts) - count :]
    for part in tail:
        part.requires_grad_()
    for part in head:
        part.requires_grad_(False)
    return [*{p: None for part in tail for p in part.parameters() if p.requires_grad}]


def as_a_tuple(parts, count):
    return tuple(right_top(parts, count))


# -- what is forgotten -----------------------------------------------------------------------------


def rounded(before, after, targets):
    return round(right_share(before, after, targets), 2)


def all_wrong_ones(before, after, targets):
    right_share(before, after, targets)
    known = [normal(b) == normal(t) for b, t in zip(before, targets, strict=True)]
    return sum(normal(a) != normal(t) for a, t in zip(after, targets, strict=True)) / sum(known)


def by_tensors(before, after, targets):
    if len({len(before), len(after), len(targets)}) > 1:
        raise ValueError("lengths")
    b, a = (
        torch.tensor(
            [normal(x) == normal(t) for x, t in zip(answers, targets, strict=True)],
            dtype=torch.bool,
        )
        for answers in (before, after)
    )
    if not b.any():
        raise ValueError("nothing")
    return ((b & ~a).sum() / b.sum()).item()


def by_places(before, after, targets):
    if len(before) != len(targets) or len(after) != len(targets):
        raise ValueError("lengths")
    known, now = (
        {i for i, text in enumerate(answers) if normal(text) == normal(targets[i])}
        for answers in (before, after)
    )
    if not known:
        raise ValueError("nothing")
    return len(known - now) / len(known)


def strict(before, after, targets):
    rows = zip(before, after, targets, strict=True)
    lost = [normal(a) != normal(t) for b, a, t in rows if normal(b) == normal(t)]
    if not lost:
        raise ValueError("nothing")
    return 1 - lost.count(False) / len(lost)


def by_recursion(before, after, targets):
    def count(rows):
        if not rows:
            return 0, 0
        (b, a, t), lost_and_known = rows[0], count(rows[1:])
        known, wrong = normal(b) == normal(t), normal(a) != normal(t)
        return lost_and_known[0] + (known and wrong), lost_and_known[1] + known

    lost, known = count(list(zip(before, after, targets, strict=True)))
    if known == 0:
        raise ValueError("nothing")
    return lost / known


# -- the adapter -----------------------------------------------------------------------------------


def inside(patch, h):
    return patch.dropout(patch.phi(patch.down(h.to(patch.down.weight.dtype))))


def change(patch, h):
    return patch.scale * patch.up(inside(patch, h))


def joined(patch, x, y):
    added = patch.change(y)
    return (y + added if patch.skip else added).to(y.dtype)


def y_first(self, y, x):
    return joined(self, x, y)


def einsum_change(self, h):
    h = h.to(self.up.weight)
    low = self.phi(torch.einsum("...c,mc->...m", h, self.down.weight) + self.down.bias)
    return self.scale * (
        torch.einsum("...m,cm->...c", self.dropout(low), self.up.weight) + self.up.bias
    )


def functional(self, h):
    low = self.phi(F.linear(h.to(self.down.weight.dtype), self.down.weight, self.down.bias))
    low = F.dropout(low, self.dropout.p, self.training)
    return F.linear(low, self.scale * self.up.weight, self.scale * self.up.bias)


def token_by_token(self, h):
    return torch.stack([change(self, token) for token in h.unbind(-2)], -2)


def alpha_skip(self, x, y):
    return torch.add(self.change(y), y, alpha=float(self.skip)).type_as(y)


# -- the prefix's network --------------------------------------------------------------------------


def table_of(encoder):
    if encoder.embedding is None:
        return encoder.table
    return encoder.up(torch.tanh(encoder.down(encoder.embedding)))


def kept_table(self, columns=slice(None)):
    if not hasattr(self, "R"):
        self.R = table_of(self)
    return self.R[:, columns]


def cut_weights(self, columns=slice(None)):
    if self.table is not None:
        return self.table[:, columns]
    return F.linear(
        torch.tanh(self.down(self.embedding)), self.up.weight[columns], self.up.bias[columns]
    )


def by_sigmoid(self, columns=slice(None)):
    if self.table is not None:
        return self.table.T[columns].T
    return self.up(2 * torch.sigmoid(2 * self.down(self.embedding)) - 1).T[columns].T


def rows_alone(self, columns=slice(None)):
    if self.table is not None:
        return torch.stack([row[columns] for row in self.table])
    return torch.stack([self.up(self.down(row).tanh())[columns] for row in self.embedding])


def by_index(self, columns=slice(None)):
    R = table_of(self)
    return R.index_select(1, torch.arange(R.shape[1])[columns])


# -- the prefix's gradients ------------------------------------------------------------------------


def attention(query, pk, pv, keys, values, order=1, dim=-1):
    """Weights and the joined values; order=-1 puts the prefix behind the words."""
    B, D = len(query), query.shape[-1]
    K, V = (
        torch.cat([p.expand(B, -1, -1, -1), x][::order], dim=2)
        for p, x in ((pk, keys), (pv, values))
    )
    return (query @ K.mT / math.sqrt(D)).softmax(dim), V


def backward(weights, V, query, upstream, P, dim=-1):
    gap = upstream @ V.mT
    scores = weights * (gap - (weights * gap).sum(dim, keepdim=True))
    of_keys = (scores.mT @ query / math.sqrt(query.shape[-1]))[:, :, :P].sum(0)
    return of_keys, (weights.mT @ upstream)[:, :, :P].sum(0)


def prefix_behind(query, prefix_keys, prefix_values, keys, values, upstream):
    weights, V = attention(query, prefix_keys, prefix_values, keys, values, order=-1)
    return backward(weights, V, query, upstream, prefix_keys.shape[1])


def over_queries(query, prefix_keys, prefix_values, keys, values, upstream):
    weights, V = attention(query, prefix_keys, prefix_values, keys, values, dim=-2)
    return backward(weights, V, query, upstream, prefix_keys.shape[1], dim=-2)


def last_weights(query, prefix_keys, prefix_values, keys, values, upstream):
    of_keys, _ = right_gradients(query, prefix_keys, prefix_values, keys, values, upstream)
    weights, _ = attention(query, prefix_keys, prefix_values, keys, values)
    return of_keys, (weights[..., -prefix_keys.shape[1] :].mT @ upstream).sum(0)


def joined_backward(query, prefix_keys, prefix_values, keys, values, upstream):
    weights, V = attention(query, prefix_keys, prefix_values, keys, values)
    return backward(weights, V, query, upstream, prefix_keys.shape[1])


def by_logsumexp_of_scores(query, prefix_keys, prefix_values, keys, values, upstream):
    q = query / query.shape[-1] ** 0.5
    to_prefix = torch.einsum("bhtd,hpd->bhtp", q, prefix_keys)
    to_words = q @ keys.mT
    total = torch.cat([to_prefix, to_words], -1).logsumexp(-1, keepdim=True)
    a, b = (to_prefix - total).exp(), (to_words - total).exp()
    output = torch.einsum("bhtp,hpd->bhtd", a, prefix_values) + b @ values
    gap = torch.einsum("bhtd,hpd->bhtp", upstream, prefix_values)
    scores = a * (gap - (output * upstream).sum(-1, keepdim=True))
    return [
        torch.einsum("bhtp,bhtd->hpd", scores, q),
        torch.einsum("bhtp,bhtd->hpd", a, upstream),
    ]


def query_by_query(query, prefix_keys, prefix_values, keys, values, upstream):
    B, H, T, D = query.shape
    P = prefix_keys.shape[1]
    of_keys, of_values = torch.zeros_like(prefix_keys), torch.zeros_like(prefix_values)
    for b in range(B):
        for h in range(H):
            K = torch.cat([prefix_keys[h], keys[b, h]])
            V = torch.cat([prefix_values[h], values[b, h]])
            for t in range(T):
                a, u = torch.softmax(K @ query[b, h, t] / D**0.5, 0), V @ upstream[b, h, t]
                of_keys[h] += (a * (u - a @ u))[:P, None] * query[b, h, t] / D**0.5
                of_values[h] += a[:P, None] * upstream[b, h, t]
    return of_keys, of_values


def by_the_jacobian(query, prefix_keys, prefix_values, keys, values, upstream):
    weights, V = attention(query, prefix_keys, prefix_values, keys, values)
    P = prefix_keys.shape[1]
    jacobian = torch.diag_embed(weights) - weights[..., None] * weights[..., None, :]
    scores = (jacobian @ (upstream @ V.mT)[..., None])[..., :P, 0]
    of_keys = torch.einsum("bhtp,bhtd->hpd", scores, query) / math.sqrt(query.shape[-1])
    return of_keys, torch.einsum("bhtp,bhtd->hpd", weights[..., :P], upstream)


# -- P-Tuning v2 -----------------------------------------------------------------------------------

HANDED_ON = ("length", "layers", "std", "dropout", "compatibility")


def settings(method):
    return {name: getattr(method, name) for name in HANDED_ON}


def hidden_is_512(self):
    return Prefix(**settings(self), hidden=512 if self.reparameterize == "mlp" else None)


def hidden_left_out(self):
    if self.reparameterize == "mlp":
        return Prefix(**settings(self))
    return Prefix(**settings(self), hidden=None)


def replaced(self):
    prefix = Prefix(self.length, hidden={"mlp": self.hidden}.get(self.reparameterize))
    rest = {name: value for name, value in settings(self).items() if name != "length"}
    return replace(prefix, **rest)


def every_setting(self):
    given = dict(vars(self))
    if given.pop("reparameterize") != "mlp":
        given["hidden"] = None
    return Prefix(**given)


WRONG = [
    ("cross_entropy", row_by_row, "each row has a mean of its own"),
    ("cross_entropy", losing(with_a_floor), "something is added to p before the logarithm"),
    ("cross_entropy", over_rows, "the softmax runs over axis 0 of the logits: over the last"),
    ("cross_entropy", losing(smoothed), "the labels are smoothed"),
    ("cross_entropy", labels_first, "in the order labels, logits, it should be logits, labels"),
    ("train_top", by_value, "a parameter is left out because another one has the same values"),
    ("train_top", a_set, "gives back a set: return a list"),
    ("train_top", at_most_all, "a count of 5 with 4 parts is impossible: raise a ValueError"),
    ("train_top", at_least_one, "a count of 0 with 4 parts is possible, and it is refused"),
    ("train_top", never_all, "a count of 4 with 4 parts is possible, and it is refused"),
    ("train_top", copies, "what is given back are copies"),
    ("train_top", reversing, "the list of parts that came in was changed"),
    ("forgotten", rounded, "you round to 2 digits"),
    ("forgotten", all_wrong_ones, "count what is wrong now, also what was never right"),
    (
        "adapter",
        changed(AdapterPatch, forward=y_first),
        "forward takes its arguments in the order y, x, it should be x, y",
    ),
    (
        "prefix_encoder",
        changed(PrefixEncoder, forward=kept_table),
        "the call leaves R in the layer",
    ),
    ("prefix_gradients", prefix_behind, "the prefix stands behind the words"),
    ("prefix_gradients", over_queries, "the softmax runs over the queries"),
    ("p_tuning_v2", changed(PTuningV2, prefix=hidden_is_512), "512 features, whatever is set"),
    ("p_tuning_v2", changed(PTuningV2, prefix=hidden_left_out), "512 features, whatever is set"),
]

RIGHT = [
    *(("cross_entropy", losing(f)) for f in (one_hot, word_by_word, by_logsumexp)),
    ("cross_entropy", classes_second),
    *(("train_top", f) for f in (with_ids, by_module_list, tail_first, as_a_tuple)),
    *(("forgotten", f) for f in (by_tensors, by_places, strict, by_recursion)),
    *(("adapter", changed(AdapterPatch, change=f, forward=joined)) for f in (
        einsum_change, functional, token_by_token,
    )),
    ("adapter", changed(AdapterPatch, change=change, forward=alpha_skip)),
    *(("prefix_encoder", changed(PrefixEncoder, forward=f)) for f in (
        cut_weights, by_sigmoid, rows_alone, by_index,
    )),
    *(("prefix_gradients", f) for f in (
        joined_backward, by_logsumexp_of_scores, query_by_query, by_the_jacobian,
    )),
    *(("p_tuning_v2", changed(PTuningV2, prefix=f)) for f in (replaced, every_setting)),
]  # fmt: skip
