"""Mutants that a check accepts, each read by a person: why it is no wrong solution.

The keys are those of `minipeft.checks.framework.mutants`. A mutant that is accepted and not listed
fails the tests; so does one that is listed and does not exist any more. Whether those listed are
still accepted takes longer: `python tests/equivalent_mutants.py` tells.
"""

ORDER = "the same value, written in another order"
WHOLE = "whole numbers have no gradient"
TRUTH = "True and False have no gradient"
ONE_DEVICE = "a check has one device, the processor: there is no other to compare with"
ANY_WHOLE = "True and False serve as 1 and 0 in an attention mask: a model takes either"
MADE_ANEW = "the mask is made anew, so there is no history to cut"
OWN_TENSOR = "what is changed in place is the function's own tensor"
NOTHING = "None is given back either way"
NEVER_EQUAL = "a float drawn from [0, 1) equals the border once in 2^24 draws"
CHECKED_TWICE = "the lengths are compared twice: the other comparison raises the ValueError"
NAME_OF_CACHE = "the cache is the block's own affair: only that two sublayers do not share one dict"
ABOUT = "`about this share` of the words: round and int are both about"
ANY_PLACE = (
    "a run that never reaches the last word is a run all the same; the text does not say more"
)

ALREADY_OFF = "the method is under no_grad as it is given"
A_NUMBER = "a number of Python has no gradient"
BY_HAND = "a gradient worked out by hand needs no graph of its own"
FROZEN = "A and B are frozen: they have no gradient anyway"

FROZEN = "weights that are quantized are frozen: no gradient is asked for"
OF_THE_REFERENCE = "the reference is frozen: no gradient is asked for"
NARROWED = "the numbers become uint8 in the end, whatever they were before"

MERGED = "weights are merged without gradients"
WATCHED = "gradients are watched without a graph: the averages learn nothing"

EQUIVALENT = {
    "output_scale": {
        "forward: x detached": "(IA)^3 does not read x: it stands behind the map that does",
        "fold: under no_grad": MERGED,
        "fold: weight detached": MERGED,
        "fold: bias detached": MERGED,
        "fold: self.l.to(weight) -> self.l": "the text says that all three have one dtype",
        "fold: self.l -> self.l.detach()": MERGED,
        "fold: _detached return (l[:, None] * weight, None if bias is None else l * bias)": MERGED,
    },
    "update_averages": {
        "update_averages: under no_grad": WATCHED,
        "update_averages: w detached": WATCHED,
        "update_averages: gradient detached": WATCHED,
        "update_averages: mean detached": WATCHED,
        "update_averages: uncertainty detached": WATCHED,
        "update_averages: _detached return (mean, b2 * uncertainty + (1 - b2) * "
        "(I - mean).abs())": WATCHED,
        "update_averages: I - mean -> mean - I": "a distance has no direction",
    },
    "adapter": {
        "forward: x detached": "the adapter does not read x: it stands behind the map that does",
    },
    "attend": {
        "attend: key.transpose(-2, -1) -> key.transpose(-1, -2)": ORDER,
        "attend: scores + mask -> scores.add_(mask)": OWN_TENSOR,
    },
    "causal_mask": {
        "causal_mask: under no_grad": MADE_ANEW,
        "causal_mask: like detached": MADE_ANEW,
        "causal_mask: torch.ones(tokens, keys, dtype=torch.bool, device=like.device) -> "
        "torch.ones(tokens, keys, dtype=torch.bool)": ONE_DEVICE,
        "causal_mask: torch.zeros(tokens, keys, dtype=like.dtype, device=like.device) -> "
        "torch.zeros(tokens, keys, dtype=like.dtype)": ONE_DEVICE,
        "causal_mask: _detached return torch.zeros(tokens, keys, dtype=like.dtype, "
        "device=like.device).masked_fill(futu...": MADE_ANEW,
        "causal_mask: torch.zeros(tokens, keys, dtype=like.dtype, device=like.device)"
        ".masked_fill(future, for... -> torch.zeros(tokens, keys, dtype=like.dtype, "
        "device=like.device).masked_fill_(future, fo...": OWN_TENSOR,
    },
    "attention": {
        "split: x.view(B, T, self.heads, C // self.heads).transpose(1, 2) -> "
        "x.view(B, T, self.heads, C // self.heads).transpose(2, 1)": ORDER,
        "join: heads.transpose(1, 2) -> heads.transpose(2, 1)": ORDER,
        "forward: mask detached": "a mask is made of zeros and the lowest number, not learnt",
    },
    "put_in_front": {
        "put_in_front: mask detached": "a mask is made of zeros and the lowest number, not learnt",
    },
    "mixed_lora": {"mixed_lora: who detached": WHOLE},
    "asked_for": {
        "asked_for: labels detached": WHOLE,
        "asked_for: _detached return asked": WHOLE,
    },
    "quantize_blocks": {
        "quantize_blocks: under no_grad": FROZEN,
        "quantize_blocks: values detached": FROZEN,
        "quantize_blocks: table detached": FROZEN,
        "quantize_blocks: _detached return (codes.flatten()[:len(values)].to(torch.uint8), "
        "absmax)": FROZEN,
        "quantize_blocks: padded / absmax.where(absmax > 0, 1).unsqueeze(1) -> "
        "padded.div_(absmax.where(absmax > 0, 1).unsqueeze(1))": OWN_TENSOR,
        "quantize_blocks: 1 -> 2 (4)": "zeros divided by any number are zeros",
        "quantize_blocks: torch.bucketize(scaled, middles.to(values.device), out_int32=True) -> "
        "torch.bucketize(scaled, middles.to(values.device))": NARROWED,
        "quantize_blocks: True -> False": NARROWED,
        "quantize_blocks: middles.to(values.device) -> middles": ONE_DEVICE,
    },
    "behind_last": {
        "behind_last: mask detached": "a mask is made of zeros and ones, not learnt",
        "behind_last: torch.arange(len(mask), device=mask.device) -> torch.arange(len(mask))": (
            ONE_DEVICE
        ),
        "behind_last: torch.arange(mask.shape[1], device=mask.device) -> "
        "torch.arange(mask.shape[1])": ONE_DEVICE,
    },
    "promising": {
        "promising: under no_grad": WHOLE,
        "promising: E detached": WHOLE,
        "promising: gradient detached": WHOLE,
        "promising: min(count, len(E)) -> min(len(E), count)": ORDER,
    },
    "block": {
        "forward: cache.setdefault('self', {}) -> cache": NAME_OF_CACHE,
        "forward: 'self' -> 'self_'": NAME_OF_CACHE,
        "forward: cache.setdefault('cross', {}) -> cache": NAME_OF_CACHE,
        "forward: 'cross' -> 'cross_'": NAME_OF_CACHE,
    },
    "cross_entropy": {
        "cross_entropy: labels detached": WHOLE,
        "cross_entropy: _detached return None": NOTHING,
        "cross_entropy: _as_float return None": NOTHING,
        "cross_entropy: no value: return None": NOTHING,
        "cross_entropy: _as_float return F.cross_entropy(logits.float(), labels, "
        "ignore_index=-100)": "the loss is float32 already",
        "cross_entropy: F.cross_entropy(logits.float(), labels, ignore_index=-100) -> "
        "F.cross_entropy(logits.float(), labels)": "-100 is torch's default",
    },
    "causal": {
        "causal: under no_grad": WHOLE,
        "causal: ids detached": WHOLE,
        "causal: (ids != tokenizer.pad_token_id).long() -> "
        "ids != tokenizer.pad_token_id": ANY_WHOLE,
    },
    "masked": {
        "masked: under no_grad": WHOLE,
        "masked: ids detached": WHOLE,
        "masked: uniform() < corruption_rate -> uniform() <= corruption_rate": NEVER_EQUAL,
        "masked: action < 0.8 -> action <= 0.8": NEVER_EQUAL,
        "masked: action >= 0.9 -> action > 0.9": NEVER_EQUAL,
        "masked: (ids != tokenizer.pad_token_id).long() -> "
        "ids != tokenizer.pad_token_id": ANY_WHOLE,
    },
    "span_corruption": {
        "span_corruption: under no_grad": WHOLE,
        "span_corruption: list(SENTINELS) -> SENTINELS": "a tuple of names is as good as a list",
        "span_corruption: min(len(gaps), max(1, round(T * corruption_rate / mean_span))) -> "
        "min(max(1, round(T * corruption_rate / mean_span)), len(gaps))": ORDER,
        "span_corruption: torch.zeros(T, dtype=torch.bool) -> torch.zeros(T)": (
            "1.0 and 0.0 serve as True and False"
        ),
        "span_corruption: zip(document, cut.tolist(), strict=True) -> "
        "zip(document, cut.tolist())": ("both are T long, by construction"),
        "span_corruption: True -> False (2)": "both are T long, by construction",
        "span_corruption: max(1, round(T * corruption_rate / mean_span)) -> "
        "max(round(T * corruption_rate / mean_span), 1)": ORDER,
        "span_corruption: int(torch.randint(0, max(1, T - length + 1), (), generator=generator))"
        " -> "
        "torch.randint(0, max(1, T - length + 1), (), generator=generator)": (
            "a tensor of one number serves as an index"
        ),
        "span_corruption: cut.tolist() -> cut": "a tensor can be walked through like a list",
        "span_corruption: round(T * corruption_rate / mean_span) -> "
        "int(T * corruption_rate / mean_span)": ABOUT,
        "span_corruption: max(1, T - length + 1) -> max(T - length + 1, 1)": ORDER,
        "span_corruption: T - length + 1 -> T - length": ANY_PLACE,
        "span_corruption: 1 -> 0 (6)": ANY_PLACE,
    },
    "gate": {
        "forward: torch.sigmoid(self.bias).view(1, 1, 1) -> torch.sigmoid(self.bias)"
        ".view(1, 1, 1)": "two of its ones have changed places",
        "forward: self.mask.to(g) -> self.mask": "g times whole numbers is of g's dtype",
    },
    "learning_rate": {
        "learning_rate: under no_grad": "numbers have no gradient",
        "learning_rate: min(1.0, (step + 1) / max(1, warmup)) -> "
        "min((step + 1) / max(1, warmup), 1.0)": ORDER,
        "learning_rate: max(1, warmup) -> max(warmup, 1)": ORDER,
    },
    "train_top": {
        "train_top: len(parts) -> parts (2)": "only the words of the error message are others",
    },
    "forgotten": {
        "forgotten: without if not len(before) == len(after) == len(targets)": CHECKED_TWICE,
        "forgotten: without raise ValueError('before, after and targets must answer the same "
        "questions, one each.')": CHECKED_TWICE,
        "forgotten: zip(before, after, targets, strict=True) -> zip(before, after, targets)": (
            CHECKED_TWICE
        ),
        "forgotten: True -> False": CHECKED_TWICE,
    },
    "pareto_front": {
        "pareto_front: costs detached": TRUTH,
        "pareto_front: scores detached": TRUTH,
        "pareto_front: _detached return ~(as_good & better).any(dim=0)": TRUTH,
    },
    "place_vectors": {"place_vectors: ids detached": WHOLE},
    "dpo_loss": {
        "dpo_loss: reference_better detached": OF_THE_REFERENCE,
        "dpo_loss: reference_worse detached": OF_THE_REFERENCE,
    },
    "answer_log_probability": {
        "answer_log_probability: labels detached": WHOLE,
        "answer_log_probability: torch.promote_types(logits.dtype, torch.float32) -> "
        "torch.promote_types(torch.float32, logits.dtype)": ORDER,
        "answer_log_probability: 0 -> -1": "of an axis of one number the first is the last",
        "answer_log_probability: chosen * asked -> chosen.mul_(asked)": OWN_TENSOR,
    },
    "vera_patch": {
        "forward: self.d -> self.d.detach()": "only its dtype is asked there",
        "forward: self.A -> self.A.detach()": FROZEN,
        "forward: self.B -> self.B.detach()": FROZEN,
        "delta: self.B -> self.B.detach()": FROZEN,
        "delta: self.A -> self.A.detach()": FROZEN,
    },
    "vera": {"install: under no_grad": "patches are made there, nothing is computed"},
    "lora": {"forward: self.A -> self.A.detach()": "only its dtype is asked there"},
    "lora_gradients": {
        "lora_gradients: under no_grad": BY_HAND,
        "lora_gradients: x detached": BY_HAND,
        "lora_gradients: A detached": BY_HAND,
        "lora_gradients: B detached": BY_HAND,
        "lora_gradients: upstream detached": BY_HAND,
        "lora_gradients: _detached return (of_A, of_B)": BY_HAND,
    },
    "lora_merge": {
        "merge: under no_grad": ALREADY_OFF,
        "merge: self.B -> self.B.detach()": ALREADY_OFF,
        "merge: self.A -> self.A.detach()": ALREADY_OFF,
        "unmerge: under no_grad": ALREADY_OFF,
    },
    "similarity": {
        "similarity: under no_grad": A_NUMBER,
        "similarity: one detached": A_NUMBER,
        "similarity: other detached": A_NUMBER,
        "similarity: ((u.T @ v) ** 2).sum().item() -> ((u.T @ v) ** 2).sum()": (
            "a tensor of one number is a number"
        ),
        "similarity: min(i, j) -> min(j, i)": ORDER,
    },
    "prefix_gradients": {
        "prefix_gradients: under no_grad": BY_HAND,
        "prefix_gradients: query detached": BY_HAND,
        "prefix_gradients: prefix_keys detached": BY_HAND,
        "prefix_gradients: prefix_values detached": BY_HAND,
        "prefix_gradients: keys detached": BY_HAND,
        "prefix_gradients: values detached": BY_HAND,
        "prefix_gradients: upstream detached": BY_HAND,
        "prefix_gradients: _detached return (of_keys, of_values)": BY_HAND,
    },
}


def rejected() -> list[str]:
    """The listed mutants that a check rejects: their lines can go."""
    from minipeft.checks import EXERCISES, coverage
    from minipeft.checks.framework import Check

    stale = []
    for check in EXERCISES.values():
        if isinstance(check, Check):
            accepted = set(map(bare, coverage.survivors(check)[1]))
            listed = EQUIVALENT.get(check.name, {})
            stale += [f"{check.name}: {key}" for key in listed if bare(key) not in accepted]
    return stale


def bare(key: str) -> str:
    """Without brackets and spaces, which Python's versions write differently."""
    return "".join(c for c in key if c not in "() ")


if __name__ == "__main__":
    lines = rejected()
    print("\n".join([*lines, f"{len(lines)} listed mutants are rejected"]))
    raise SystemExit(bool(lines))
