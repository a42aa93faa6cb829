"""Prompts of real words: scoring templates, and looking for words with the gradient."""

import pytest
import torch
import zoo
from closeness import LOSS, close

import minipeft as mp
import tiny_transformer as tt
from minipeft.methods.parts.templates import Template
from minipeft.tasks.prompt_search import loss_and_gradient, promising, score_templates, search


def question(name):
    """Two rows, one answer each, for a template with {mask}."""
    if name == "tiny-decoder":
        ids = torch.tensor([[1, 10, 20], [1, 11, 21]])
        labels = torch.tensor([[-100, -100, 20], [-100, -100, 21]])
    else:
        ids = torch.tensor([[1, 10, 4], [1, 11, 4]])
        labels = torch.tensor([[-100, -100, 20], [-100, -100, 21]])
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("name", ["tiny-decoder", "bert"])
def test_templates_are_scored_by_the_loss_of_their_answers(name):
    model, batch = zoo.build(name), question(name)
    templates = [
        Template((9, "{x}", "{mask}"), 4, (1, None)),
        Template(("{x}", 9, 8, "{mask}"), 4, (1, None)),
    ]
    scores = score_templates(model, templates, [batch, batch])
    assert [score for _, score in scores] == sorted((s for _, s in scores), reverse=True)
    by_hand = {
        templates[0]: [[1, 9, 10], [1, 9, 11]],
        templates[1]: [[1, 10, 9, 8], [1, 11, 9, 8]],
    }
    for template, score in scores:
        rows = torch.tensor(by_hand[template])
        if name == "bert":
            rows = torch.cat([rows, torch.full((2, 1), 4)], dim=1)
        logits = zoo.logits(model, {"input_ids": rows})[:, -1]
        expected = logits.log_softmax(-1)[[0, 1], [20, 21]].mean()
        close(score, expected.item(), dtype=torch.float32, roundings=LOSS)


def test_templates_in_writing_need_words_only():
    model, batch = zoo.build("tiny-decoder"), question("tiny-decoder")
    tokenizer = tt.WordTokenizer([f"w{i}" for i in range(zoo.WORDS - 14)])
    scores = score_templates(model, ["{x} w1 {mask}", "w2 {x} {mask}"], [batch], tokenizer)
    assert {text for text, _ in scores} == {"{x} w1 {mask}", "w2 {x} {mask}"}
    with pytest.raises(ValueError, match=r"has no \[P\]"):
        score_templates(model, ["[P] {x} {mask}"], [batch], tokenizer)


def test_the_gradient_foretells_the_change_of_the_loss():
    """HotFlip's straight line: for a small step the loss changes by the dot product."""
    model, batch = zoo.build("bert"), question("bert")
    method = mp.PTuning(template=("P", "{x}", "P", "{mask}"), mask=4, encoder=None)
    tuner = mp.attach(model, method, head=False, seed=0)
    vectors = tuner.parameters()[0]
    before, gradient = loss_and_gradient(model, [batch], vectors)
    step = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
    with torch.no_grad():
        vectors.add_(step)
    after, _ = loss_and_gradient(model, [batch], vectors)
    assert after - before == pytest.approx((gradient * step).sum().item(), abs=2e-4)


@pytest.mark.parametrize("name", ["tiny-decoder", "bert"])
def test_a_search_never_gets_worse_and_finds_what_it_says(name):
    model, batch = zoo.build(name), question(name)
    before = mp.fingerprint(model)
    form = Template(("P", "{x}", "P", "{mask}"), 4, (1, None))
    allowed = range(5, 40)
    result = search(model, form, [batch], steps=8, candidates=5, allowed=allowed, progress=False)
    assert len(result.losses) == 9
    assert all(b <= a for a, b in zip(result.losses, result.losses[1:], strict=False))
    assert result.losses[-1] < result.losses[0]
    words = [piece for piece in result.template.pieces if type(piece) is int]
    assert len(words) == 2 and set(words) <= set(allowed)
    scored = score_templates(model, [result.template], [batch])[0][1]
    close(scored, -result.losses[-1], dtype=torch.float32, roundings=LOSS)
    assert mp.fingerprint(model) == before and not mp.tuners(model)


def test_candidates_are_exact_where_the_loss_is_a_straight_line():
    torch.manual_seed(0)
    E, slope = torch.randn(12, 3), torch.randn(3)
    by_loss = sorted(range(12), key=lambda word: float(slope @ E[word]))
    assert promising(E, slope, 4) == by_loss[:4]
    assert promising(E, slope, 99) == by_loss


def test_with_every_word_as_candidate_a_search_is_exhaustive():
    model, batch = zoo.build("bert"), question("bert")
    form = Template(("P", "{x}", "{mask}"), 4, (1, None))
    result = search(model, form, [batch], steps=1, candidates=zoo.WORDS, progress=False)
    every = [Template((word, "{x}", "{mask}"), 4, (1, None)) for word in range(zoo.WORDS)]
    best, score = score_templates(model, every, [batch])[0]
    assert result.template == best
    close(result.losses[-1], -score, dtype=torch.float32, roundings=LOSS)


def test_a_search_wants_a_bare_model():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.PromptTuning(length=2), seed=0)
    with pytest.raises(ValueError, match="The model has tuners"):
        search(model, Template(("P", "{x}", "{mask}")), [question("tiny-decoder")])


def test_a_search_among_nothing_is_refused():
    model, batch = zoo.build("tiny-decoder"), question("tiny-decoder")
    template = Template(("P", "{x}", "{mask}"))
    with pytest.raises(ValueError, match="batches is empty"):
        search(model, template, [])
    with pytest.raises(ValueError, match="batches is empty"):
        score_templates(model, [Template(("{x}", "{mask}"))], [])
    with pytest.raises(ValueError, match="candidates must be a whole number of at least 1"):
        search(model, template, [batch], candidates=0)
    with pytest.raises(ValueError, match="allowed names no word"):
        search(model, template, [batch], allowed=[])
    mp.attach(model, mp.LoRA())  # nothing was left attached
