"""Checks of lesson 06: they take what is right, however it is written, and name what is wrong."""

import math

import diagnoses
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minipeft import checks
from minipeft.checks.exercises.prefix_patients import HINTS
from minipeft.course import prefix
from minipeft.methods.prefix import PrefixEncoder


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- prefix_encoder --------------------------------------------------------------------------------


class WholeThenCut(PrefixEncoder):
    """All of R, of which the columns are cut."""

    def forward(self, columns=slice(None)):
        if self.table is None:
            return self.up(self.down(self.embedding).tanh())[:, columns]
        return self.table[:, columns]


class Matrices(PrefixEncoder):
    """The equation as it is printed."""

    def forward(self, columns=slice(None)):
        if self.embedding is None:
            return self.table.T[columns].T
        hidden = torch.tanh(self.embedding @ self.down.weight.T + self.down.bias)
        return hidden @ self.up.weight[columns].T + self.up.bias[columns]


class TheTableItself(PrefixEncoder):
    """Where all columns are asked for, nothing is cut."""

    def forward(self, columns=slice(None)):
        R = self.up(self.down(self.embedding).tanh()) if self.table is None else self.table
        return R if columns == slice(None) else R[:, columns]


class RowByRow(PrefixEncoder):
    """One row of P' after the other."""

    def forward(self, columns=slice(None)):
        if self.table is not None:
            return torch.stack([row[columns] for row in self.table])
        rows = [self.up(torch.tanh(self.down(row)))[columns] for row in self.embedding]
        return torch.stack(rows)


class Gathered(PrefixEncoder):
    """Columns by their numbers; tanh by its definition."""

    def forward(self, columns=slice(None)):
        if self.table is not None:
            R = self.table
        else:
            x = 2 * self.down(self.embedding)
            R = self.up(2 * torch.sigmoid(x) - 1)
        return R.index_select(1, torch.arange(R.shape[1])[columns])


class ColumnByColumn(PrefixEncoder):
    """One column of R after the other."""

    def forward(self, columns=slice(None)):
        R = self.table if self.table is not None else self.up(self.down(self.embedding).tanh())
        return torch.stack([R[:, j] for j in range(*columns.indices(R.shape[1]))], dim=1)


class Chosen(PrefixEncoder):
    """Columns chosen by a product with a matrix of zeros and ones."""

    def forward(self, columns=slice(None)):
        R = self.table
        if R is None:
            R = nn.Sequential(self.down, nn.Tanh(), self.up)(self.embedding)
        return R @ torch.eye(R.shape[1], dtype=R.dtype)[:, columns]


RIGHT_ENCODERS = [PrefixEncoder, WholeThenCut, Matrices, TheTableItself, RowByRow, Gathered]


@pytest.mark.parametrize("right", [*RIGHT_ENCODERS, ColumnByColumn, Chosen])
def test_right_encoders_pass(right, capsys):
    checks.prefix_encoder(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def encoder(forward):
    """An encoder with this forward(self, columns)."""
    return type("Encoder", (PrefixEncoder,), {"forward": forward})


def made(R):
    """forward that makes R of an encoder with an MLP as given, and cuts it rightly."""

    def forward(self, columns=slice(None)):
        return (R(self) if self.table is None else self.table)[:, columns]

    return encoder(forward)


def ignores(self, columns=slice(None)):
    return self.up(torch.tanh(self.down(self.embedding))) if self.table is None else self.table


def cuts_rows(self, columns=slice(None)):
    return ignores(self)[columns]


def flat_ignored(self, columns=slice(None)):
    return self.up(torch.tanh(self.down(self.embedding)))[:, columns]


def flat_whole(self, columns=slice(None)):
    return self.table if self.table is not None else ignores(self)[:, columns]


def flat_bounded(self, columns=slice(None)):
    return self.table.tanh()[:, columns] if self.table is not None else ignores(self)[:, columns]


def must_be_given(self, columns):
    return ignores(self)[:, columns]


def no_return(self, columns=slice(None)):
    ignores(self)[:, columns]


def transposed(self, columns=slice(None)):
    return ignores(self)[:, columns].T


def flat_detached(self, columns=slice(None)):
    return (self.table.data if self.table is not None else ignores(self))[:, columns]


def kept_as_table(self, columns=slice(None)):
    if self.table is None:
        self.table = ignores(self)
    return self.table[:, columns]


def hidden_cut(self, columns=slice(None)):
    hidden = None if self.table is not None else self.down(self.embedding).tanh()
    return self.table[:, columns] if hidden is None else self.up(hidden[:, columns])


def bias_from_the_first(self, columns=slice(None)):
    if self.table is not None:
        return self.table[:, columns]
    weight = self.up.weight[columns]
    return F.linear(self.down(self.embedding).tanh(), weight, self.up.bias[: len(weight)])


def exchanged(self, columns=slice(None)):
    if self.table is None:
        return self.table[:, columns]
    return self.up(torch.tanh(self.down(self.embedding)))[:, columns]


def by_truth(self, columns=slice(None)):
    return self.table[:, columns] if self.table else flat_ignored(self, columns)


def remembered(self, columns=slice(None)):
    if not hasattr(self, "R"):
        self.R = ignores(self).detach()
    return self.R[:, columns]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (made(lambda e: e.up(e.down(e.embedding))), "tanh between the two maps is missing"),
        (made(lambda e: e.up(e.down(e.embedding).relu())), "ReLU"),
        (made(lambda e: e.up(e.down(e.embedding).sigmoid())), "sigmoid"),
        (made(lambda e: e.up(e.down(e.embedding.tanh()))), "before the first map"),
        (made(lambda e: e.up(e.down(e.embedding).tanh()).tanh()), "any size"),
        (made(lambda e: e.up(e.down(e.embedding)).tanh()), "after the second map"),
        (made(lambda e: e.down(e.embedding).tanh() @ e.up.weight.T), "bias of up"),
        (made(lambda e: e.up((e.embedding @ e.down.weight.T).tanh())), "bias of down"),
        (made(lambda e: e.up(e.down(e.embedding.detach()).tanh())), "P' gets no gradient"),
        (
            made(lambda e: F.linear(e.down(e.embedding).tanh(), e.up.weight.data, e.up.bias)),
            "maps of the MLP get no gradient",
        ),
        (encoder(ignores), "columns is ignored: each layer"),
        (encoder(cuts_rows), "cuts the rows of R: rows are"),
        (encoder(flat_ignored), "hidden=None"),
        (encoder(flat_whole), "without MLP columns is ignored"),
        (encoder(flat_bounded), "they are free"),
        (encoder(flat_detached), "R gets no gradient"),
        (encoder(must_be_given), "columns"),
        (encoder(no_return), "is a return missing"),
        (encoder(transposed), "axes 0 and 1 interchanged"),
        (encoder(remembered), "R gets no gradient"),
        (encoder(kept_as_table), "kept from an earlier call"),
        (encoder(hidden_cut), "columns cuts the hidden features"),
        (encoder(bias_from_the_first), "bias of up is cut otherwise"),
        (encoder(exchanged), "the cases are exchanged"),
        (encoder(by_truth), "there is no MLP"),
        (made(lambda e: e.up(F.gelu(e.down(e.embedding)))), "GELU"),
        (made(lambda e: 0.02 * e.up(e.down(e.embedding).tanh())), "0.02 times"),
        (made(lambda e: e.up(e.down(e.embedding).tanh())[None]), "shape (1, 3, 12)"),
    ],
)
def test_a_wrong_encoder_is_told_its_mistake(wrong, words):
    refused(checks.prefix_encoder, wrong, words)


def test_an_unwritten_encoder_is_unfinished():
    def unwritten(self, columns=slice(None)):
        raise NotImplementedError("PrefixEncoder.forward is yours to write")

    with pytest.raises(checks.NotFinished, match="yours to write"):
        checks.prefix_encoder(encoder(unwritten))


# -- prefix_gradients ------------------------------------------------------------------------------


def parts(query, prefix_keys, prefix_values, keys, values, upstream):
    """Scores (B, H, T, P + S) and all values (B, H, P + S, D)."""
    B, D = len(query), query.shape[-1]
    k = torch.cat([prefix_keys[None].expand(B, -1, -1, -1), keys], dim=2)
    v = torch.cat([prefix_values[None].expand(B, -1, -1, -1), values], dim=2)
    return query @ k.transpose(2, 3) / math.sqrt(D), v


def by_jacobian(*given):
    """The softmax's whole matrix of derivatives, diag(a) - a a^T."""
    query, pk, _, _, _, upstream = given
    P, D = pk.shape[1], query.shape[-1]
    scores, v = parts(*given)
    a = scores.softmax(-1)
    jacobian = torch.diag_embed(a) - a[..., :, None] * a[..., None, :]
    of_scores = torch.einsum("bhtij,bhtj->bhti", jacobian, upstream @ v.transpose(2, 3))
    of_keys = torch.einsum("bhtp,bhtd->hpd", of_scores[..., :P], query) / D**0.5
    return of_keys, torch.einsum("bhtp,bhtd->hpd", a[..., :P], upstream)


def by_the_gate(*given):
    """He's identity: the prefix's own softmax, times lambda."""
    query, pk, pv, k, v, upstream = given
    D = query.shape[-1]
    of_prefix, words = query @ pk.mT / D**0.5, query @ k.mT / D**0.5
    gate = torch.sigmoid(of_prefix.logsumexp(-1) - words.logsumexp(-1))[..., None]
    a = gate * of_prefix.softmax(-1)
    out = a @ pv + (1 - gate) * (words.softmax(-1) @ v)
    score = a * ((upstream[:, :, :, None] * (pv[None, :, None] - out[:, :, :, None])).sum(-1))
    return (score.mT @ query / D**0.5).sum(0), (a.mT @ upstream).sum(0)


def token_by_token(*given):
    query, pk, pv, _, _, upstream = given
    P, D = pk.shape[1], query.shape[-1]
    scores, v = parts(*given)
    of_keys, of_values = torch.zeros_like(pk), torch.zeros_like(pv)
    for b in range(len(query)):
        for t in range(query.shape[2]):
            a = scores[b, :, t].softmax(-1)  # (H, P + S)
            out = torch.einsum("hs,hsd->hd", a, v[b])
            for p in range(P):
                g = upstream[b, :, t]
                gain = (g * (pv[:, p] - out)).sum(-1, keepdim=True)
                of_values[:, p] += a[:, p, None] * g
                of_keys[:, p] += a[:, p, None] * gain * query[b, :, t] / D**0.5
    return of_keys, of_values


def by_autograd(query, pk, pv, keys, values, upstream):
    """Not by hand, and right all the same."""
    with torch.enable_grad():
        pk, pv = (part.detach().clone().requires_grad_() for part in (pk, pv))
        scores, v = parts(query, pk, pv, keys, values, upstream)
        loss = (scores.softmax(-1) @ v * upstream).sum()
        return torch.autograd.grad(loss, (pk, pv))


def by_vjp(query, pk, pv, keys, values, upstream):
    """The transposed derivative, as torch.func has it."""

    def attend(pk, pv):
        scores, v = parts(query, pk, pv, keys, values, upstream)
        return scores.softmax(-1) @ v

    return torch.func.vjp(attend, pk, pv)[1](upstream)


def tokens_of_all_rows(*given):
    """Rows and tokens are one axis; the gradient of the whole softmax is cut at the end."""
    query, pk, _, _, _, upstream = given
    scores, v = parts(*given)
    a = scores.softmax(-1)
    of_weights = upstream @ v.mT
    of_scores = a * (of_weights - (of_weights * a).sum(-1, keepdim=True))
    a, of_scores, query, upstream = (
        part.transpose(0, 1).flatten(1, 2) for part in (a, of_scores, query, upstream)
    )
    P = pk.shape[1]
    of_keys = (of_scores.mT @ query)[:, :P] / math.sqrt(pk.shape[-1])
    return of_keys, (a.mT @ upstream)[:, :P]


def in_a_list(*given):
    return list(prefix.prefix_gradients(*given))


RIGHT_GRADIENTS = [prefix.prefix_gradients, by_jacobian, by_the_gate, token_by_token, by_autograd]


@pytest.mark.parametrize("right", [*RIGHT_GRADIENTS, by_vjp, tokens_of_all_rows, in_a_list])
def test_right_gradients_pass(right, capsys):
    checks.prefix_gradients(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def test_the_gradients_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4, 5), (3, 2, 5), (3, 2, 5), (2, 3, 6, 5), (2, 3, 6, 5), (2, 3, 4, 5)]
    given = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]
    for one, two in zip(prefix.prefix_gradients(*given), by_autograd(*given), strict=True):
        assert (one - two).abs().max() < 1e-10


def gradients(change):
    """change(a, gain, o, given) -> (dL/dP_k, dL/dP_v) from right intermediate results."""

    def prefix_gradients(query, prefix_keys, prefix_values, keys, values, upstream):
        given = query, prefix_keys, prefix_values, keys, values, upstream
        scores, v = parts(*given)
        a = scores.softmax(-1)
        out = a @ v
        return change(a[..., : prefix_keys.shape[1]], out, *given)

    return prefix_gradients


def right(a, out, query, pk, pv, keys, values, upstream, gain=None):
    if gain is None:
        gain = upstream @ pv.mT - (upstream * out).sum(-1, keepdim=True)
    of_keys = ((a * gain).mT @ query / math.sqrt(query.shape[-1])).sum(0)
    return of_keys, (a.mT @ upstream).sum(0)


def with_gain(gain):
    def change(a, out, query, pk, pv, keys, values, upstream):
        return right(a, out, query, pk, pv, keys, values, upstream, gain(a, out, pv, upstream))

    return gradients(change)


def on_both(change):
    return gradients(lambda *given: tuple(change(part, given[2]) for part in right(*given)))


def per_row(a, out, query, pk, pv, keys, values, upstream):
    gain = upstream @ pv.mT - (upstream * out).sum(-1, keepdim=True)
    return (a * gain).mT @ query / math.sqrt(query.shape[-1]), a.mT @ upstream


def last_token(a, out, query, pk, pv, keys, values, upstream):
    a, out, query, upstream = (part[:, :, -1:] for part in (a, out, query, upstream))
    return right(a, out, query, pk, pv, keys, values, upstream)


def values_of_output(a, out, *given):
    return right(a, out, *given)[0], (a.mT @ out).sum(0)


def values_without_the_gate(a, out, *given):
    return right(a, out, *given)[0], ((a / a.sum(-1, True)).mT @ given[-1]).sum(0)


def keys_of_keys(a, out, query, pk, pv, keys, values, upstream):
    gain = a * (upstream @ pv.mT - (upstream * out).sum(-1, keepdim=True))
    of_keys = (gain.sum(-2)[..., None] * pk).sum(0) / math.sqrt(query.shape[-1])
    return of_keys, (a.mT @ upstream).sum(0)


def two_faults(a, out, query, pk, pv, keys, values, upstream):
    return ((a * (upstream @ pv.mT)).mT @ query).sum(0), (a.mT @ upstream).sum(0)


def keys_in_place_of_values(a, out, query, pk, pv, keys, values, upstream):
    gain = upstream @ pk.mT - (upstream * out).sum(-1, keepdim=True)
    return right(a, out, query, pk, pv, keys, values, upstream, gain)


def of_words_alone(a, out, *given):
    scores, v = parts(*given)
    P = given[1].shape[1]
    return right(a, scores.softmax(-1)[..., P:] @ v[:, :, P:], *given)


def causal(*given):
    scores, v = parts(*given)
    P = given[1].shape[1]
    a = scores.masked_fill(torch.ones(scores.shape[2:]).triu(P + 1).bool(), -math.inf).softmax(-1)
    return right(a[..., :P], a @ v, *given)


def own_softmax(query, pk, pv, keys, values, upstream):
    """As if there were no words."""
    a = (query @ pk.mT / math.sqrt(query.shape[-1])).softmax(-1)
    return right(a, a @ pv, query, pk, pv, keys, values, upstream)


def unscaled(query, pk, pv, keys, values, upstream):
    D = query.shape[-1]
    scores, v = parts(query, pk, pv, keys, values, upstream)
    a = (scores * math.sqrt(D)).softmax(-1)
    return right(a[..., : pk.shape[1]], a @ v, query, pk, pv, keys, values, upstream)


def in_place(query, pk, pv, keys, values, upstream):
    answer = prefix.prefix_gradients(query, pk, pv, keys, values, upstream)
    upstream.zero_()
    return answer


def of_autograd_where_it_is_off(query, pk, pv, keys, values, upstream):
    scores, v = parts(query, pk, pv, keys, values, upstream)
    return torch.autograd.grad((scores.softmax(-1) @ v * upstream).sum(), (pk, pv))


def no_answer(*given):
    prefix.prefix_gradients(*given)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (gradients(per_row), "axis for the batch"),
        (gradients(lambda *given: right(*given)[::-1]), "changed places"),
        (
            gradients(lambda *g: (right(*g)[0] * math.sqrt(g[2].shape[-1]), right(*g)[1])),
            "1 / sqrt(D) of the scores is missing",
        ),
        (
            gradients(lambda *g: (right(*g)[0], right(*g)[1] / math.sqrt(g[2].shape[-1]))),
            "dL/dP_v is divided by sqrt(D)",
        ),
        (with_gain(lambda a, out, pv, g: g @ pv.mT), "not g . v"),
        (with_gain(lambda a, out, pv, g: (g * out).sum(-1, True) - g @ pv.mT), "sign"),
        (with_gain(lambda a, out, pv, g: (g @ pv.mT) * (1 - a)), "a (1 - a)"),
        (
            with_gain(lambda a, out, pv, g: g @ pv.mT - (g * (a @ pv)).sum(-1, True)),
            "made of words",
        ),
        (on_both(lambda part, query: part / len(query)), "rows of the batch are averaged"),
        (on_both(lambda part, query: part / query.shape[2]), "tokens are averaged"),
        (gradients(last_token), "only the last token"),
        (gradients(values_of_output), "in dL/dP_v stands the output"),
        (gradients(values_without_the_gate), "lambda is lost"),
        (gradients(keys_of_keys), "stands the key where the query"),
        (gradients(two_faults), "in dL/dP_k two things are missing"),
        (gradients(keys_in_place_of_values), "g meets the keys"),
        (gradients(of_words_alone), "words alone"),
        (
            with_gain(lambda a, out, pv, g: (1 - a) * (g @ pv.mT - (g * out).sum(-1, True))),
            "1 - a is one too many",
        ),
        (causal, "no query is hidden"),
        (own_softmax, "softmax runs over the prefix alone"),
        (unscaled, "before the softmax"),
        (in_place, "upstream"),
        (of_autograd_where_it_is_off, "asked of autograd"),
        (no_answer, "return"),
    ],
)
def test_wrong_gradients_are_told_their_mistake(wrong, words):
    refused(checks.prefix_gradients, wrong, words)


# -- prefix_numbers --------------------------------------------------------------------------------

RIGHT = {"trained": 25_750_016, "stored": 491_520, "prompt": 10_240}


def test_the_numbers_are_those_of_the_package():
    """The formula at a size that can be built: P C + C k + k + 2 (k + 1) L C and so on."""
    P, C, k, L = 10, 16, 8, 3
    encoder = PrefixEncoder(P, 2 * L * C, C, k, 0.02)
    count = sum(p.numel() for p in encoder.parameters())
    assert count == P * C + C * k + k + (k + 1) * 2 * L * C
    assert encoder().numel() == 2 * P * L * C


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        {name: float(value) for name, value in RIGHT.items()},
        {name: torch.tensor(value) for name, value in RIGHT.items()},
        lambda: RIGHT | {"share": 0.02},
    ],
)
def test_right_numbers_pass(answer):
    checks.prefix_numbers(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RIGHT | {"trained": RIGHT["trained"] - 512 - 49152}, "have a bias"),
        (RIGHT | {"trained": RIGHT["trained"] - 512}, "first map has a bias"),
        (RIGHT | {"trained": RIGHT["trained"] - 49_152}, "second map has a bias"),
        (RIGHT | {"trained": 10_240 + 1024 * 512 + 512 * 49_152 + 2}, "is a vector"),
        (RIGHT | {"trained": RIGHT["trained"] - 24 * 1024}, "keys and values"),
        (RIGHT | {"trained": 1024 * 512 + 512 * 49_152}, "and both maps have a bias"),
        (RIGHT | {"trained": 10_240}, "P' alone"),
        (RIGHT | {"trained": RIGHT["trained"] - 10_240 + 5_120}, "as wide as the model"),
        (RIGHT | {"trained": RIGHT["trained"] + 23 * 10_240}, "one P' for all layers"),
        (RIGHT | {"trained": RIGHT["trained"] + 1024 * 512 + 512}, "come out of one MLP"),
        (RIGHT | {"trained": RIGHT["trained"] + 100}, "too large, by less than 5 %"),
        (RIGHT | {"stored": RIGHT["stored"] + 10_240}, "thrown away with the MLP"),
        (RIGHT | {"prompt": 10}, "each of C numbers"),
        (RIGHT | {"prompt": 5_120}, "as wide as the model"),
        (RIGHT | {"trained": RIGHT["trained"] - 10_240}, "P' itself is trained"),
        (RIGHT | {"trained": 10_240 + 1024 * 512 + 512 + 513 * 24 * 1024}, "a key and a value"),
        (
            RIGHT | {"trained": 10_240 + 24 * (1024 * 512 + 512 + 513 * 2048)},
            "one MLP for all layers",
        ),
        (RIGHT | {"trained": 10_240 + 1024 * 512 + 512 + 513 * 2048}, "rows of all L layers"),
        (RIGHT | {"trained": RIGHT["stored"]}, "that is what is stored"),
        (RIGHT | {"trained": RIGHT["trained"] + RIGHT["stored"]}, "no parameter beside it"),
        (RIGHT | {"stored": RIGHT["stored"] // 2}, "twice as many"),
        (RIGHT | {"stored": RIGHT["trained"]}, "thrown away"),
        (RIGHT | {"stored": 2 * 10_240}, "one layer"),
        (RIGHT | {"stored": 4 * RIGHT["stored"]}, "bytes"),
        (RIGHT | {"prompt": RIGHT["stored"]}, "at the input only"),
        (RIGHT | {"prompt": 2 * 10_240}, "no pair"),
        (RIGHT | {"prompt": 10_241}, "off by one"),
        (25_750_016, "should be a dict"),
        ({"trained": 25_750_016}, "has no stored"),
    ],
)
def test_wrong_numbers_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.prefix_numbers(answer)


# -- prefix_patients -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        prefix.PATIENTS,
        {who: f" {cause.upper()} " for who, cause in prefix.PATIENTS.items()},
        {who: f"({cause})" for who, cause in reversed(prefix.PATIENTS.items())},
        lambda: prefix.PATIENTS,
        {who: f'"{cause.title()}".' for who, cause in prefix.PATIENTS.items()},
    ],
)
def test_right_diagnoses_pass(answer):
    checks.prefix_patients(answer)


@pytest.mark.parametrize(("answer", "words"), diagnoses.wrong(prefix.PATIENTS, HINTS))
def test_a_wrong_diagnosis_is_told_what_speaks_against_it(answer, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.prefix_patients(answer)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (prefix.PATIENTS | {"A": "healthy", "B": "size"}, "lambda near 1 leaves nothing"),
        (prefix.PATIENTS | {"C": "detached", "E": "mask"}, "a detached prefix is read"),
        (prefix.PATIENTS | {"B": "base", "D": "healthy"}, "its base is the same"),
        (dict.fromkeys(prefix.PATIENTS, "healthy"), "lambda near 1 leaves nothing"),
        (list(prefix.PATIENTS.values()), "should be a dict"),
        ({cause: who for who, cause in prefix.PATIENTS.items()}, "has no A, B, C, D, E"),
        ({who: prefix.PATIENTS[who] for who in "ABCD"}, "has no E"),
        (prefix.PATIENTS | {"C": "the mask hides it"}, "should be one of"),
    ],
)
def test_wrong_answers_as_a_whole_are_told_what_to_do(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.prefix_patients(answer)


def test_every_wrong_diagnosis_has_its_hint():
    diagnoses.assert_complete(prefix.PATIENTS, HINTS, prefix.CAUSES)
    refused(checks.prefix_patients, prefix.PATIENTS | {"A": "flu"}, "should be one of")
    assert isinstance(PrefixEncoder(1, 2, 3, None, 0.1), nn.Module)
