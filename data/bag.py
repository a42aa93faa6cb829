"""The bag-of-words baseline: what counting words can do, and what is answered most often.

One linear layer reads how often each word occurs, in the whole input and between its semicolons,
and answers each position of the target on its own. For tags it reads one word at a time. A task
that it solves needs no understanding of order, and is no task for this project.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from minipeft.tasks.metrics import accuracy, entity_f1, normal
from minipeft.tasks.tasks import Task


def majority(task: Task, split: str = "test") -> float:
    """Share of the most frequent answer of the train split (for tags: of its most frequent tag)."""
    said = [example.target for example in task.train]
    true = [example.target for example in task.examples(split)]
    if task.kind == "tag":
        said, true = " ".join(said).split(), " ".join(true).split()
    most = max(sorted(set(said)), key=said.count)
    return accuracy([most] * len(true), true)


def bag_of_words(task: Task, split: str = "test", steps: int = 400) -> float:
    """Exact answers (tags: entity F1) of the linear layer."""
    if task.kind == "tag":
        return _one_word_at_a_time(task, split)
    features = {f: i for i, f in enumerate(sorted({f for e in task.train for f in _bag(e.input)}))}
    targets = [normal(example.target).split() for example in task.train]
    longest = max(map(len, targets))
    answers = ["", *sorted({word for target in targets for word in target})]
    place = {word: i for i, word in enumerate(answers)}
    y = torch.tensor([[place[w] for w in t] + [0] * (longest - len(t)) for t in targets])
    x = _counts([example.input for example in task.train], features)
    weight = _fit(x, y, len(answers), steps)  # (features, longest, answers)
    x = _counts([example.input for example in task.examples(split)], features)
    best = torch.einsum("bf,fpa->bpa", x, weight).argmax(dim=-1).tolist()
    said = [" ".join(answers[i] for i in row if i) for row in best]
    return accuracy(said, [normal(example.target) for example in task.examples(split)])


def _bag(text: str) -> list[str]:
    """Words, words with the number of their part, and 1 (a constant)."""
    parts = text.split(" ; ")
    words = [word for part in parts for word in part.split()]
    return [*words, *(f"{n} {w}" for n, part in enumerate(parts) for w in part.split()), "1"]


def _counts(texts: list[str], features: dict[str, int]) -> Tensor:
    x = torch.zeros(len(texts), len(features))  # (B, features)
    for row, text in enumerate(texts):
        for feature in _bag(text):
            if feature in features:
                x[row, features[feature]] += 1
    return x


def _fit(x: Tensor, y: Tensor, answers: int, steps: int) -> Tensor:
    """Multinomial logistic regression for each position: (features, positions, answers)."""
    weight = torch.zeros(x.shape[1], y.shape[1], answers, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(x), (128,), generator=order)
        logits = torch.einsum("bf,fpa->bpa", x[rows], weight)
        loss = F.cross_entropy(logits.flatten(0, 1), y[rows].flatten())
        loss = loss + 1e-4 * weight.square().mean(dim=(0, 1)).sum()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach()


def _one_word_at_a_time(task: Task, split: str) -> float:
    seen: dict[str, list[str]] = {}
    for example in task.train:
        for word, tag in zip(example.input.split(), example.target.split(), strict=True):
            seen.setdefault(word, []).append(tag)
    usual = {word: max(sorted(set(tags)), key=tags.count) for word, tags in seen.items()}
    examples = task.examples(split)
    said = [[usual.get(w, task.labels[0]) for w in e.input.split()] for e in examples]
    return entity_f1(said, [example.target.split() for example in examples], task.labels[0])
