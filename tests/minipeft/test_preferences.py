"""DPO: equation 7, what the reference is, what moves and what does not."""

import copy
import math

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.training import preferences
from minipeft.training.preferences import answer_log_probability, dpo_loss, prefer


def pairs_for(name="tiny-decoder", count=3, seed=0):
    """A batch of 2 B rows: a question of two tokens, an answer, padding in some rows."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, zoo.WORDS, (2 * count, 7), generator=generator)
    mask = torch.ones_like(ids)
    labels = ids.clone()
    labels[:, :2] = -100
    mask[1::2, 6:] = 0
    ids[1::2, 6:] = 0
    labels[1::2, 6:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_the_log_probability_of_an_answer_token_by_token():
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 5, dtype=torch.float64)
    labels = torch.randint(0, 5, (3, 6))
    labels[:, :2], labels[1, 4:], labels[2] = -100, -100, -100
    expected = torch.zeros(3, dtype=torch.float64)
    for row in range(3):
        for t in range(1, 6):
            if labels[row, t] != -100:
                p = logits[row, t - 1].exp() / logits[row, t - 1].exp().sum()
                expected[row] += p[labels[row, t]].log()
    close(answer_log_probability(logits, labels), expected)
    assert expected[2] == 0


def test_the_log_probability_is_minus_the_loss_times_its_tokens():
    model, pairs = zoo.build("gpt2"), pairs_for()
    for row in range(len(pairs["labels"])):
        one = {key: value[row : row + 1] for key, value in pairs.items()}
        with torch.no_grad():
            loss = model(**one).loss
        tokens = (one["labels"][:, 1:] != -100).sum()
        close(preferences.log_probabilities(model, one), (-loss * tokens)[None])


def test_equation_7_and_its_gradient():
    """dL/d better = -beta sigmoid(-margin) / B, and the opposite for the worse answer."""
    torch.manual_seed(1)
    better, worse, known_better, known_worse = (torch.randn(4).double() * 5 for _ in range(4))
    better.requires_grad_(), worse.requires_grad_()
    beta = 0.3
    loss = dpo_loss(better, worse, known_better, known_worse, beta)
    margin = beta * ((better - known_better) - (worse - known_worse))
    close(loss, torch.log(1 + torch.exp(-margin)).mean())
    loss.backward()
    close(better.grad, -beta * torch.sigmoid(-margin) / 4)
    close(worse.grad, beta * torch.sigmoid(-margin) / 4)
    far = torch.full((1,), -1e6, dtype=torch.float64)
    close(dpo_loss(far, -far, far * 0, far * 0, 1.0), torch.tensor(2e6).double())


@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.IA3(), mp.VeRA(rank=4), mp.PTuningV2(2)])
@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama"])
def test_the_reference_is_the_model_with_the_tuner_off(name, method):
    model, pairs = zoo.build(name), pairs_for(name)
    frozen = copy.deepcopy(model)
    base, mark = zoo.logits(model, zoo.batch(name)), mp.fingerprint(model)
    tuner = mp.attach(model, method, seed=0)
    history = prefer(model, tuner, pairs, 6, 1e-2, beta=0.5, batch_size=2, progress=False)
    if method.identity_at_start:
        assert history.losses[0] == pytest.approx(math.log(2), abs=1e-9)
    with tuner.disabled():
        off = preferences.log_probabilities(model, pairs)
    assert torch.equal(off, preferences.log_probabilities(frozen, pairs))
    assert preferences.drift(model, tuner, pairs) > 0
    tuner.detach()
    assert mp.fingerprint(model) == mark
    assert torch.equal(zoo.logits(model, zoo.batch(name)), base)


def test_another_tuner_acts_in_the_reference_too():
    """A LoRA of instructions stays; only the one that is trained is off in the reference."""
    model, pairs = zoo.build("tiny-decoder"), pairs_for()
    first = mp.attach(model, mp.LoRA(rank=2), name="instructions", seed=0)
    zoo.shake(first, 0.5)
    before = preferences.log_probabilities(model, pairs)
    held = [p.detach().clone() for p in first.parameters()]
    second = mp.attach(model, mp.LoRA(rank=2), name="preferences", seed=1)
    history = prefer(model, second, pairs, 3, 1e-2, progress=False)
    assert history.losses[0] == pytest.approx(math.log(2), abs=1e-9)
    with second.disabled():
        assert torch.equal(preferences.log_probabilities(model, pairs), before)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), held, strict=True))


def test_pairs_are_learnt_and_a_seed_gives_the_same_numbers():
    model, pairs = zoo.build("tiny-decoder"), pairs_for(count=4)
    runs = []
    for _ in range(2):
        tuner = mp.attach(model, mp.LoRA(rank=4), seed=0)
        history = prefer(model, tuner, pairs, 60, 3e-2, beta=1.0, batch_size=4, progress=False)
        runs.append(history.losses)
        better, worse = preferences.log_probabilities(model, pairs).chunk(2)
        with tuner.disabled():
            known = preferences.log_probabilities(model, pairs).chunk(2)
        assert ((better - known[0]) > (worse - known[1])).all()
        assert not model.training
        tuner.detach()
    assert runs[0] == runs[1] and runs[0][-1] < math.log(2) / 2
    assert history.margins[-1] == pytest.approx(history.better[-1] - history.worse[-1])


def test_every_pair_is_seen_once_in_an_epoch(monkeypatch):
    seen = []
    original = preferences._of_rows
    monkeypatch.setattr(
        preferences, "_of_rows",
        lambda model, rows: (seen.append(rows["input_ids"]), original(model, rows))[1],
    )  # fmt: skip
    model, pairs = zoo.build("tiny-decoder"), pairs_for(count=6)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    prefer(model, tuner, pairs, 3, batch_size=2, progress=False)
    rows = torch.cat([batch[:2] for batch in seen[-3:]])
    assert len({tuple(row.tolist()) for row in rows}) == 6
    for batch in seen[-3:]:
        for i in range(2):  # the worse answer of the same pair
            index = (pairs["input_ids"] == batch[i]).all(1).nonzero()[0, 0]
            assert torch.equal(batch[2 + i], pairs["input_ids"][6 + index])


def test_drift_is_the_kl_divergence():
    model, pairs = zoo.build("tiny-decoder"), pairs_for()
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    assert preferences.drift(model, tuner, pairs) == 0
    zoo.shake(tuner, 0.5)
    given = {key: value for key, value in pairs.items() if key != "labels"}
    with torch.no_grad():
        now = model(**given).logits.double().softmax(-1)
        with tuner.disabled():
            before = model(**given).logits.double().softmax(-1)
    kl = (now * (now / before).log()).sum(-1)[:, :-1]
    asked = pairs["labels"][:, 1:] != -100
    assert preferences.drift(model, tuner, pairs) == pytest.approx(
        kl[asked].mean().item(), abs=1e-9
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda pairs: {**pairs, "labels": pairs["labels"][:5]}, "better answers, then the worse"),
        (lambda pairs: {"input_ids": pairs["input_ids"]}, "better answers, then the worse"),
        (lambda pairs: {**pairs, "labels": torch.full_like(pairs["labels"], -100)}, "no labels"),
    ],
)
def test_what_are_no_pairs_is_refused(change, sentence):
    model = zoo.build("tiny-decoder")
    tuner = mp.attach(model, mp.LoRA(rank=2))
    with pytest.raises(ValueError, match=sentence):
        prefer(model, tuner, change(pairs_for()), 1, progress=False)


def test_what_cannot_be_trained_is_refused():
    model = zoo.build("tiny-decoder")
    words = mp.attach(model, mp.PromptTuning(2))
    with pytest.raises(ValueError, match="soft words"):
        prefer(model, words, pairs_for(), 1, progress=False)
    words.detach()
    tuner = mp.attach(model, mp.LoRA(rank=2))
    with pytest.raises(ValueError, match="beta must be above 0"):
        prefer(model, tuner, pairs_for(), 1, beta=0, progress=False)
    tuner.disable()
    with pytest.raises(ValueError, match="disabled or merged"):
        prefer(model, tuner, pairs_for(), 1, progress=False)
