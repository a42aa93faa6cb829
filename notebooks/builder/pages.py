"""The course as web pages that need nothing from the network: an index, lessons, claims.

nbconvert renders the cells. Its own page would fetch MathJax from the network, so equations are
turned into MathML here, which browsers draw by themselves, and the page around the cells is ours.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from builder.cut import ROOT
from builder.lesson import HIDDEN, Lesson
from builder.measure import measure
from minipeft.course import claims

# Code (fenced or in backticks) is matched first, so that a dollar sign in it stays one. An equation
# may go on in the next line of its paragraph, as it may in Jupyter.
MATH = re.compile(
    r"(?P<code>^(?P<fence>```|~~~).*?^(?P=fence)[^\n]*$|(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))"
    r"|\$\$(?P<block>.+?)\$\$"
    r"|(?<![\\$\w])\$(?P<inline>[^\s$](?:(?:[^$\n]|\n(?!\s*\n))*?[^\s$\\])?)\$(?![\w$])",
    re.DOTALL | re.MULTILINE,
)

STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def write_pages(lessons: Sequence[Lesson], folder: Path, exercises: Path) -> Path:
    """Write the index (its path is returned) and a page for each executed lesson in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = [lesson for lesson in lessons if (folder / f"{lesson.slug}.ipynb").is_file()]
    for position, lesson in enumerate(done):
        notebook = nbformat.read(folder / f"{lesson.slug}.ipynb", as_version=4)
        before = done[position - 1] if position else None
        after = done[position + 1] if position + 1 < len(done) else None
        _write(folder / f"{lesson.slug}.html", _lesson_page(lesson, notebook, before, after))
    slugs = [lesson.slug for lesson in done]
    _write(folder / "claims.html", _claims_page(claims.records(folder), slugs))
    index = folder / "index.html"
    _write(index, _index_page(lessons, folder, exercises))
    return index


def _lesson_page(
    lesson: Lesson, notebook: NotebookNode, before: Lesson | None, after: Lesson | None
) -> str:
    body, _ = _exporter().from_notebook_node(_without_math(notebook, equations := []))
    # a heading is the name of its place too, and a name cannot hold an equation
    body = re.sub(r'(?<=[ "])(id|href)="[^"]*"', lambda m: TOKEN.sub("", m[0]), body)
    for number, equation in enumerate(equations):
        body = body.replace(_token(number), equation)
    links = [
        '<a href="index.html">All lessons</a>',
        '<a href="claims.html">Claims</a>',
        "<span></span>",
    ]
    if before:
        links.append(f'<a href="{before.slug}.html">← {before.number} {_text(before.title)}</a>')
    if after:
        links.append(f'<a href="{after.slug}.html">{after.number} {_text(after.title)} →</a>')
    nav = f"<nav><div>{''.join(links)}</div></nav>"
    return _page(f"{lesson.number} · {lesson.title}", f"{nav}<main>{body}</main>")


def _index_page(lessons: Sequence[Lesson], folder: Path, exercises: Path) -> str:
    rows = []
    for lesson in lessons:
        path = folder / f"{lesson.slug}.ipynb"
        name = f"{lesson.number} · {_text(lesson.title)}"
        took, size = "not run yet", ""
        if path.is_file():
            notebook = nbformat.read(path, as_version=4)
            seconds = notebook.metadata.get("minipeft", {}).get("seconds")
            took = f"{lesson.minutes:g} min (here {seconds} s)"
            size = _size(measure(lesson, notebook))
            name = f'<a href="{lesson.slug}.html">{name}</a>'
        write = ""
        if lesson.exercises:
            target = os.path.relpath(exercises / f"{lesson.slug}.ipynb", folder)
            what = ", ".join(e.cut.name for e in lesson.exercises.values())
            count = len(lesson.exercises)
            write = f'{count}: <a href="{html.escape(target)}">{_text(what)}</a>'
        rows.append(
            f"<tr><td>{name}<br><small class=soft>{size}</small></td>"
            f"<td>{_inline(lesson.question)}</td>"
            f'<td class="number">{_sitting(lesson)}</td><td class="number">{took}</td>'
            f"<td>{write}</td></tr>"
        )
    body = f"""<main><h1>minipeft</h1>
<p>A frozen transformer has three doors: its <b>words</b>, its <b>memory</b> and its
<b>weights</b>. Every method of parameter-efficient fine-tuning is a small module placed in one of
them.</p>
<figure>{_picture()}</figure>
<table><tr><th>Lesson</th><th>Its question</th><th class="number">For you</th>
<th class="number">Runs in</th><th>Exercises</th></tr>
{"".join(rows)}</table>
<p><a href="claims.html">What people say about these methods</a>: {len(claims.CLAIMS)} claims with
their sources, and what the lessons measured.</p>
<p class="soft">The pages show the solutions with the outputs of the run on this machine. To work on
the lessons, run <code>python start.py lab</code>: it puts a copy of each exercise notebook into
<code>work/</code> and opens JupyterLab there. To check your work, run
<code>python start.py check work/NOTEBOOK</code>.</p></main>"""
    return _page("minipeft: the course", body)


def _sitting(lesson: Lesson) -> str:
    """How long a reader needs: as it was tried, else what the exercises plan."""
    if "sitting" in lesson.tried:
        return f"{lesson.tried['sitting']:g} min"
    planned = sum(exercise.minutes for exercise in lesson.exercises.values())
    return f"exercises {planned:g} min" if planned else ""


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
            f"<b>{_text(one.verdict)}</b>: {_text(one.measured)} "
            f'<a href="{one.lesson}.html#cell-id={one.cell}">'
            f"lesson {one.lesson.partition('_')[0]}</a>"
            f"<br><small class=soft>rule: {_text(one.rule)}</small>"
            for one in about
        ]
        if not said:
            numbers = {slug.partition("_")[0]: slug for slug in lessons}
            pages = {n: f'<a href="{slug}.html">{n}</a>' for n, slug in numbers.items()}
            where = ", ".join(pages.get(number, number) for number in claim.lessons)
            said = [f"<span class=soft>not recorded yet (lesson {where})</span>"]
        rows.append(
            f'<tr id="claim-{claim.number}"><td class="number">{claim.number}</td>'
            f"<td>{_text(claim.text)}<br><small class=soft>{_text(claim.source)}</small></td>"
            f"<td>{'<br>'.join(said)}</td></tr>"
        )
    answered = len({one.claim for one in records})
    body = f"""<nav><div><a href="index.html">All lessons</a></div></nav>
<main><h1>Claims</h1><p>What people say about these methods, where they say it, and what the
lessons measured. The verdicts are read from the outputs of the notebooks; {answered} of
{len(claims.CLAIMS)} claims have one.</p>
<table><tr><th class="number"></th><th>Claim and source</th><th>Measured here</th></tr>
{"".join(rows)}</table></main>"""
    return _page("minipeft: claims", body)


def _picture() -> str:
    """The three doors, as SVG to put into a page."""
    text = (ROOT / "docs" / "three_doors.svg").read_text(encoding="utf-8")
    return text[text.index("<svg") :]


FOLDED = (
    "{%- extends 'basic/index.html.j2' -%}{%- block input_group -%}"
    f"{{%- if '{HIDDEN}' in cell.metadata.get('tags', []) -%}}"
    "<details><summary>The code of this cell</summary>{{ super() }}</details>"
    "{%- else -%}{{ super() }}{%- endif -%}{%- endblock input_group -%}"
)


def _exporter() -> HTMLExporter:
    exporter = HTMLExporter(template_name="basic", raw_template=FOLDED)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    return exporter


def _without_math(notebook: NotebookNode, equations: list[str]) -> NotebookNode:
    """A copy whose equations are replaced by tokens; their MathML goes to `found`.

    Tokens, because Markdown would read the stars and underscores of an equation as its own.
    """
    copy = nbformat.from_dict(notebook)

    def replace(match: re.Match) -> str:
        if match["code"]:
            return match[0]
        block = match["block"] is not None
        equations.append(
            mathml(match["block"] or match["inline"], display="block" if block else "inline")
        )
        return _token(len(equations) - 1)

    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = MATH.sub(replace, cell.source)
        else:
            kind = "exercise" if cell.metadata.get("minipeft") else ""
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), *([kind] if kind else [])]
    return copy


def _inline(text: str) -> str:
    """Plain text that may hold `$equations$`, as HTML."""
    pieces = re.split(r"\$([^$]+)\$", text)
    return "".join(mathml(p) if i % 2 else _text(p) for i, p in enumerate(pieces))


TOKEN = re.compile(r"EQUATION\d+X")


def _token(number: int) -> str:
    """What TOKEN finds."""
    return f"EQUATION{number}X"


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _page(title: str, body: str) -> str:
    code = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    style = f"{code}\n.highlight {{ background: none; }}\n{STYLE}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{style}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
