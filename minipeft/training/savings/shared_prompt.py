"""An exact saving: what every row of a batch begins with is run once, not once per row.

In a causal model a token's states depend on what stands before it only. The k columns that a soft
prompt (and <bos>, and the words of a template) makes equal in all rows have therefore the same keys
and values in every row. They are computed at batch 1, and every row reads them as its past:

    once      k tokens, 1 row     ->  keys, values (1, H, k, D) in every layer, logits of the last
    then      T tokens, B rows    ->  logits (B, T, V), reading those keys and values

instead of k + T tokens in B rows, and k - 1 positions never meet the language head. Loss and
gradients are the same, up to the order of sums; the gradient of the shared tokens is the sum over
the rows either way. `minipeft.train` does this by itself where it holds:

    a causal language model, no padding, no dropout, no gradient checkpointing, at least two rows;
    one soft prompt and no other tuner at work; no labels on what is shared; on an accelerator,
    where two passes launch twice as many kernels as one, at least WORTH tokens spared
"""

from __future__ import annotations

import inspect
import re
import sys
from weakref import WeakSet

from torch import Tensor, nn

from minipeft.attaching.in_training import active
from minipeft.model.devices import batch_on_host, moved, on_host
from minipeft.model.kind import head_of
from minipeft.training.savings.cross_entropy import summed_cross_entropy, unread
from minipeft.training.savings.usual_loss import has_usual_loss
from tiny_transformer.models import Decoder

NOT_SHARED: WeakSet[nn.Module] = WeakSet()  # what their layers keep is no past to share
WORTH = 2048  # tokens spared on a GPU; benchmarks/results/shared_prompt_cuda.md
DROPOUT = r"(?!classifier|summary).*drop.*"  # in a config, but not of a task head


def shared_loss(model: nn.Module, batch: dict) -> Tensor | None:
    """The loss of a wrapped batch, what its rows share run once; None where that does not apply."""
    k = shared_columns(model, batch) if fits(model) else 0
    if not k:
        return None
    ids, labels = batch["input_ids"], batch["labels"]
    labels = labels[:, k:]  # (B, T): the last shared token answers for the first of them
    asked = on_host(labels)[:, 1:] != -100
    columns = moved(asked.any(dim=0).nonzero()[:, 0], ids.device)  # (m,) that answer for others
    both = run(model, ids[:1, :k], ids[:, k:], columns)
    if both is None:
        NOT_SHARED.add(model)
        return None
    first, logits = both  # (1, 1, V), (B, m, V)
    parts = [
        (first[0].expand(len(ids), -1), labels[:, 0]),  # (B, V), (B,)
        (logits.flatten(0, 1), labels[:, columns + 1].flatten()),  # (B m, V), (B m,)
    ]
    losses = []
    for part, targets in parts:
        part = part.float()
        losses.append(summed_cross_entropy(part, targets, unread(model, part)))
    return sum(losses) / (labels != -100).sum()


def fits(model: nn.Module) -> bool:
    """Is this a causal language model that does the same each time, with one soft prompt?"""
    acting, config = active(model), getattr(model, "config", None)
    if len(acting) != 1 or not acting[0].words or model.minipeft.routing or config is None:
        return False
    if model in NOT_SHARED:
        return False
    if not acting[0].anatomy.is_decoder() or head_of(model) != "language":
        return False
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False
    if not isinstance(model, Decoder):  # of tiny_transformer
        arguments = inspect.signature(model.forward).parameters
        if not {"past_key_values", "logits_to_keep"} <= set(arguments):
            return False
        if not has_usual_loss(model):
            return False
    return not model.training or not drops(model)


def drops(model: nn.Module) -> bool:
    """Does something in the model drop features in train mode? Task heads are left out."""
    config = getattr(model, "config", None) or nn.Module()
    rates = [vars(config)[k] for k in vars(config) if re.fullmatch(DROPOUT, k)]
    layers = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    return any([*rates, *layers])


def shared_columns(model: nn.Module, batch: dict) -> int:
    """How many columns can be run once: those before the first that differs; 0 for none."""
    if set(batch) - {"attention_mask"} != {"input_ids", "labels"}:
        return 0
    device, batch = batch["input_ids"].device, batch_on_host(batch)
    ids, labels, mask = batch["input_ids"], batch["labels"], batch.get("attention_mask")
    B, N = ids.shape
    window = getattr(model.config, "sliding_window", None)
    if B < 2 or labels.shape != ids.shape or (mask is not None and not bool(mask.all())):
        return 0
    if window is not None and N > window:  # the past would be cut
        return 0
    k = int((ids == ids[:1]).all(dim=0).long().cumprod(dim=0).sum())
    k = min(k, N - 1)
    if not pays(device.type, (B - 1) * k):
        return 0
    tuner = active(model)[0]
    if not tuner.words_in(ids[:, :k]) or tuner.words_in(ids[:, k:]):
        return 0
    return 0 if bool((labels[:, 1:k] != -100).any()) else k


def pays(device: str, spared: int) -> bool:
    """Are so many tokens, spared on this kind of device, worth a second pass?"""
    return device == "cpu" or spared >= WORTH


def keeps_all(cache, tokens: int) -> bool:
    """Has every layer of a cache of transformers the keys and values of so many tokens?"""
    kinds = sys.modules["transformers.cache_utils"]
    if type(cache) is not kinds.DynamicCache:
        return False
    plain = (kinds.DynamicLayer, kinds.DynamicSlidingWindowLayer)
    return all(
        type(layer) in plain and tokens <= getattr(layer, "sliding_window", tokens)
        for layer in cache.layers
    )


def run(
    model: nn.Module, front: Tensor, rest: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Ids (1, k), (B, T) -> logits of the last shared token (1, 1, V), of some of the rest.

    columns: m of the T; their logits are (B, m, V).  None where layers keep something else than
    keys and values of every token, such as the state of a recurrence.
    """
    B = len(rest)
    if isinstance(model, Decoder):
        cache: list = []
        first = model.head(model.run(front, cache=cache)[:, -1:])
        for layer in cache:
            for pair in layer.values():
                for name in pair:
                    pair[name] = pair[name].expand(B, -1, -1, -1)  # (B, H, k, D)
        return first, model.head(model.run(rest, cache=cache)[:, columns])
    out = model(input_ids=front, use_cache=True, logits_to_keep=1)
    if not keeps_all(out.past_key_values, front.shape[1] + rest.shape[1]):
        return None
    for layer in out.past_key_values.layers:
        layer.keys = layer.keys.expand(B, -1, -1, -1)  # (B, H, k, D)
        layer.values = layer.values.expand(B, -1, -1, -1)
    past = out.past_key_values
    return out.logits, model(input_ids=rest, past_key_values=past, logits_to_keep=columns).logits
