"""What every check is made of: one error that is one sentence, and comparisons that name mistakes.

A check is a plain function. It takes the learner's object, tries it on small inputs whose answer is
known, and either prints one green line that says what was tried, or raises `CheckFailed` with one
sentence that names the mistake. It compares the answer with the right one *and* with the answers
that the usual mistakes give, so that it can say "the scale is alpha, it should be alpha / r"
instead of "expected 0.31, got 0.62".
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

GREEN, RED, YELLOW, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


class CheckFailed(AssertionError):
    """The learner's object does not do what the exercise asks; the message names the mistake."""

    mark = f"{RED}✗"

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows instead of a traceback: the sentence, and where it happened."""
        lines = [f"{self.mark} {self}{PLAIN}"]
        if self.__cause__ is not None:
            last = traceback.extract_tb(self.__cause__.__traceback__)[-1]
            if last.line:
                lines.append(f"  in {last.name}: {last.line}")
        return lines


class NotFinished(CheckFailed):
    """The exercise still raises its NotImplementedError."""

    mark = f"{YELLOW}…"


def check(tried: str) -> Callable:
    """Make a check of a function that raises CheckFailed: seed, green line, errors in words.

    tried: what the green line says was tried.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(candidate) -> None:
            name = getattr(candidate, "__name__", type(candidate).__name__)
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    function(candidate)
            except CheckFailed:
                raise
            except NotImplementedError as error:
                raise NotFinished(str(error) or f"{name} is not written yet") from None
            except Exception as error:
                raise CheckFailed(f"{name} stopped with {_in_words(error)}") from error
            print(f"{GREEN}✓ {name}: {tried}{PLAIN}")

        return run

    return decorate


def expect(condition: bool | Tensor, sentence: str) -> None:
    """Raise CheckFailed with `sentence` unless the condition holds."""
    if not condition:
        raise CheckFailed(sentence)


def compare(
    actual, expected: Tensor, what: str, mistakes: Sequence[tuple[str, Tensor]] = ()
) -> None:
    """`actual` must equal `expected`; if it equals a usual mistake's answer, name the mistake.

    what: how a sentence calls the value, "the output of forward".
    mistakes: (sentence, the answer that this mistake gives), most likely first.
    """
    expect(isinstance(actual, Tensor), f"{what} should be a tensor, not {_kind(actual)}")
    if same(actual, expected):
        return
    for sentence, answer in mistakes:
        if same(actual, answer):
            raise CheckFailed(sentence)
    expect(
        actual.shape == expected.shape,
        f"{what} has shape {tuple(actual.shape)}, it should be {tuple(expected.shape)}",
    )
    expect(
        bool(torch.isfinite(actual).all()) or not bool(torch.isfinite(expected).all()),
        f"{what} contains NaN or infinity",
    )
    worst = (actual.double() - expected.double()).abs().max().item()
    raise CheckFailed(
        f"{what} is wrong: the largest difference is {worst:.3g}, and it is none of the usual "
        "mistakes; work one small case out on paper"
    )


def same(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal shapes and values, up to rounding."""
    if a.shape != b.shape:
        return False
    a, b = a.detach().double(), b.detach().double()
    return bool(torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def weight(owner: nn.Module, name: str) -> Tensor:
    """The learner's matrix called `name`: a parameter, or the weight of a layer of that name."""
    found = getattr(owner, name, None)
    expect(found is not None, f"{type(owner).__name__} has no {name}: name its parts as given")
    found = getattr(found, "weight", found)
    expect(
        isinstance(found, nn.Parameter),
        f"{name} must be an nn.Parameter, else no optimizer will find it",
    )
    return found


def _in_words(error: Exception) -> str:
    words = f"{type(error).__name__}: {error}".splitlines()[0]
    if "shapes cannot be multiplied" in words or "must match the size" in words:
        words += " (write the shape of each tensor beside its line)"
    return words


def _kind(value) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None (is a return missing?)" if value is None else f"a {type(value).__name__}"
