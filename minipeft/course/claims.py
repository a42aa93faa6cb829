"""Claims about these methods: what is said, what a lesson measured, and the verdict.

    claims.CLAIMS[9].text                      # "An adapter learns a change dh, ..."
    claims.record(9, measured="the hash of the base is the same", rule="equal bits", verdict="true")

A record is one line that a reader sees, and JSON in the cell's output that programs read:
`python -m minipeft claims` makes its table from the notebooks' own records and from nothing else.
"""

from __future__ import annotations

import html
import json
import math
import sys
import textwrap
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import minipeft
from minipeft.course.claim_texts import TEXTS

MIME = "application/vnd.minipeft.claim+json"
VERDICTS = ("true", "false", "misleading", "undecided", "not reproduced at this size")


@dataclass(frozen=True)
class Claim:
    """Something that is said. lessons: the numbers of those that answer it."""

    number: int
    text: str
    source: str
    lessons: tuple[str, ...]

    def __str__(self) -> str:
        return f"Claim {self.number}: {self.text} ({self.source})"


CLAIMS = {number: Claim(number, *fields) for number, fields in TEXTS.items()}


@dataclass(frozen=True)
class Record:
    """What a lesson found out about a claim.

    measured: in words and numbers, with the interval.  rule: by which the verdict follows from it.
    numbers: the same for programs.  lesson, cell: where it stands, "" while the lesson runs.
    """

    claim: int
    measured: str
    rule: str
    verdict: str
    numbers: dict
    lesson: str = ""
    cell: str = ""

    @property
    def address(self) -> str:
        """Of its cell, such as 10_lora.ipynb#cell-id=10-042."""
        return f"{self.lesson}.ipynb#cell-id={self.cell}"

    def __str__(self) -> str:
        claim = CLAIMS[self.claim]
        return (
            f"Claim {self.claim}: {claim.text}\n"
            f"  measured: {self.measured}\n  rule: {self.rule}\n  verdict: {self.verdict}"
        )

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        claim, text = CLAIMS[self.claim], html.escape
        line = (
            f"<p><b>Claim {self.claim}</b>: <i>{text(claim.text)}</i> "
            f"<small>({text(claim.source)})</small><br>Measured: {text(self.measured)}. "
            f"Verdict: <b>{text(self.verdict)}</b> <small>(rule: {text(self.rule)})</small></p>"
        )
        stored = {k: v for k, v in asdict(self).items() if k not in ("lesson", "cell")}
        return {"text/plain": str(self), "text/html": line, MIME: stored}


def record(number: int, measured, rule: str = "", verdict: str = "", **numbers) -> None:
    """Show what was measured about a claim, with its verdict, and store it in the cell's output.

    Args:
        number: of the claim.
        measured: a sentence without its full stop; or what `difference` or `trend` gives, whose
            numbers are stored too.
        rule: how the verdict follows from the measurement; by default that of a `difference`.
        verdict: one of VERDICTS.
        numbers: what else programs should find, numbers, texts or lists of them.

    Raises:
        ValueError: no such claim or verdict, no rule, or something that JSON cannot hold.
    """
    show(make_record(number, measured, rule, verdict, **numbers))


def make_record(number: int, measured, rule: str = "", verdict: str = "", **numbers) -> Record:
    """What `record` shows and stores; the same arguments."""
    if number not in CLAIMS:
        raise ValueError(f"Claims have the numbers 1 to {max(CLAIMS)}, and none is {number!r}.")
    if verdict not in VERDICTS:
        raise ValueError(f"A verdict is one of {', '.join(VERDICTS)}, not {verdict!r}.")
    if is_dataclass(measured):
        numbers = {**asdict(measured), **numbers}
        rule = rule or getattr(measured, "rule", "")
    said = str(measured).strip().rstrip(".")
    if not said or not rule:
        raise ValueError(f"Claim {number}: say what was measured and by which rule it is judged.")
    try:
        return Record(number, said, rule, verdict, plain(numbers))
    except TypeError:
        raise ValueError(
            f"Claim {number}: what is stored must be numbers, texts or lists of them."
        ) from None


def plain(value: dict) -> dict:
    """Numbers, texts and lists as JSON gives them back; None for nan and the infinities.

    Raises:
        TypeError: there is something else in it.
    """

    def known(item):
        if isinstance(item, dict):
            return {str(key): known(each) for key, each in item.items()}
        if isinstance(item, list | tuple):
            return [known(each) for each in item]
        unknown = isinstance(item, float) and not math.isfinite(item)
        return None if unknown else item

    return json.loads(json.dumps(known(value), allow_nan=False))


def show(thing) -> None:
    """Display in a notebook, print elsewhere."""
    interactive = "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
    if interactive:
        sys.modules["IPython"].display.display(thing)
    else:
        print(thing)


def folder() -> Path:
    """The committed notebooks of the repository.

    Raises:
        FileNotFoundError: minipeft is installed from a wheel, which has no executed notebooks.
    """
    place = Path(minipeft.__file__).resolve().parents[1] / "notebooks"
    if not (place / "src").is_dir():
        raise FileNotFoundError(
            "The executed lessons are in the repository, not in the installed package: run this "
            "in a checkout of it, or name a folder of notebooks that were run."
        )
    return place


def stored(notebooks: Path, mime: str) -> list[tuple[str, str, dict]]:
    """(lesson, id of the cell, what was stored) for every output of that kind in a folder."""
    results = []
    for path in sorted(notebooks.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if mime in output.get("data", {}):
                    results.append((path.stem, cell.get("id", ""), output["data"][mime]))
    return results


def records(notebooks: Path | None = None) -> list[Record]:
    """Every record in the executed notebooks of a folder, in the order of claims and lessons."""
    notebooks = folder() if notebooks is None else notebooks
    every = [
        Record(**data, lesson=lesson, cell=cell) for lesson, cell, data in stored(notebooks, MIME)
    ]
    return sorted(every, key=lambda one: (one.claim, one.lesson))


def listing(every: list[Record], width: int = 100) -> str:
    """All claims with what the lessons recorded; those without a record say so."""
    lines = []
    for claim in CLAIMS.values():
        about = [one for one in every if one.claim == claim.number]
        lines += textwrap.wrap(
            claim.text, width, initial_indent=f"{claim.number:>3} ", subsequent_indent="    "
        )
        for one in about:
            said = f"{one.verdict}: {one.measured} ({one.address})"
            lines += textwrap.wrap(
                said, width, initial_indent="    -> ", subsequent_indent="       "
            )
        if not about:
            lines.append(f"    not recorded yet (lesson {', '.join(claim.lessons)})")
    answered = len({one.claim for one in every})
    lines += ["", f"{answered} of {len(CLAIMS)} claims have a record."]
    return "\n".join(lines)
