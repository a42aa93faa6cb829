"""Lessons 11 to 16: wrong solutions that were new to their checks, and unusual right ones."""

import math

import torch
from exercises.changing import changed
from torch.nn import functional as F

from minipeft.analysis.examinations.labels import asked_for as right_labels
from minipeft.course.pareto import pareto_front as right_front
from minipeft.course.transfer import training_bytes as right_bytes
from minipeft.methods.ia3 import OutputScale
from minipeft.methods.parts.budget import update_averages as right_averages
from minipeft.methods.parts.quantization import quantize_blocks as right_blocks
from minipeft.methods.unipelt import Gate

# -- the gate --------------------------------------------------------------------------------------


def gate(mean, sigmoid=torch.sigmoid):
    """Of the sigmoid of each token (N, T, 1), and of the mask where it fits (N, T, 1)."""

    def forward(self, x):
        if self.mode == "alone":
            g = sigmoid(self.bias).view(1, 1, 1)
        else:
            g = sigmoid(x.to(self.weight.dtype) @ self.weight + self.bias)[..., None]
            if self.mode == "mean":
                fits = self.mask is not None and self.mask.shape == x.shape[:2]
                counts = self.mask.to(g)[..., None] if fits else torch.ones_like(g)
                g = mean(self, x, g, counts)
        self.value = g.detach()
        return g

    return changed(Gate, forward=forward)


def share(g, counts):
    return (g * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)


def mask_in_any_shape(self, x, g, counts):
    if self.mask is not None and self.mask.numel() == counts.numel():
        counts = self.mask.reshape(counts.shape).to(g)
    return share(g, counts)


def padding_where_nothing_is(self, x, g, counts):
    return torch.where(counts.any(1, True), share(g, counts), g.mean(1, keepdim=True))


def x_set_to_0(self, x, g, counts):
    x = (x * counts).to(self.weight.dtype)
    g = torch.sigmoid(x @ self.weight + self.bias)[..., None]
    return g.sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)


def first_tokens(self, x, g, counts):
    n = counts.sum(1, keepdim=True)
    return share(g, (torch.arange(g.shape[1])[:, None] < n).to(g))


def text_by_text(self, x, g, counts):
    rows = [one[keep[:, 0] > 0] for one, keep in zip(g, counts, strict=True)]
    return torch.stack(
        [row.mean(0, True) if len(row) else one[:1] * 0 for row, one in zip(rows, g, strict=True)]
    )


def by_weights(self, x, g, counts):
    return torch.einsum("nta,nta->na", g, F.normalize(counts, p=1, dim=1))[:, None]


def by_matmul(self, x, g, counts):
    n = counts.sum(1, keepdim=True)
    return counts.mT @ g / torch.where(n > 0, n, torch.ones_like(n))


def by_the_tanh(z):
    return (1 + torch.tanh(z / 2)) / 2


# -- (IA)3 and AdaLoRA -----------------------------------------------------------------------------


def rows_of_the_weight(self, weight, bias):
    rows = torch.stack([factor * row for factor, row in zip(self.l, weight, strict=True)])
    return rows, None if bias is None else torch.stack(
        [a * b for a, b in zip(self.l, bias, strict=True)]
    )


def diagonal(self, weight, bias):
    factors = torch.diag(self.l)
    return factors @ weight, bias if bias is None else factors @ bias


def by_einsum(self, x, y):
    wide = torch.promote_types(y.dtype, self.l.dtype)
    return torch.einsum("...o,o->...o", y.to(wide), self.l.to(wide)).to(y.dtype)


def by_mul(self, x, y):
    return torch.mul(y, self.l).type_as(y)


def averaging(compute):
    def update_averages(w, gradient, mean, uncertainty, b1, b2):
        return compute((w * gradient).abs(), mean, uncertainty, b1, b2)

    return update_averages


def corrected(w, gradient, mean, uncertainty, b1, b2):
    mean, uncertainty = right_averages(w, gradient, mean, uncertainty, b1, b2)
    return mean / (1 - b1), uncertainty / (1 - b2)


def old_mean_back(w, gradient, mean, uncertainty, b1, b2):
    return mean, right_averages(w, gradient, mean, uncertainty, b1, b2)[1]


def by_lerp(I, mean, uncertainty, b1, b2):  # noqa: E741
    mean = torch.lerp(I, mean, b1)
    return mean, torch.lerp((I - mean).abs(), uncertainty, b2)


def by_the_step(I, mean, uncertainty, b1, b2):  # noqa: E741
    gap = I - mean
    return mean + (1 - b1) * gap, uncertainty + (1 - b2) * (b1 * gap.abs() - uncertainty)


def on_copies(I, mean, uncertainty, b1, b2):  # noqa: E741
    mean = mean.clone().mul_(b1).add_(I, alpha=1 - b1)
    return [mean, uncertainty.clone().mul_(b2).add_((I - mean).abs(), alpha=1 - b2)]


def by_stacking(I, mean, uncertainty, b1, b2):  # noqa: E741
    mean = sum((b1 * mean, (1 - b1) * I))
    gap = torch.maximum(I - mean, mean - I)
    return torch.stack([mean, b2 * uncertainty + (1 - b2) * gap]).unbind()


# -- bytes and blocks ------------------------------------------------------------------------------


def counting(**parts):
    def training_bytes(model):
        right = right_bytes(model)
        return {name: parts.get(name, lambda m, right: right)(model, right[name]) for name in right}

    return training_bytes


def of_every(function):
    return counting(**dict.fromkeys(("weights", "gradients", "adam"), function))


def by_values(model, right):
    kinds = {(p.shape, p.sum().item()): p.nbytes for p in model.parameters()}
    return sum(kinds.values())


def held(model, right):
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def of_children(model, right):
    return sum(p.nbytes for part in model.children() for p in part.parameters(recurse=False))


def total(model):
    return sum(right_bytes(model).values())


def by_itemsize(model):
    sizes = [(p.requires_grad, math.prod(p.shape) * p.dtype.itemsize) for p in model.parameters()]
    trained = sum(size for on, size in sizes if on)
    return {"adam": 2 * trained, "gradients": trained, "weights": sum(size for _, size in sizes)}


def module_by_module(model):
    every = {p for module in model.modules() for p in module.parameters(recurse=False)}
    trained = sum(p.nbytes for p in every if p.requires_grad)
    return {"weights": sum(p.nbytes for p in every), "gradients": trained, "adam": trained * 2}


def by_identity(model):
    every = {id(p): p for _, p in model.named_parameters(remove_duplicate=False)}.values()
    on = [p.element_size() * p.numel() for p in every if p.requires_grad]
    frozen = [p.element_size() * p.numel() for p in every if not p.requires_grad]
    return {"weights": sum(on) + sum(frozen), "gradients": sum(on), "adam": sum(on + on)}


def in_blocks(values, block):
    return F.pad(values, (0, -len(values) % block)).view(-1, block)


def choosing(divided):
    """The level nearest to what `divided` makes of blocks and their scales."""

    def quantize_blocks(values, table, block):
        padded = in_blocks(values, block)
        absmax = padded.abs().amax(1)
        scaled = divided(padded, absmax[:, None])
        near = (scaled[..., None] - table).abs().argmin(-1)
        return near.flatten()[: len(values)].to(torch.uint8), absmax

    return quantize_blocks


def never_0(values, table, block):
    numbers, absmax = right_blocks(values, table, block)
    return numbers, absmax.clamp(min=1e-12)


def in_half(values, table, block):
    return right_blocks(values.half(), table.half(), block)[0], right_blocks(values, table, block)[
        1
    ]


def of_seven(values, table, block):
    padded = in_blocks(values, block)
    near = (padded / padded.abs().amax(1).clamp(min=1e-30)[:, None] * 7).round() + 7
    near = near.clamp(0, len(table) - 1).flatten()[: len(values)]
    return near.to(torch.uint8), padded.abs().amax(1)


def the_levels(values, table, block):
    numbers, absmax = right_blocks(values, table, block)
    return table[numbers.long()], absmax


def across(values, table, block):
    padded = F.pad(values, (0, -len(values) % block)).view(block, -1)
    absmax = padded.abs().amax(0)
    near = (padded / absmax.where(absmax > 0, 1))[..., None].sub(table).abs().argmin(-1)
    return near.flatten()[: len(values)].to(torch.uint8), absmax


def filled_with_ones(values, table, block):
    whole = torch.cat([values, torch.ones(-len(values) % block, dtype=values.dtype)])
    numbers, absmax = right_blocks(whole, table, block)
    return numbers[: len(values)], absmax


def weight_by_weight(values, table, block):
    scales = [part.abs().max() for part in values.split(block)]
    each = [scales[i // block] for i in range(len(values))]
    scaled = [w / c if c > 0 else w for w, c in zip(values, each, strict=True)]
    numbers = [int((table - w).abs().argmin()) for w in scaled]
    return torch.tensor(numbers, dtype=torch.uint8), torch.stack(scales)


def by_middles(values, table, block):
    padded = in_blocks(values, block)
    absmax = padded.abs().amax(1)
    scaled = torch.nan_to_num(padded / absmax[:, None])
    above = (scaled[..., None] > (table[1:] + table[:-1]) / 2).sum(-1)
    return above.flatten()[: len(values)].byte(), absmax


def by_cdist(values, table, block):
    absmax = torch.stack([part.abs().max() for part in values.split(block)])
    each = absmax.repeat_interleave(block)[: len(values)]
    scaled = values / each.where(each > 0, 1)
    return [torch.cdist(scaled[:, None], table[:, None], p=1).argmin(1).to(torch.uint8), absmax]


# -- labels, the front, the table ------------------------------------------------------------------


def shifting(inside):
    """What stands in the place of `asked[:, 0] = False`."""

    def asked_for(labels, shifted):
        return inside(labels) if shifted and labels.dim() == 2 else labels != -100

    return asked_for


def both_ends(labels):
    return F.pad((labels != -100)[:, 1:-1], (1, 1))[:, : labels.shape[1]]


def first_that_asks(labels):
    asked = labels != -100
    return asked & (asked.cumsum(1) > 1)


def above_0(labels, shifted):
    return right_labels(labels, shifted) & (labels > 0)


def classes_too(labels, shifted):
    asked = labels != -100
    if shifted:
        asked[..., 0] = False
    return asked


def by_places(labels, shifted):
    behind = torch.arange(labels.shape[-1]) > 0
    return labels.ne(-100) & (behind | (not shifted) | (labels.dim() < 2))


def by_lists(labels, shifted):
    rows = labels.tolist() if labels.dim() == 2 else [[label] for label in labels.tolist()]
    skip = shifted and labels.dim() == 2
    asked = [[label != -100 and not (skip and t == 0) for t, label in enumerate(r)] for r in rows]
    return torch.tensor(asked, dtype=torch.bool).view(labels.shape)


def nearly(costs, scores):
    one, other = costs[:, None], scores[:, None]
    as_good = (one <= costs + 1e-3) & (other >= scores - 1e-3)
    return ~(as_good & ((one < costs - 1e-3) | (other > scores + 1e-3))).any(0)


def in_whole_numbers(costs, scores):
    return right_front(costs.round(), scores.round())


def point_by_point(costs, scores):
    points = list(zip(costs.tolist(), scores.tolist(), strict=True))
    beaten = [any(c <= a and s >= b and (c, s) != (a, b) for c, s in points) for a, b in points]
    return torch.tensor(beaten, dtype=torch.bool).logical_not()


def not_equal(costs, scores):
    as_good = (costs[:, None] <= costs) & (scores[:, None] >= scores)
    return ~(as_good & ~as_good.T).any(0)


def stacked_aims(costs, scores):
    aims = torch.stack([-costs, scores], 1)
    return ~((aims[None] >= aims[:, None]).all(-1) & (aims[None] > aims[:, None]).any(-1)).any(1)


def cost_by_cost(costs, scores):
    on, best = torch.zeros(len(costs), dtype=torch.bool), -math.inf
    for cost in sorted(set(costs.tolist())):
        highest = scores[costs == cost].max().item()
        if highest > best:
            on, best = on | ((costs == cost) & (scores == highest)), highest
    return on


def by_einops(keys, values):
    return torch.einsum("lshpd->plshd", torch.stack([keys, values], 1)).reshape(keys.shape[2], -1)


def layer_by_layer(keys, values):
    pairs = zip(keys, values, strict=True)
    return torch.cat([part.transpose(0, 1).flatten(1) for pair in pairs for part in pair], -1)


def moved(keys, values):
    return torch.stack([keys.movedim(2, 0), values.movedim(2, 0)], 2).flatten(1)


def into_an_empty_one(keys, values):
    L, H, P, D = keys.shape
    table = keys.new_zeros(P, L, 2, H, D)
    for side, part in enumerate((keys, values)):
        table[:, :, side] = part.permute(2, 0, 1, 3)
    return table.flatten(1)


HELD_ABOVE = "something is added to their scale, or it is held above a number"

WRONG = [
    ("gate", gate(mask_in_any_shape), "a mask that is not (N, T) belongs to other tokens"),
    ("gate", gate(padding_where_nothing_is), "a text without a token gets the mean over its pad"),
    ("gate", gate(x_set_to_0), "the x of padding is set to 0, whose sigmoid is not 0"),
    ("gate", gate(first_tokens), "the first tokens are averaged, as many as the mask has ones"),
    (
        "gate",
        gate(lambda self, x, g, counts: share(g, counts), lambda z: 1 / (1 + torch.exp(-z))),
        "contains NaN or infinity: does an exponential overflow",
    ),
    ("update_averages", corrected, "the averages are divided by 1 - b1 and 1 - b2"),
    ("update_averages", old_mean_back, "the mean given back is the one that came in"),
    ("training_bytes", counting(weights=by_values), "parameters with the same values count once"),
    ("training_bytes", counting(weights=held), "state_dict() is counted"),
    ("training_bytes", counting(weights=of_children), "only what the direct children hold is"),
    ("training_bytes", of_every(lambda model, right: 8 * right), "8 times too many: bits?"),
    ("training_bytes", of_every(lambda model, right: right // 2**20), "not MiB, which are 0 here"),
    ("training_bytes", counting(adam=lambda model, right: right * 3 // 2), "half as many again"),
    ("training_bytes", counting(gradients=lambda model, right: 0), "no bytes of gradients are"),
    ("training_bytes", counting(gradients=lambda model, right: 2 * right), "twice too many"),
    ("training_bytes", total, "a dict of three numbers, not an int"),
    ("quantize_blocks", choosing(lambda x, c: x / (c + 1e-8)), HELD_ABOVE),
    ("quantize_blocks", choosing(lambda x, c: x / c.clamp(min=1e-3)), HELD_ABOVE),
    ("quantize_blocks", never_0, "the scale of a block of zeros is a small number: it is 0"),
    ("quantize_blocks", in_half, "weights near the middle between two levels get the wrong one"),
    (
        "quantize_blocks",
        choosing(lambda x, c: x / c.max().where(c.max() > 0, 1)),
        "all weights are divided by the largest of all",
    ),
    ("quantize_blocks", of_seven, "the levels are taken for even steps"),
    ("quantize_blocks", the_levels, "those are the levels themselves"),
    ("quantize_blocks", across, "the blocks run across"),
    ("quantize_blocks", filled_with_ones, "the last block is filled up with ones"),
    ("asked_for", shifting(lambda labels: labels.roll(-1, 1) != -100), "the answers are shifted"),
    ("asked_for", shifting(both_ends), "both ends of a row are left out"),
    ("asked_for", shifting(first_that_asks), "the first label that asks for something is left"),
    ("asked_for", above_0, "label 0 is taken for nothing asked"),
    ("asked_for", classes_too, "labels (B,) are shifted, too"),
    ("pareto_front", nearly, "what is nearly as good counts as equal"),
    ("pareto_front", in_whole_numbers, "costs and scores are rounded"),
]

RIGHT = [
    *(("gate", gate(f)) for f in (text_by_text, by_weights, by_matmul)),
    ("gate", gate(lambda self, x, g, counts: share(g, counts), by_the_tanh)),
    *(("output_scale", changed(OutputScale, fold=f)) for f in (rows_of_the_weight, diagonal)),
    *(("output_scale", changed(OutputScale, forward=f)) for f in (by_einsum, by_mul)),
    *(("update_averages", averaging(f)) for f in (by_lerp, by_the_step, on_copies, by_stacking)),
    *(("training_bytes", f) for f in (by_itemsize, module_by_module, by_identity)),
    *(("quantize_blocks", f) for f in (weight_by_weight, by_middles, by_cdist)),
    ("quantize_blocks", choosing(lambda x, c: x / c.where(c > 0, math.inf))),
    *(("asked_for", f) for f in (by_places, by_lists)),
    ("asked_for", shifting(lambda labels: F.pad(labels[:, 1:], (1, 0), value=-100) != -100)),
    *(("pareto_front", f) for f in (point_by_point, not_equal, stacked_aims, cost_by_cost)),
    *(("pack_prefix", f) for f in (by_einops, layer_by_layer, moved, into_an_empty_one)),
]
