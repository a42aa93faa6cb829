"""Lessons 10, 10b, 18: wrong solutions that were new to their checks, and unusual right ones."""

import copy

import torch
from exercises.changing import changed
from torch.nn import functional as F

from minipeft.analysis.spectra import directions
from minipeft.course.lora import Merge
from minipeft.course.lora import lora_gradients as right_gradients
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.vera import SharedMatrices, VeRA, VeRAPatch

# -- the patch -------------------------------------------------------------------------------------


def detour(patch, x):
    return patch.scale * (patch.dropout(x.to(patch.A.dtype)) @ patch.A.T @ patch.B.T)


def dropped_twice(self, x, y):
    return (y + detour(self, self.dropout(x.to(self.A.dtype)))).to(y.dtype)


def rank_twice(self, x, y):
    return (y + detour(self, x) / len(self.A)).to(y.dtype)


def a_number_for_the_scale(self, x, y):
    return (y + 2 * detour(self, x) / self.scale).to(y.dtype)


def only_in_training(self, x, y):
    return (y + detour(self, x)).to(y.dtype) if self.training else y


def only_in_evaluation(self, x, y):
    return y if self.training else (y + detour(self, x)).to(y.dtype)


def y_first(self, y, x):
    return (y + detour(self, x)).to(y.dtype)


def added_with_alpha(self, x, y):
    low = F.linear(F.dropout(x.to(self.A), self.dropout.p, self.training), self.A)
    return torch.add(y, F.linear(low, self.B), alpha=self.scale).type(y.dtype)


def through_delta(self, x, y):
    return (y + F.linear(self.dropout(x.to(self.A.dtype)), self.delta())).to(y.dtype)


def by_tensordot(self, x, y):
    low = torch.tensordot(self.dropout(x.to(self.A.dtype)), self.A, ([-1], [1]))
    return (y + torch.tensordot(low, self.scale * self.B, ([-1], [1]))).to(y.dtype)


def outer_products(self):
    return sum(self.scale * torch.outer(b, a) for b, a in zip(self.B.T, self.A, strict=True))


# -- its gradients ---------------------------------------------------------------------------------


def flat(tensor):
    return tensor.reshape(-1, tensor.shape[-1])


def divided_by_the_rank(x, A, B, scale, upstream):
    return tuple(gradient / len(A) for gradient in right_gradients(x, A, B, scale, upstream))


def x_cut_off(x, A, B, scale, upstream):
    of_A, _ = right_gradients(x, A, B, scale, upstream)
    return of_A, scale * flat(upstream).T @ flat(x)[:, : len(A)]


def einsum_gradients(x, A, B, scale, upstream):
    return (
        scale * torch.einsum("nto,or,nti->ri", upstream, B, x),
        scale * torch.einsum("nto,nti,ri->or", upstream, x, A),
    )


def whole_matrix_first(x, A, B, scale, upstream):
    of_W = torch.einsum("nto,nti->oi", upstream, x)
    return [scale * B.T @ of_W, scale * of_W @ A.T]


def summed_rows(x, A, B, scale, upstream):
    return (scale * B.T @ upstream.mT @ x).sum(0), (scale * upstream.mT @ (x @ A.T)).sum(0)


def token_by_token(x, A, B, scale, upstream):
    pairs = list(zip(flat(x), flat(upstream), strict=True))
    return (
        sum(torch.outer(scale * B.T @ g, one) for one, g in pairs),
        sum(torch.outer(scale * g, A @ one) for one, g in pairs),
    )


# -- merging ---------------------------------------------------------------------------------------


def added(merge, amount):
    if merge.original is None:
        merge.original = merge.linear.weight.detach().clone()
        amount(merge)


@torch.no_grad()
def put_back(self):
    if self.original is not None:
        self.linear.weight.copy_(self.original)
        self.original = None


@torch.no_grad()
def kept_in_the_class(self):
    if self.original is None:
        type(self).W0, self.original = self.linear.weight.detach().clone(), True
        self.linear.weight.add_(self.scale * self.B @ self.A)


@torch.no_grad()
def taken_from_the_class(self):
    if self.original is not None:
        self.linear.weight.copy_(type(self).W0)
        self.original = None


@torch.no_grad()
def freezing(self):
    added(self, lambda m: m.linear.weight.add_(m.scale * m.B @ m.A).requires_grad_(False))


def where_autograd_looks(self):
    added(self, lambda m: m.linear.weight.add_(m.scale * m.B @ m.A))


@torch.no_grad()
def by_addmm(self):
    if self.original is None:
        self.original = copy.deepcopy(self.linear.weight)
        self.linear.weight[:] = torch.addmm(self.original, self.B, self.A, alpha=self.scale)


@torch.no_grad()
def by_state_dict(self):
    if self.original is None:
        self.original = self.linear.weight.clone()
        merged = self.original + self.scale * torch.einsum("or,ri->oi", self.B, self.A)
        self.linear.load_state_dict({**self.linear.state_dict(), "weight": merged})


def one_direction_after_the_other(self):
    def amount(merge):
        for a, b in zip(merge.A, merge.B.T, strict=True):
            merge.linear.weight.data.addr_(b, a, alpha=merge.scale)

    added(self, amount)


# -- two subspaces ---------------------------------------------------------------------------------


def comparing(compute):
    """phi of U (n, i) and V (n, j)."""

    def similarity(one, other, i, j, side="in"):
        return compute(directions(one, i, side), directions(other, j, side))

    return similarity


def phi(u, v):
    return (u.T @ v).square().sum().item() / min(u.shape[1], v.shape[1])


def i_last(one, other, j, i, side="in"):
    return phi(directions(one, i, side), directions(other, j, side))


def one_too_many(one, other, i, j, side="in"):
    u, v = directions(one, i + 1, side), directions(other, j + 1, side)
    return (u.T @ v).square().sum().item() / min(i, j)


def no_directions(one, other, i, j, side="in"):
    u, v = (one.T, other.T) if side == "in" else (one, other)
    return (u.T @ v).square().sum().item() / min(i, j)


def by_its_svd(one, other, i, j, side="in"):
    u, v = (
        (torch.linalg.svd(m)[2].mT if side == "in" else torch.linalg.svd(m)[0])[:, :count]
        for m, count in ((one, i), (other, j))
    )
    return phi(u, v)


# -- VeRA ------------------------------------------------------------------------------------------


def low(patch, x):
    return patch.d * F.linear(patch.dropout(x.to(patch.d.dtype)), patch.A)


def last_parts(self, x, y):
    A = self.matrices.A[:, -self.in_features :].to(self.d)
    B = self.matrices.B[-self.out_features :].to(self.d)
    x = self.dropout(x.to(self.d.dtype))
    return (y + self.b * F.linear(self.d * F.linear(x, A), B)).to(y.dtype)


def one_and_b(self, x, y):
    return (y + (1 + self.b) * F.linear(low(self, x), self.B)).to(y.dtype)


def by_the_rank(self, x, y):
    return (y + self.b * F.linear(low(self, x), self.B) / len(self.d)).to(y.dtype)


def rounded_matrices(self, x, y):
    z = F.linear(self.dropout(x), self.A.to(x.dtype))
    z = F.linear(self.d.to(x.dtype) * z, self.B.to(x.dtype))
    return (y + self.b.to(x.dtype) * z).to(y.dtype)


def vera_y_first(self, y, x):
    return (y + self.b * F.linear(low(self, x), self.B)).to(y.dtype)


def diagonal_delta(self):
    return torch.diag(self.b) @ self.B @ torch.diag(self.d) @ self.A


def outer_delta(self):
    return (self.B * torch.outer(self.b, self.d)) @ self.A


def einsum_forward(self, x, y):
    x = self.dropout(x.to(self.d.dtype))
    return (y + torch.einsum("o,or,r,ri,nti->nto", self.b, self.B, self.d, self.A, x)).to(y.dtype)


def cut_by_hand(self, x, y):
    A, B = self.matrices.A.to(self.d), self.matrices.B.to(self.d)
    x = F.dropout(x.to(self.d), self.dropout.p, self.training)
    z = x @ A[:, : self.in_features].T * self.d @ B[: self.out_features].T
    return torch.add(y, z * self.b).to(y.dtype)


def installing(sizes):
    """As large as `sizes` of the places says."""

    def install(self, tuner):
        places = tuner.find(self.targets, self.layers)
        shared = SharedMatrices(*sizes(places), self.rank, self.seed, self.store_matrices)
        for place in places:
            each = place.in_features, place.out_features
            tuner.add(place, VeRAPatch(*each, shared, self.initial, self.dropout))

    return changed(VeRA, install=install)


def of_the_last(places):
    return places[-1].in_features, places[-1].out_features


def of_the_largest_map(places):
    largest = max(places, key=lambda place: place.in_features * place.out_features)
    return largest.in_features, largest.out_features


def sorted_sizes(places):
    return tuple(sorted(getattr(p, f"{way}_features") for p in places)[-1] for way in ("in", "out"))


def as_a_tensor(places):
    return torch.tensor([(p.in_features, p.out_features) for p in places]).amax(0).tolist()


WRONG = [
    ("lora", changed(LoRAPatch, forward=dropped_twice), "dropout falls on x twice"),
    ("lora", changed(LoRAPatch, forward=rank_twice), "divided by the rank once more"),
    ("lora", changed(LoRAPatch, forward=a_number_for_the_scale), "is a number written in its"),
    ("lora", changed(LoRAPatch, forward=only_in_evaluation), "is missing: forward gives y back as "
     "it came (only in training mode)"),
    ("lora", changed(LoRAPatch, forward=only_in_training), "is missing: forward gives y back as it "
     "came (only in evaluation mode)"),
    ("lora", changed(LoRAPatch, forward=y_first), "in the order y, x, it should be x, y"),
    ("lora_gradients", divided_by_the_rank, "the gradients are divided by the rank"),
    ("lora_gradients", x_cut_off, "in dL/dB x stands cut off where A x belongs"),
    (
        "lora_merge",
        changed(Merge, merge=kept_in_the_class, unmerge=taken_from_the_class),
        "two maps merged at the same time do not both get their W0 back",
    ),
    (
        "lora_merge",
        changed(Merge, merge=freezing, unmerge=put_back),
        "whether the weight requires grad is wrong: it should be True and is False",
    ),
    (
        "lora_merge",
        changed(Merge, merge=where_autograd_looks, unmerge=put_back),
        "or under torch.no_grad() where it is the one to change",
    ),
    ("similarity", comparing(lambda u, v: (u.T @ v).trace().item() / min(u.shape[1], v.shape[1])),
     "only the products on the diagonal are added"),
    ("similarity", comparing(lambda u, v: 100 * phi(u, v)), "a share, not per cent"),
    ("similarity", comparing(lambda u, v: 1 - phi(u, v)), "1 minus what it should be"),
    ("similarity", one_too_many, "one direction too many is taken of each"),
    ("similarity", no_directions, "take their strongest directions first"),
    ("similarity", i_last, "in the order one, other, j, i, side"),
    ("vera_patch", changed(VeRAPatch, forward=last_parts), "the last columns of A or rows of B"),
    ("vera_patch", changed(VeRAPatch, forward=one_and_b), "1 is added to b"),
    ("vera_patch", changed(VeRAPatch, forward=by_the_rank), "the detour is divided by the rank"),
    ("vera_patch", changed(VeRAPatch, forward=rounded_matrices), "A and B are rounded to the dtyp"),
    ("vera_patch", changed(VeRAPatch, forward=vera_y_first), "in the order y, x"),
    ("vera", installing(of_the_last), "A has 32 columns and B 8 rows: the largest number of inp"),
    ("vera", installing(of_the_largest_map), "the largest of outputs 32, maybe of two maps"),
]  # fmt: skip

RIGHT = [
    *(("lora", changed(LoRAPatch, forward=f)) for f in (
        added_with_alpha, through_delta, by_tensordot,
    )),
    ("lora", changed(LoRAPatch, delta=outer_products)),
    *(("lora_gradients", f) for f in (
        einsum_gradients, whole_matrix_first, summed_rows, token_by_token,
    )),
    *(("lora_merge", changed(Merge, merge=f, unmerge=put_back)) for f in (
        by_addmm, by_state_dict, one_direction_after_the_other,
    )),
    ("similarity", comparing(lambda u, v: ((u @ u.T) * (v @ v.T)).sum() / min(len(u.T), len(v.T)))),
    ("similarity", comparing(
        lambda u, v: torch.linalg.svdvals(u.T @ v).square().sum() / min(len(u.T), len(v.T))
    )),
    ("similarity", comparing(
        lambda u, v: sum((a @ b).item() ** 2 for a in u.T for b in v.T) / min(len(u.T), len(v.T))
    )),
    ("similarity", by_its_svd),
    *(("vera_patch", changed(VeRAPatch, delta=f)) for f in (diagonal_delta, outer_delta)),
    *(("vera_patch", changed(VeRAPatch, forward=f)) for f in (einsum_forward, cut_by_hand)),
    *(("vera", installing(f)) for f in (sorted_sizes, as_a_tensor)),
]  # fmt: skip
