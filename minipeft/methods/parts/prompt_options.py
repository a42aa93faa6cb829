"""What a soft prompt can do beside being one: settings, starts, places, 🤗 PEFT's ways, files.

Shared by `methods/prompt_tuning.py` and `methods/p_tuning.py`, which have the prompts themselves.

Shapes: B batch, T tokens, P prompt length, V vocabulary, C width, n new words.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from minipeft.contexts import evaluating
from minipeft.doors.words import answer_begins
from minipeft.methods.parts.validation import check_choice, check_flag, check_number
from minipeft.model.libraries import is_sharded

STARTS = ("random", "vocabulary", "text", "labels")
POSITIONS = ("start", "after-bos", "end")


# ---- settings ----


def check_prompt_tuning(method) -> None:
    """The settings of a PromptTuning, each by itself and beside the others.

    Raises:
        ValueError: one is impossible.
    """
    for name in ("length", "common", "ensemble"):
        check_number(method, name, "from 1", lambda n: n >= 1, whole=True)
    check_choice(method, "start", STARTS)
    check_number(method, "scale", "above 0", lambda s: 0 < s < math.inf)
    if method.position is not None:
        check_choice(method, "position", POSITIONS)
    check_compatibility(method)
    if method.compatibility and (method.position not in (None, "start") or method.ensemble > 1):
        raise ValueError(
            'compatibility="peft" knows one prompt, at the start: drop the other setting.'
        )
    given = method.words if isinstance(method.words, list | tuple) else (None,)
    words = tuple(tuple(w) if isinstance(w, list | tuple) else (w,) for w in given)
    if not all(word and all(type(i) is int and i >= 0 for i in word) for word in words):
        raise ValueError(f"PromptTuning's words must be ids of tokens, not {method.words!r}.")
    if bool(words) != (method.start in ("text", "labels")):
        raise ValueError('PromptTuning needs words=(ids) for start="text" or "labels" only.')
    if method.start == "labels" and len(words) > method.length:
        raise ValueError(
            f"{len(words)} labels do not fit into a prompt of {method.length}: make it longer."
        )
    object.__setattr__(method, "words", tuple(w[0] if len(w) == 1 else w for w in words))


def check_p_tuning(method) -> None:
    """The settings of a PTuning, each by itself and beside the others.

    Raises:
        ValueError: one is impossible.
    """
    for name in ("length", "hidden"):
        if getattr(method, name) is not None:
            check_number(method, name, "from 1", lambda n: n >= 1, whole=True)
    if method.encoder is not None:
        check_choice(method, "encoder", ("lstm", "mlp"))
    check_flag(method, "keep_encoder", "tune_model")
    check_compatibility(method)
    if (method.length is None) == (method.template is None):
        raise ValueError("PTuning needs either a length or a template, such as length=10.")
    form = method.form()
    object.__setattr__(method, "frame", form.frame)
    if method.template is not None:
        if "P" not in form.pieces:
            raise ValueError('A template for PTuning has at least one pseudo token, "P".')
        if method.compatibility:
            raise ValueError('compatibility="peft" knows no template: give a length instead.')
        object.__setattr__(method, "template", form.pieces)


def check_compatibility(method) -> None:
    """`compatibility` is None or "peft"."""
    if method.compatibility is not None:
        check_choice(method, "compatibility", ("peft",))


def notes(method, tuner, first: bool) -> list[str]:
    """Where the prompt stands, where that is not as one would expect."""
    before = "the prompt stands before [CLS], so heads that read the first token read the prompt"
    if method.compatibility and tuner.anatomy.has_first_token():
        return [f'compatibility="peft": {before}, as in PEFT.']
    if method.compatibility:
        stands = "the prompt stands first in every row, before padding"
        return [f'compatibility="peft": {stands}, as in PEFT.']
    return [f"Here {before}."] if first and tuner.anatomy.has_first_token() else []


# ---- new words: their vectors at the start, their ids, their place ----


@torch.no_grad()
def first_vectors(method, table: nn.Module) -> Tensor:
    """One prompt of a PromptTuning as it is before training: (P, C). table: the embedding (V, C).

    Raises:
        ValueError: the model lacks one of the words.
    """
    P, V, C = method.length, table.num_embeddings, table.embedding_dim
    device = table.weight.device
    if method.start == "random":
        return torch.empty(P, C).uniform_(-method.scale, method.scale).to(device)
    words = [(w,) if type(w) is int else w for w in method.words]
    unknown = [i for word in words for i in word if i >= V]
    if unknown:
        raise ValueError(f"There is no word with the id {unknown[0]}: the model knows {V}.")
    if method.start == "text":
        words = [(i,) for word in words for i in word]
        words = (words * math.ceil(P / len(words)))[:P]
    if len(words) < P:  # of the common words, none twice while there are enough
        pool, missing = min(method.common, V), P - len(words)
        drawn = torch.cat([torch.randperm(pool) for _ in range(math.ceil(missing / pool))])
        words = words + [(i,) for i in drawn[:missing].tolist()]
    vectors = [at_least_fp32(table(torch.tensor(word, device=device))).mean(0) for word in words]
    return torch.stack(vectors)


def drawn_words(table: nn.Module, n: int) -> Tensor:
    """The vectors of n words drawn from the vocabulary: (n, C)."""
    drawn = torch.randint(table.num_embeddings, (n,))
    return at_least_fp32(table(drawn.to(table.weight.device)))


def at_least_fp32(values: Tensor) -> Tensor:
    """The same numbers, detached, in float32 or in their wider dtype: what is trained starts so."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def add_words(tuner, method, prompt: nn.Module) -> None:
    """New words for a tuner. As 🤗 PEFT does it, one id more stands for padding: see
    `insert_as_peft`.

    Raises:
        ValueError: PEFT's prompt would be read otherwise than here.
    """
    if method.compatibility and not answers_to_vectors(tuner):
        raise ValueError(
            f"{type(tuner.model).__name__} answers otherwise to the vectors of words, which PEFT "
            "gives it, than to their ids: a prompt of PEFT's does not act here as it does there, "
            "so train one without compatibility."
        )
    padding = tuner.anatomy.padding() if method.compatibility else None
    tuner.add_virtual_tokens(prompt, len(prompt.vectors), padding)


@torch.no_grad()
def answers_to_vectors(tuner) -> bool:
    """Does the model answer to the vectors of words, which 🤗 PEFT gives it, as to their ids?

    Not so ESM, whose words get their positions with their ids. A model that nobody listed is asked.
    """
    model, anatomy = tuner.model, tuner.anatomy
    if anatomy.is_listed() or anatomy.is_encoder_decoder() or is_sharded(model):
        return True
    table = anatomy.words().module  # (V, C)
    V = table.num_embeddings
    ids = torch.arange(V // 2, min(V // 2 + 4, V), device=table.weight.device)[None]  # (1, 4)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.random.fork_rng())
        for other in model.minipeft.tuners.values():
            if not other.merged:
                stack.enter_context(other.disabled())
        try:
            expected = first_numbers(model(input_ids=ids))
        except Exception:  # it wants more than words, which nobody has here
            return True
        try:
            answer = first_numbers(model(inputs_embeds=table(ids)))
        except Exception:  # it takes no vectors
            return False
    return torch.allclose(answer.float(), expected.float(), rtol=1e-3, atol=1e-5)


def first_numbers(outputs) -> Tensor:
    """The first of a model's outputs that are numbers: logits, states."""
    every = outputs.values() if isinstance(outputs, dict) else outputs
    return next(v for v in every if isinstance(v, Tensor) and v.is_floating_point())


def place(method, tuner, batch: dict) -> int | str | Tensor:
    """How many of a row's own tokens stand before the prompt, as `insert` takes it."""
    position = method.position or ("after-bos" if tuner.anatomy.has_first_token() else "start")
    if position == "end" and tuner.anatomy.writes():
        return answer_begins(batch)
    return {"start": 0, "after-bos": 1, "end": "end"}[position]


# ---- files ----


def without_reparameterization(tuner, keep: bool) -> dict[str, Tensor]:
    """What `save` writes: h (n, C) in place of e and its encoder, unless that is to be kept."""
    (site, prompt), values = tuner.patches[0], tuner.named_tensors()
    if keep:
        return values
    name = f"{site.path}.{site.target}."
    with torch.no_grad():
        vectors = {f"{name}vectors": prompt()}
    return vectors | {key: t for key, t in values.items() if not key.startswith(name)}
