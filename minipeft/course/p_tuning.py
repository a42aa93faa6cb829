"""What lesson 08 tries: written wordings as templates, P-tuning on top of them, sick runs.

template = as_template("the capital of {x} is {y} .")      # "the capital of {x} is {mask}"
mp.PTuning.from_template(on_top(template), tokenizer)
charts(base, tokenizer, tasks.load("capital"))               # a healthy run and four sick ones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.course.pictures import DOORS, EDGE, FROZEN, INK
from minipeft.course.runs import attached, loss_and_exact, rows_of
from minipeft.course.transfer import forgotten
from minipeft.methods.p_tuning import PromptEncoder, PTuning
from minipeft.methods.parts.templates import Template
from minipeft.methods.prompt_tuning import PromptTuning
from minipeft.model.anatomy import Anatomy
from minipeft.model.fingerprint import base_tensors, fingerprint
from minipeft.report import Table
from minipeft.tasks.tasks import Task, make
from minipeft.training.loop import train

AROUND = "[P][P][P] {x} [P][P][P] {mask}"  # the template of the lesson


# ---- wordings and templates ----


def as_template(wording: str) -> str:
    """ "the capital of {x} is {y} ." -> "the capital of {x} is {mask}": the answer comes last.

    Raises:
        ValueError: something else than a full stop stands behind the answer.
    """
    before, placeholder, behind = wording.partition("{y}")
    if not placeholder or behind.strip(" ."):
        raise ValueError(f"A decoder writes its answer last, but it is inside of {wording!r}.")
    return before + "{mask}"


def on_top(template: str, n: int = 3) -> str:
    """A written template with n pseudo tokens before its words and n before the answer."""
    return "[P]" * n + " " + template.replace("{mask}", "[P]" * n + " {mask}")


def wordings(task: Task) -> list[str]:
    """The wordings of a relation that its corpus never used, as templates of a decoder."""
    every = task.details["unused_wordings"]
    return [as_template(wording) for wording in every if wording.endswith("{y} .")]


def scores_with(
    model: nn.Module, templates: Sequence[str | Template], batch: dict, tokenizer=None
) -> list[tuple[float, float]]:
    """(loss, share of exact answers) of a batch in each template without pseudo tokens."""
    anatomy = Anatomy(model)
    forms = [Template.read(t, tokenizer) if isinstance(t, str) else t for t in templates]
    return [loss_and_exact(model, form.fill(batch, anatomy)) for form in forms]


def put_into(task: Task, template: str) -> Task:
    """The task with its inputs in a written template: "peru" -> "the capital of peru is"."""
    words = template.partition("{mask}")[0].strip()
    splits = {
        split: [(words.replace("{x}", example.input), example.target) for example in examples]
        for split, examples in task.splits.items()
    }
    return make(f"{task.name}, written", task.kind, **splits)


# ---- methods that train more than their prompt ----


@dataclass(frozen=True)
class WithEmbedding(PTuning):
    """P-tuning as some tell it: the whole word embedding is trained beside the prompt."""

    def install(self, tuner) -> None:
        super().install(tuner)
        tuner.unfreeze([tuner.anatomy.words().module.weight])


@dataclass(frozen=True)
class TunedPromptTuning(PromptTuning):
    """Prompt tuning, and the whole language model tuned with it."""

    def install(self, tuner) -> None:
        super().install(tuner)
        tuner.unfreeze(tuner.anatomy.parameters())


@dataclass(frozen=True)
class BehindTheAnswer(PTuning):
    """A mistake: the pseudo tokens stand behind the answer."""

    def wrap(self, tuner, batch: dict) -> dict:
        pieces = ("{x}", "{mask}", *("P" for piece in self.form().pieces if piece == "P"))
        return Template(pieces, frame=self.frame).fill(batch, tuner.anatomy, tuner.words)


# ---- what the base knows without the prompt ----


def knowledge(tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """(question, answer) about train and test countries, in the commonest wording of a relation."""
    return [
        (as_template(task.details["wordings"][0][1]).partition("{mask}")[0].replace("{x}", x), y)
        for task in tasks
        for x, y in (*task.train, *task.test)
    ]


@torch.no_grad()
def without_prompt(model: nn.Module, tokenizer, questions: Sequence[str]) -> list[str]:
    """The next word after each question, no prompt put in: what every other user would get."""
    ids = [tokenizer.encode(question) for question in questions]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])  # (B, T)
    bare = type(model)(model.config).eval()  # of the base's numbers as they are now, no doors
    bare.load_state_dict(dict(base_tensors(model)), strict=False)  # a tied head is named once
    logits = bare(padded, mask).logits  # (B, T, V)
    last = logits[torch.arange(len(ids)), mask.sum(dim=1) - 1]  # (B, V)
    return [tokenizer.decode([word]) for word in last.argmax(dim=-1).tolist()]


def measured(
    base: nn.Module,
    tokenizer,
    method,
    task: Task,
    rate: float,
    steps: int,
    seed: int,
    asked: Sequence[tuple[str, str]],
) -> dict:
    """Fine-tune once: a run for `contest`, which asks the base itself afterwards too.

    Returns:
        "dev": loss.  "test": share of exact answers.  "forgotten": share of what `asked`, questions
        with answers, was known before and is not known now, without the prompt.  "same": is every
        bit of the base what it was?
    """
    questions, answers = [question for question, _ in asked], [answer for _, answer in asked]
    before, hashed = without_prompt(base, tokenizer, questions), fingerprint(base)
    with attached(base, method, seed=seed):
        batches = task.batches("train", tokenizer, batch_size=16, seed=seed)
        train(base, batches, steps, rate, seed=seed, progress=False)
        after = without_prompt(base, tokenizer, questions)
        return {
            "dev": loss_and_exact(base, rows_of(task, "dev", tokenizer, base))[0],
            "test": loss_and_exact(base, rows_of(task, "test", tokenizer, base))[1],
            "forgotten": forgotten(before, after, answers),
            "same": fingerprint(base) == hashed,
        }


# ---- sick runs ----

PATIENTS: dict[str, tuple[type[PTuning], dict, float]] = {
    "healthy": (PTuning, {}, 1e-2),
    "A": (WithEmbedding, {}, 1e-2),
    "B": (PTuning, {}, 1.0),
    "C": (BehindTheAnswer, {}, 1e-2),
    "D": (PTuning, {"tune_model": True}, 1e-2),
}
EMBEDDING = "embeddings.words.weight"


def charts(base: nn.Module, tokenizer, task: Task, steps: int = 25) -> Table:
    """A healthy run and four sick ones, and what can be measured of each.

    row: what the model reads, labelled words in brackets.  gradient: of the prompt encoder, its
    norm at the first step.  moved: which numbers of the base have changed.
    """
    rows = []
    for name, (kind, settings, rate) in PATIENTS.items():
        method = kind.from_template(AROUND, tokenizer, **settings)
        before = {key: tensor.clone() for key, tensor in base_tensors(base)}
        with attached(base, method, name="patient", seed=0) as tuner:
            batches = task.batches("train", tokenizer, batch_size=16)
            row, norm = _first_row(tuner, batches(0), tokenizer), _gradient(tuner, batches(0))
            history = train(base, batches, steps, rate, progress=False)
            changed = {k for k, tensor in base_tensors(base) if not torch.equal(tensor, before[k])}
            exact = loss_and_exact(base, rows_of(task, "test", tokenizer, base))[1]
        moved = "embedding" if changed == {EMBEDDING} else "all of it" if changed else "nothing"
        loss = f"{history.losses[0]:.1f} → {history.losses[-1]:.1f}"
        rows.append((name, row, f"{norm:.2g}", loss, moved, f"{100 * exact:.0f} %"))
    titles = ("run", "a row, as the model reads it", "gradient", "loss", "base moved", "held out")
    notes = [
        "(word): its label is asked for. Loss: of the first and the last step, each of its batch; "
        "it may change a little although nothing was learnt."
    ]
    return Table("The charts", titles, rows, notes)


def _first_row(tuner, batch: dict, tokenizer) -> str:
    """The first row of a batch in its template; labelled words in brackets."""
    filled, words = tuner.wrap(batch), []
    for number, label in zip(
        filled["input_ids"][0].tolist(), filled["labels"][0].tolist(), strict=True
    ):
        word = "[P]" if number in tuner.words else tokenizer.decode([number])
        if number != tokenizer.pad_token_id:
            words.append(f"({word})" if label != -100 else word)
    return " ".join(words)


def _gradient(tuner, batch: dict) -> float:
    """Length of the gradient of everything that makes the pseudo tokens."""
    model, encoder = tuner.model, tuner.patches[0][1]
    model.zero_grad()
    model(**tuner.wrap(batch)).loss.backward()
    grads = [p.grad for p in encoder.parameters() if p.grad is not None]
    norm = sum(float(grad.square().sum()) for grad in grads) ** 0.5
    model.zero_grad()
    return norm


# ---- coupling, and the picture ----


def yours_or_ours(candidate: type) -> type:
    """The learner's PromptEncoder once its forward is written, the package's until then."""
    try:
        candidate(2, 4)()
    except NotImplementedError:
        return PromptEncoder
    return candidate


def coupling(encoder: nn.Module) -> Tensor:
    """How much each h_i moves with each e_j: norms of dh_i / de_j, (n, n)."""
    rest = {n: p.detach() for n, p in encoder.named_parameters() if n != "vectors"}

    def h(vectors: Tensor) -> Tensor:
        return torch.func.functional_call(encoder, {**rest, "vectors": vectors}, ())

    jacobian = torch.autograd.functional.jacobian(h, encoder.vectors.detach())  # (n, C, n, C)
    return jacobian.square().sum(dim=(1, 3)).sqrt()  # (n, n)


def picture(width: float = 9.0):
    """The template, and where the vectors of its pseudo tokens come from, as a pyplot figure."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    from minipeft.analysis.figures import readable

    figure, axes = plt.subplots(figsize=(width, 3.7), dpi=96)
    colour = DOORS["words"]

    def box(x, y, wide, high, text, trained):
        shape = "round,pad=0,rounding_size=0.12"
        face = colour if trained else FROZEN
        axes.add_patch(FancyBboxPatch((x, y), wide, high, boxstyle=shape, fc=face, ec=EDGE))
        ink = "white" if trained else INK
        axes.text(x + wide / 2, y + high / 2, text, ha="center", va="center", color=ink)

    def arrow(x, y, to_y):
        axes.annotate("", (x, to_y), (x, y), arrowprops=dict(arrowstyle="->", color=INK))

    tokens = ["$h_1$", "$h_2$", "$h_3$", "peru", "$h_4$", "$h_5$", "$h_6$"]
    for place, token in enumerate(tokens):
        x, trained = 1.25 * place, token.startswith("$")
        box(x, 2.4, 1.0, 0.7, token, trained)
        arrow(x + 0.5, 3.1, 3.5)
        if trained:
            box(x, 0.0, 1.0, 0.6, token.replace("h", "e"), True)
            arrow(x + 0.5, 0.6, 0.9)
            arrow(x + 0.5, 2.0, 2.4)
    box(0, 0.9, 8.5, 1.1, "prompt encoder: BiLSTM, then MLP (thrown away after training)", True)
    box(0, 3.5, 8.5, 0.9, "language model (frozen)", False)
    axes.annotate("", (9.1, 3.95), (8.5, 3.95), arrowprops=dict(arrowstyle="->", color=INK))
    axes.text(9.2, 3.95, "lima", va="center", style="italic", color=INK)
    axes.text(8.7, 2.75, "grey: frozen", va="center", color=INK)
    axes.text(8.7, 1.45, "colour: trained", va="center", color=colour)
    axes.set(xlim=(-0.1, 10.4), ylim=(-0.1, 4.5))
    axes.axis("off")
    readable(figure)
    return figure
