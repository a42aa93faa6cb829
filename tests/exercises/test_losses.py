"""checks.cross_entropy and checks.masked: take what is right, name what is wrong."""

import pytest
import torch
from torch.nn import functional as F

import tiny_transformer as tt
from minipeft import checks


def by_log_softmax(logits, labels):
    if labels is None:
        return None
    logs = logits.float().log_softmax(-1).flatten(0, -2)
    labels = labels.flatten()
    keep = labels >= 0
    return -logs[keep, labels[keep]].mean()


def by_one_hot(logits, labels):
    if labels is None:
        return None
    logits = logits.float()
    keep = (labels != -100).unsqueeze(-1)
    target = F.one_hot(labels.clamp(min=0), logits.shape[-1]) * keep
    return -(target * (logits - logits.logsumexp(-1, keepdim=True))).sum() / keep.sum()


@pytest.mark.parametrize("right", [tt.cross_entropy, by_log_softmax, by_one_hot])
def test_right_losses_pass(right, capsys):
    checks.cross_entropy(right)
    assert "✓" in capsys.readouterr().out


def picked(logits, labels):
    logs = logits.log_softmax(-1)[labels != -100]
    return logs[torch.arange(len(logs)), labels[labels != -100]]


WRONG_LOSSES = [
    (lambda x, y: F.cross_entropy(x.flatten(0, 1), y.clamp(min=0).flatten()), "count as word 0"),
    (lambda x, y: -picked(x, y).sum(), "this is the sum"),
    (lambda x, y: -picked(x, y).sum() / y.numel(), "divide by the labels that count"),
    (lambda x, y: -picked(x, y).exp().mean(), "logarithm is missing"),
    (lambda x, y: picked(x, y).mean(), "sign is wrong"),
    (lambda x, y: -picked(x, y).mean() / 0.6931472, "in bits"),
    (lambda x, y: by_log_softmax(x.softmax(-1), y), "softmax is done twice"),
    (lambda x, y: -x[y != -100].gather(1, y[y != -100][:, None]).mean(), "softmax is missing"),
    (lambda x, y: -picked(x, y), "one number"),
    (lambda x, y: by_log_softmax(x.softmax(-1).log(), y), "large logits"),
    (lambda x, y: by_log_softmax(x.detach(), y), "does not require grad"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_LOSSES)
def test_a_wrong_loss_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.cross_entropy(wrong)
    assert words in str(caught.value)


def mask_words(ids, tokenizer, generator=None, corruption_rate=0.15, mask=0.8, noise=0.1, **change):
    """Another correct masking; its numbers and the entries of `change` can be spoilt."""
    first = change.get("first", 14)
    real = ids >= change.get("lowest", 14)
    draw = torch.rand(ids.shape, generator=generator)
    chosen = (draw < corruption_rate) & real
    inputs = ids.clone()
    inputs[chosen & (draw < corruption_rate * mask)] = tokenizer.mask_token_id
    spots = chosen & (draw >= corruption_rate * mask) & (draw < corruption_rate * (mask + noise))
    inputs[spots] = torch.randint(first, len(tokenizer), (int(spots.sum()),), generator=generator)
    return {
        "input_ids": inputs,
        "attention_mask": (ids != tokenizer.pad_token_id).long(),
        "labels": torch.where(chosen, ids, -100),
    }


def in_a_loop(ids, tokenizer, generator=None, corruption_rate=0.15):
    """A third one, word by word."""
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    dice = torch.rand(2, *ids.shape, generator=generator).tolist()
    for b, row in enumerate(ids.tolist()):
        for t, word in enumerate(row):
            if word > 13 and dice[0][b][t] < corruption_rate:
                labels[b, t] = word
                if dice[1][b][t] < 0.8:
                    inputs[b, t] = tokenizer.mask_token_id
                elif dice[1][b][t] < 0.9:
                    inputs[b, t] = 14 + (word * 7 + b + t) % (len(tokenizer) - 14)
    return {
        "input_ids": inputs,
        "labels": labels,
        "attention_mask": (ids != tokenizer.pad_token_id).long(),
    }


@pytest.mark.parametrize("right", [tt.objectives.masked, mask_words, in_a_loop])
def test_right_maskings_pass(right):
    checks.masked(right)


def spoilt(**change):
    return lambda ids, words, generator=None: mask_words(ids, words, generator, **change)


def in_place(ids, words, generator=None):
    batch = mask_words(ids, words, generator)
    ids.copy_(batch["input_ids"])
    return batch


def all_labels(ids, words, generator=None):
    return mask_words(ids, words, generator) | {"labels": ids}


def hidden_labels(ids, words, generator=None):
    batch = mask_words(ids, words, generator)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["labels"] == -100, -100)}


def mask_hidden(ids, words, generator=None):
    batch = mask_words(ids, words, generator)
    return batch | {"attention_mask": (batch["input_ids"] > 4).long()}


def only_mask_asked(ids, words, generator=None):
    batch = mask_words(ids, words, generator)
    asked = batch["input_ids"] == words.mask_token_id
    return batch | {"labels": ids.masked_fill(~asked, -100)}


def only_changed_asked(ids, words, generator=None):
    batch = mask_words(ids, words, generator)
    return batch | {"labels": ids.masked_fill(batch["input_ids"] == ids, -100)}


def with_actions(draw):
    """What becomes of the chosen words is decided by `draw(ids, generator)`."""

    def masked(ids, words, generator=None, corruption_rate=0.15):
        chosen = (torch.rand(ids.shape, generator=generator) < corruption_rate) & (ids > 13)
        action = draw(ids, generator)
        noise = torch.randint(14, len(words), ids.shape, generator=generator)
        inputs = torch.where(chosen & (action < 0.8), words.mask_token_id, ids)
        inputs = torch.where(chosen & (action >= 0.9), noise, inputs)
        return {
            "input_ids": inputs,
            "labels": ids.masked_fill(~chosen, -100),
            "attention_mask": (ids != words.pad_token_id).long(),
        }

    return masked


def test_actions_of_an_own_draw_are_right():
    checks.masked(with_actions(lambda ids, g: torch.rand(ids.shape, generator=g)))


WRONG_MASKINGS = [
    (only_mask_asked, "only words that became <mask> are asked for"),
    (only_changed_asked, "only words that were changed are asked for"),
    (with_actions(lambda ids, g: torch.rand(ids.shape)), "draw every random number from"),
    (with_actions(lambda ids, g: torch.rand(len(ids), 1, generator=g)), "draw for each word"),
    (with_actions(lambda ids, g: torch.rand(1, generator=g)), ""),
    (spoilt(corruption_rate=0.5), "50% of the words are chosen"),
    (spoilt(mask=1.0, noise=0.0), "all chosen words become <mask>"),
    (spoilt(mask=0.5), "of the chosen become <mask>"),
    (spoilt(noise=0.2), "of the chosen words stay"),
    (spoilt(lowest=0), "special tokens (padding, <bos>) are chosen"),
    (spoilt(first=0), "drawn among the special tokens"),
    (in_place, "work on a copy"),
    (all_labels, "every word has a label"),
    (hidden_labels, "words that stood there"),
    (mask_hidden, "<mask> included"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_MASKINGS)
def test_a_wrong_masking_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.masked(wrong)
    assert words in str(caught.value)
