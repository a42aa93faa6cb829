"""The pages of docs/ that are made from the lessons, and the same as pages of the course.

    python notebooks/build.py docs      writes docs/*.md, from the committed notebooks

    README.md       the lessons in order: question, minutes, exercises; and what else there is
    claims.md       all claims with their sources and what the lessons measured
    results.md      the headline figures of the papers with their miniatures, results_page.py
    glossary.md     terms, glossary.py
    instructors.md  for those who teach, instructors.py

equations.md and departures.md are made by equations.py, from the method files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from builder import glossary, instructors, results_page
from builder.cut import ROOT
from builder.lesson import Lesson
from builder.rendering import page, rendered_markdown, write_page
from minipeft.course import claims

DOCS = ROOT / "docs"
PAGES = {  # file of docs/, with its name in the list of pages, besides the lessons
    "claims.md": "What people say about these methods, with sources and what the lessons measured",
    "results.md": "The papers' headline figures, each beside its miniature",
    "equations.md": "Every equation with the lines of code that are it",
    "departures.md": "Where a method is not the letter of its paper, and why",
    "glossary.md": "The terms, with the Chinese ones and the first use of each",
    "instructors.md": "For those who teach: handing out, grading, timing, questions to discuss",
    "jobs.md": "Jobs of the command line, each with every method at its default rate",
    "at_70b.md": "What changes at 70 billion parameters",
}


FOOT = (
    "For you: minutes that a new reader needed, where it was tried; else what the exercises plan. "
    "`make course` runs all of it and writes the same as web pages, `make slides` a presentation "
    "of each lesson."
)


def sitting(lesson: Lesson) -> str:
    """How long a reader needs: as it was tried, else what the exercises plan."""
    if "sitting" in lesson.tried:
        return f"{lesson.tried['sitting']:g} min"
    planned = sum(exercise.minutes for exercise in lesson.exercises.values())
    return f"exercises {planned:g} min" if planned else ""


def index(lessons: Sequence[Lesson], notebooks: Path) -> str:
    """docs/README.md."""
    lines = ["# The course", "", "| | lesson | its question | for you | runs in | exercises |"]
    lines += ["|---|---|---|---|---|---|"]
    for lesson in lessons:
        exercises = ", ".join(exercise.cut.name for exercise in lesson.exercises.values())
        file = f"exercises/{lesson.slug}.ipynb"
        write = f"{len(lesson.exercises)}: [{exercises}](../notebooks/{file})" if exercises else ""
        title = f"[{lesson.title}](../notebooks/{lesson.slug}.ipynb)"
        row = (lesson.number, title, lesson.question, sitting(lesson), f"{lesson.minutes:g} min")
        lines.append(f"| {' | '.join((*row, write))} |")
    lines += ["", FOOT]
    lines += [""] + [f"* [{says}]({name})" for name, says in PAGES.items()]
    return "\n".join(lines) + "\n"


def claims_page(lessons: Sequence[Lesson], notebooks: Path) -> str:
    """docs/claims.md."""
    records = claims.records(notebooks)
    answered = len({one.claim for one in records})
    introduction = (
        "What people say about these methods, where they say it, and what the lessons measured: "
        f"{answered} of {len(claims.CLAIMS)} have a record."
    )
    lines = ["# Claims", "", introduction]
    lines += ["", "| | claim and source | measured here |", "|---|---|---|"]
    for claim in claims.CLAIMS.values():
        said = [
            f"**{one.verdict}**: {one.measured} "
            f"([lesson {one.lesson.partition('_')[0]}](../notebooks/{one.address}))"
            for one in records
            if one.claim == claim.number
        ]
        said = said or [f"open (lesson {', '.join(claim.lessons)})"]
        row = (str(claim.number), f"{claim.text} *{claim.source}*", "<br>".join(said))
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
    return "\n".join(lines) + "\n"


MADE: dict[str, Callable[[Sequence[Lesson], Path], str]] = {
    "README.md": index,
    "claims.md": claims_page,
    "results.md": lambda lessons, notebooks: results_page.markdown(notebooks),
    "glossary.md": lambda lessons, notebooks: glossary.markdown(lessons),
    "instructors.md": instructors.markdown,
}


def write_docs(lessons: Sequence[Lesson], notebooks: Path, folder: Path = DOCS) -> list[Path]:
    """Write the pages that differ from what is there; returns those that did."""
    changed = []
    for name, text in made(lessons, notebooks).items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_page(path, text)
            changed.append(path)
    return changed


def made(lessons: Sequence[Lesson], notebooks: Path) -> dict[str, str]:
    """File name -> text."""
    return {name: make(lessons, notebooks) for name, make in MADE.items()}


def html_pages(lessons: Sequence[Lesson], notebooks: Path, folder: Path) -> dict[str, str]:
    """Pages of the course in `folder` for what docs/ has: file name -> HTML."""
    texts = made(lessons, notebooks)
    slugs = {lesson.slug for lesson in lessons if (notebooks / f"{lesson.slug}.ipynb").is_file()}
    pages = {"results.html": results_page.html_page(notebooks, sorted(slugs))}
    for name in PAGES:
        target = f"{Path(name).stem}.html"
        if name not in ("claims.md", "results.md"):  # which are made otherwise
            text = texts.get(name) or (DOCS / name).read_text(encoding="utf-8")
            title = text.splitlines()[0].lstrip("# ")
            body = _relinked(rendered_markdown(text), slugs, folder)
            body = glossary.with_places(body) if name == "glossary.md" else body
            navigation = '<nav><div><a href="index.html">All lessons</a></div></nav>'
            pages[target] = page(f"minipeft: {title}", f"{navigation}<main>{body}</main>")
    return pages


def _relinked(body: str, slugs: set[str], folder: Path) -> str:
    """The links of a page of docs/, for a page of the course in `folder`."""

    def link(match: re.Match) -> str:
        target, mark, place = match[1].partition("#")
        if re.match(r"\w+:", target) or not target:
            return match[0]
        path = Path(target)
        if path.suffix == ".ipynb" and path.stem in slugs and "exercises" not in path.parts:
            target = f"{path.stem}.html"
        elif target in PAGES:
            target = f"{path.stem}.html"
        elif target == "README.md":
            target = "index.html"
        else:
            target = Path(os.path.relpath(DOCS / target, folder)).as_posix()
        return f'href="{target}{mark}{place}"'

    return re.sub(r'href="([^"]*)"', link, body)
