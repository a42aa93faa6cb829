"""The course as web pages that need nothing from the network: index, lessons, claims.

The pages that docs/ has as well come from docs.py, the presentations from slides.py.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from builder import docs, glossary
from builder.cut import ROOT
from builder.docs import PAGES, sitting
from builder.lesson import Lesson
from builder.measure import measure
from builder.rendering import escaped, inline, page, rendered, write_page
from builder.slides import write_slides
from minipeft.course import claims


def write_pages(lessons: Sequence[Lesson], folder: Path, exercises: Path) -> Path:
    """Write the index (its path is returned) and a page for each executed lesson in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = [lesson for lesson in lessons if (folder / f"{lesson.slug}.ipynb").is_file()]
    uses = glossary.first_uses(glossary.terms(), lessons)
    for position, lesson in enumerate(done):
        notebook = nbformat.read(folder / f"{lesson.slug}.ipynb", as_version=4)
        notebook = glossary.linked(lesson, notebook, uses)
        before = done[position - 1] if position else None
        after = done[position + 1] if position + 1 < len(done) else None
        write_page(folder / f"{lesson.slug}.html", _lesson_page(lesson, notebook, before, after))
    slugs = [lesson.slug for lesson in done]
    write_page(folder / "claims.html", _claims_page(claims.records(folder), slugs))
    for name, text in docs.html_pages(lessons, folder, folder).items():
        write_page(folder / name, text)
    write_slides(done, folder, folder / "slides", strict=False)
    index = folder / "index.html"
    write_page(index, _index_page(lessons, folder, exercises))
    return index


def _lesson_page(
    lesson: Lesson, notebook: NotebookNode, before: Lesson | None, after: Lesson | None
) -> str:
    links = [
        '<a href="index.html">All lessons</a>',
        '<a href="claims.html">Claims</a>',
        '<a href="results.html">Results</a>',
        "<span></span>",
    ]
    if before:
        links.append(f'<a href="{before.slug}.html">← {before.number} {escaped(before.title)}</a>')
    if after:
        links.append(f'<a href="{after.slug}.html">{after.number} {escaped(after.title)} →</a>')
    nav = f"<nav><div>{''.join(links)}</div></nav>"
    return page(f"{lesson.number} · {lesson.title}", f"{nav}<main>{rendered(notebook)}</main>")


def _index_page(lessons: Sequence[Lesson], folder: Path, exercises: Path) -> str:
    rows = []
    for lesson in lessons:
        path = folder / f"{lesson.slug}.ipynb"
        name = f"{lesson.number} · {escaped(lesson.title)}"
        took, size = "not run yet", ""
        if path.is_file():
            notebook = nbformat.read(path, as_version=4)
            seconds = notebook.metadata.get("minipeft", {}).get("seconds")
            took = f"{lesson.minutes:g} min (here {seconds} s)"
            size = _size(measure(lesson, notebook))
            name = f'<a href="{lesson.slug}.html">{name}</a>'
            if (folder / "slides" / f"{lesson.slug}.html").is_file():
                size += f', <a href="slides/{lesson.slug}.html">slides</a>'
        write = ""
        if lesson.exercises:
            target = os.path.relpath(exercises / f"{lesson.slug}.ipynb", folder)
            what = ", ".join(e.cut.name for e in lesson.exercises.values())
            count = len(lesson.exercises)
            write = f'{count}: <a href="{html.escape(target)}">{escaped(what)}</a>'
        rows.append(
            f"<tr><td>{name}<br><small class=soft>{size}</small></td>"
            f"<td>{inline(lesson.question)}</td>"
            f'<td class="number">{sitting(lesson)}</td><td class="number">{took}</td>'
            f"<td>{write}</td></tr>"
        )
    others = "".join(
        f'<li><a href="{Path(name).stem}.html">{escaped(says)}</a></li>'
        for name, says in PAGES.items()
    )
    body = f"""<main><h1>minipeft</h1>
<p>A frozen transformer has three doors: its <b>words</b>, its <b>memory</b> and its
<b>weights</b>. Every method of parameter-efficient fine-tuning is a small module placed in one of
them.</p>
<figure>{_picture()}</figure>
<table><tr><th>Lesson</th><th>Its question</th><th class="number">For you</th>
<th class="number">Runs in</th><th>Exercises</th></tr>
{"".join(rows)}</table>
<ul>{others}</ul>
<p class="soft">The pages show the solutions with the outputs of the run on this machine. To work on
the lessons, run <code>python start.py lab</code>: it puts a copy of each exercise notebook into
<code>work/</code> and opens JupyterLab there. To check your work, run
<code>python start.py check work/NOTEBOOK</code>.</p></main>"""
    return page("minipeft: the course", body)


def _size(measured: dict[str, int]) -> str:
    """Such as "1,530 words, 41 cells, 5 figures"."""
    kinds = ("words", "cells", "figures")
    return ", ".join(f"{measured[what]:,} {what}" for what in kinds)


def _claims_page(records: Sequence[claims.Record], lessons: Sequence[str]) -> str:
    """Every claim with its source, and what the executed lessons recorded about it."""
    rows = []
    for claim in claims.CLAIMS.values():
        about = [one for one in records if one.claim == claim.number]
        said = [
            f"<b>{escaped(one.verdict)}</b>: {escaped(one.measured)} "
            f'<a href="{one.lesson}.html#cell-id={one.cell}">'
            f"lesson {one.lesson.partition('_')[0]}</a>"
            f"<br><small class=soft>rule: {escaped(one.rule)}</small>"
            for one in about
        ]
        if not said:
            numbers = {slug.partition("_")[0]: slug for slug in lessons}
            pages = {n: f'<a href="{slug}.html">{n}</a>' for n, slug in numbers.items()}
            where = ", ".join(pages.get(number, number) for number in claim.lessons)
            said = [f"<span class=soft>not recorded yet (lesson {where})</span>"]
        rows.append(
            f'<tr id="claim-{claim.number}"><td class="number">{claim.number}</td>'
            f"<td>{escaped(claim.text)}<br><small class=soft>{escaped(claim.source)}</small></td>"
            f"<td>{'<br>'.join(said)}</td></tr>"
        )
    answered = len({one.claim for one in records})
    body = f"""<nav><div><a href="index.html">All lessons</a></div></nav>
<main><h1>Claims</h1><p>What people say about these methods, where they say it, and what the
lessons measured. The verdicts are read from the outputs of the notebooks; {answered} of
{len(claims.CLAIMS)} claims have one.</p>
<table><tr><th class="number"></th><th>Claim and source</th><th>Measured here</th></tr>
{"".join(rows)}</table></main>"""
    return page("minipeft: claims", body)


def _picture() -> str:
    """The three doors, as SVG to put into a page."""
    text = (ROOT / "docs" / "three_doors.svg").read_text(encoding="utf-8")
    return text[text.index("<svg") :]
