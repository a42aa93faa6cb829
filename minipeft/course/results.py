"""The headline figures of the papers, each with its miniature: what the lessons' records say of it.

    for figure in results.figures():
        print(figure.title, results.shape_of(results.findings(figure)))

headline_figures.toml has the papers' numbers with their source, and for every figure where the
lessons answer it. Nothing that was measured stands there: it is read from the outputs of the
executed notebooks. An answer is one of

    claim = 17              the records of that claim (of one lesson only, with lesson = "05")
    lesson and section      what the cells below that heading print
    passport = "adapter"    the time of a pass in that method's passport

and has a shape: "same" or "different" by the verdicts that `same` lists, or by the patterns `same`
and `different` in the words of the record that `find` finds; "undecided" where the record is,
"open" where there is no record, or none in these words. `part` says of which part of the figure an
answer is.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minipeft.course import claims, passport

SHAPES = ("same", "different", "undecided", "open")
NOT_SEEN = {"undecided": "undecided", "not reproduced at this size": "different"}
HEADING = re.compile(r"^(#{2,4}) (.*)", re.MULTILINE)
FILE = Path(__file__).with_name("headline_figures.toml")


@dataclass(frozen=True)
class Panel:
    """Numbers of a paper. rows: (what, value, second value or None); second: what that one is."""

    measure: str
    rows: tuple[tuple[str, float, float | None], ...]
    second: str = ""


@dataclass(frozen=True)
class Evidence:
    """Where the lessons answer a figure, and what their answer means."""

    same: tuple[str, ...] | str = ()
    different: str = ""
    claim: int | None = None
    lesson: str = ""
    section: str = ""
    find: str = ""
    part: str = ""
    passport: str = ""
    slower_than: float = 1.0

    @property
    def lessons(self) -> tuple[str, ...]:
        """The numbers of the lessons that may have it; none for a passport."""
        if self.claim is not None and not self.lesson:
            return claims.CLAIMS[self.claim].lessons
        return (self.lesson,) if self.lesson else ()


@dataclass(frozen=True)
class Figure:
    """One headline figure. shape: what is to be seen in it, as one sentence."""

    name: str
    title: str
    paper: str
    source: str
    model: str
    shape: str
    evidence: tuple[Evidence, ...]
    panels: tuple[Panel, ...] = ()
    note: str = ""
    secondhand: bool = False  # read in somebody's notes of the paper


@dataclass(frozen=True)
class Finding:
    """What one record says. picture: a PNG in base64, "" where its section has none."""

    shape: str
    measured: str
    why: str
    lesson: str = ""
    cell: str = ""
    picture: str = ""
    claim: int | None = None
    part: str = ""

    @property
    def number(self) -> str:
        """Of the lesson: 10b."""
        return self.lesson.partition("_")[0]


@cache
def figures() -> tuple[Figure, ...]:
    """All headline figures, in the order of the papers."""
    with FILE.open("rb") as file:
        listed = tomllib.load(file)["figure"]
    return tuple(_figure(fields) for fields in listed)


def _figure(fields: dict) -> Figure:
    fields = dict(fields)
    panels = tuple(
        Panel(one["measure"], tuple((*row, None)[:3] for row in one["rows"]), one.get("second", ""))
        for one in fields.pop("panel", [])
    )
    evidence = tuple(
        Evidence(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()})
        for one in fields.pop("evidence")
    )
    return Figure(**fields, panels=panels, evidence=evidence)


def findings(figure: Figure, notebooks: Path | None = None) -> list[Finding]:
    """What the executed notebooks of a folder, the committed ones by default, say of a figure."""
    folder = claims.folder() if notebooks is None else notebooks
    return [
        finding
        for evidence in figure.evidence
        for finding in (
            _of_claim(evidence, folder)
            if evidence.claim is not None
            else _of_passport(evidence, folder)
            if evidence.passport
            else _of_section(evidence, folder)
        )
    ]


def shape_of(every: Sequence[Finding]) -> str:
    """Of all findings together: one of SHAPES, or how many are of which."""
    counts = Counter(finding.shape for finding in every)
    if len(counts) <= 1:
        return next(iter(counts), "open")
    return ", ".join(f"{counts[shape]} {shape}" for shape in SHAPES if counts[shape])


def _of_claim(evidence: Evidence, folder: Path) -> Iterator[Finding]:
    for record in claims.records(folder):
        number = record.lesson.partition("_")[0]
        if record.claim != evidence.claim or (evidence.lesson and number != evidence.lesson):
            continue
        measured = record.measured
        if evidence.find:
            said = _said(evidence, measured)
            measured = said or measured
            shape = _by_pattern(evidence, said)
            why = f"what is recorded about claim {record.claim}. The rule: {record.rule}"
        else:
            decided = "same" if record.verdict in evidence.same else "different"
            shape = NOT_SEEN.get(record.verdict, decided)
            why = f"claim {record.claim} is {record.verdict}. The rule: {record.rule}"
        picture = _picture(_cells(folder / f"{record.lesson}.ipynb"), record.cell)
        where = (record.lesson, record.cell, picture, record.claim, evidence.part)
        yield Finding(shape, measured, why, *where)


def _of_section(evidence: Evidence, folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob(f"{evidence.lesson}_*.ipynb")):
        cells = _cells(path)
        for place in _section(cells, evidence.section):
            measured = _said(evidence, _printed(cells[place]))
            if measured:
                cell = cells[place].get("id", "")
                why = "the lesson's own words, which follow from its numbers"
                where = (path.stem, cell, _picture(cells, cell), None, evidence.part)
                yield Finding(_by_pattern(evidence, measured), measured, why, *where)


def _of_passport(evidence: Evidence, folder: Path) -> Iterator[Finding]:
    for lesson, cell, data in claims.stored(folder, passport.MIME):
        if data["method"] == evidence.passport:
            middle, low, high = data["latency"]["1"]
            above, below = low > evidence.slower_than, high < evidence.slower_than
            shape = "same" if above else "different" if below else "undecided"
            yield Finding(
                shape,
                f"a pass with batch 1 takes {middle:.2f} of the base's time ({low:.2f}-{high:.2f})",
                f"same if the lower quartile is above {evidence.slower_than:g}, in its passport",
                lesson,
                cell,
            )


def _said(evidence: Evidence, text: str) -> str:
    """What `find` finds, or its group `said`; "" for nothing."""
    match = re.search(evidence.find, text)
    if not match:
        return ""
    return " ".join((match.groupdict().get("said") or match[0]).split())


def _by_pattern(evidence: Evidence, said: str) -> str:
    if not said:
        return "open"
    if evidence.different and re.search(evidence.different, said):
        return "different"
    return "same" if re.search(str(evidence.same), said) else "undecided"


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _section(cells: list[dict], heading: str) -> range:
    """The places of the cells below a heading whose text contains `heading`."""
    begin, level = None, 0
    for place, cell in enumerate(cells):
        if cell["cell_type"] != "markdown":
            continue
        for marks, title in HEADING.findall("".join(cell["source"])):
            if begin is not None and len(marks) <= level:
                return range(begin, place)
            if begin is None and heading in title:
                begin, level = place + 1, len(marks)
    return range(begin, len(cells)) if begin is not None else range(0)


def _printed(cell: dict) -> str:
    """What a cell prints, tables as text; no records, no pictures."""
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if not any("minipeft" in kind or kind.startswith("image/") for kind in data):
            texts.append("".join(output.get("text", data.get("text/plain", ""))))
    return "\n".join(texts)


def _picture(cells: list[dict], cell: str) -> str:
    """The first picture of the cell, else the nearest one before it in its section."""
    place = next(i for i, one in enumerate(cells) if one.get("id", "") == cell)
    while place >= 0:
        one = cells[place]
        for output in one.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return "".join(output["data"]["image/png"]).replace("\n", "")
        text = "".join(one["source"])
        if one["cell_type"] == "markdown" and HEADING.search(text):
            return ""
        place -= 1
    return ""
