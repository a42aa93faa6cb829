"""Prompts of real words: written by hand and compared, or searched for with the gradient.

    score_templates(model, ["{x} is in {mask}", "{x} : {mask}"], batches, tokenizer)
    result = search(model, "[P][P][P] {x} [P] {mask}", batches, tokenizer)

`search` is AutoPrompt (Shin et al. 2020, arXiv 2010.15980, section 2.2), with the candidates of
HotFlip (Ebrahimi et al. 2018, arXiv 1712.06751). The [P] of the template hold real words ("trigger
tokens"), first drawn at random, and one of them is changed at a time. Which word w would lower the
loss is foretold by a straight line through the present word w0, E being the word vectors (V, C):

    L(w) ~ L(w0) + (E_w - E_w0) . g          g = dL / dE_w0, (C,)

so the candidates are the words of smallest E_w . g. Each is tried on a batch, and the best of them
takes the place if the loss really falls.

Departure: the paper draws one batch for the gradient and another for the trial; we take the same
batch for both, and accept a word only if it lowers the loss of all batches that are kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minipeft.attached import tuners
from minipeft.contexts import evaluating, seeded
from minipeft.methods.p_tuning import PTuning
from minipeft.methods.parts.prompt_options import at_least_fp32
from minipeft.methods.parts.templates import Template
from minipeft.methods.parts.validation import check_count
from minipeft.model.anatomy import Anatomy
from minipeft.model.devices import on_device_of
from minipeft.tuner import attach


@dataclass
class Found:
    """What a search found. template: the [P] replaced by words.  losses: one per step, the first
    that of the random words.
    """

    template: Template
    losses: list[float] = field(default_factory=list)

    def words(self, tokenizer) -> str:
        """The template as one reads it."""
        return written(self.template, tokenizer)


@torch.no_grad()
def score_templates(
    model: nn.Module,
    templates: Sequence[str | Template],
    batches: Sequence[dict],
    tokenizer=None,
    mask: int | None = None,
    score: Callable[[nn.Module, dict], float] | None = None,
) -> list[tuple[str | Template, float]]:
    """Hand-written templates with their scores, the best first.

    Args:
        model: a language model without tuners, in whatever mode it is in.
        templates: in writing (then with a tokenizer), or `Template`s; none has a [P].
        batches: with labels on the answers, as `Task.batches` gives them.
        mask: as for `Template.read`.
        score: (model, batch in its template) -> number, larger is better. None: the mean
            log-probability of the answers, that is minus the loss.
    """
    anatomy = Anatomy(model)
    measure = score or (lambda model, batch: -model(**batch).loss.item())
    check_batches(batches)
    batches, results = [on_device_of(model, batch) for batch in batches], []
    for given in templates:
        template = Template.read(given, tokenizer, mask) if isinstance(given, str) else given
        if "P" in template.pieces:
            raise ValueError("A hand-written template has no [P]: give words, or call search().")
        template.fits(anatomy)
        scores = [measure(model, template.fill(batch, anatomy)) for batch in batches]
        results.append((given, sum(scores) / len(scores)))
    return sorted(results, key=lambda pair: -pair[1])


def search(
    model: nn.Module,
    template: str | Template,
    batches: Sequence[dict],
    tokenizer=None,
    mask: int | None = None,
    steps: int = 50,
    candidates: int = 16,
    allowed: Sequence[int] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Found:
    """Look for real words at the [P] of a template; the model is the same afterwards.

    Args:
        model: a language model without tuners.
        template: in writing (then with a tokenizer), or a `Template`.
        batches: a few batches with labels on the answers; each step looks at all of them.
        steps: words to be tried, one place after the other.
        candidates: how many words are tried for a place.
        allowed: ids of the words that may be used; None: every word. AutoPrompt leaves out the
            answers themselves and proper names.
        seed: of the first words.
    """
    if tuners(model):
        raise ValueError(f"The model has tuners, {list(tuners(model))}: detach them first.")
    check_batches(batches)
    check_count("candidates", candidates)
    if allowed is not None and not len(allowed):
        raise ValueError("allowed names no word: give ids of words, or None for every word.")
    form = Template.read(template, tokenizer, mask) if isinstance(template, str) else template
    method = PTuning(template=form.pieces, mask=form.mask, frame=form.frame, encoder=None)
    tuner = attach(model, method, name="search", head=False, seed=seed)
    batches = [on_device_of(model, batch) for batch in batches]
    with ExitStack() as stack:
        stack.callback(tuner.detach)
        stack.enter_context(evaluating(model))
        table = tuner.anatomy.words().module
        pool = torch.arange(table.num_embeddings) if allowed is None else torch.tensor(allowed)
        pool = pool.to(table.weight.device)
        vectors = tuner.patches[0][1].vectors  # (n, C)
        with torch.no_grad():
            E = at_least_fp32(table(pool))  # (V, C)
            with seeded(seed):
                chosen = torch.randint(len(pool), (len(vectors),)).tolist()
            vectors.copy_(E[chosen])
        best, gradient = loss_and_gradient(model, batches, vectors)
        result = Found(form, [best])
        for step in tqdm(range(steps), disable=not progress, delay=2, unit="step"):
            place = step % len(vectors)
            losses = {}  # of the batches with each candidate at this place
            with torch.no_grad():
                for word in promising(E, gradient[place], candidates):
                    vectors[place] = E[word]
                    losses[word] = loss_of(model, batches)
                word = min(losses, key=losses.get)
                accepted = losses[word] < best
                chosen[place] = word if accepted else chosen[place]
                vectors[place] = E[chosen[place]]
            if accepted:
                best, gradient = loss_and_gradient(model, batches, vectors)
            result.losses.append(best)
        words = iter(pool[chosen].tolist())
        pieces = tuple(next(words) if piece == "P" else piece for piece in form.pieces)
        result.template = Template(pieces, form.mask, form.frame)
        return result


def check_batches(batches: Sequence[dict]) -> None:
    """A loss needs something to be measured on."""
    if not batches:
        raise ValueError("batches is empty: give at least one batch with labels on its answers.")


def promising(E: Tensor, gradient: Tensor, count: int) -> list[int]:
    """The words for which the straight line promises the lowest loss: rows of E (V, C)."""
    return (E @ gradient).topk(min(count, len(E)), largest=False).indices.tolist()


def loss_and_gradient(
    model: nn.Module, batches: Sequence[dict], vectors: nn.Parameter
) -> tuple[float, Tensor]:
    """Mean loss of the batches, and its gradient for the vectors (n, C)."""
    vectors.grad = None
    total = 0.0
    for batch in batches:
        loss = model(**batch).loss / len(batches)
        loss.backward()
        total += loss.item()
    return total, at_least_fp32(vectors.grad)


def loss_of(model: nn.Module, batches: Sequence[dict]) -> float:
    """Mean loss of the batches."""
    return sum(model(**batch).loss.item() for batch in batches) / len(batches)


def written(template: Template, tokenizer) -> str:
    """A template in writing: its words, [P], {x} and {mask}."""
    parts = [tokenizer.decode([p]) if type(p) is int else p for p in template.pieces]
    return " ".join("[P]" if part == "P" else part.strip() for part in parts)
