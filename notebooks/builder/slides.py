"""Slides: one HTML file per lesson, for the lecturer who walks a class through it.

    python start.py slides          writes build/slides/NN_name.html, from the committed notebooks

A cell of a lesson's source with the tag "slide" is shown; nothing is run. A page needs no network
and no other file: the pictures are in it, and the keys are a short script, slides.js. (The
slides of nbconvert are drawn by reveal.js, which is fetched from the network or has to be shipped.)

Of text, a slide takes what can be read from the last row: headings, equations, tables, the
sentences that have something in bold (**Claim: ..**, **Predict** .. to the last question), and of
each item of a list its first sentence. Where nothing is in bold, the first two sentences. A heading
begins a new slide; what stands before the first one belongs to the cell above it, and is shown if
it has something in bold. Exercises and folded hints are left out. Of code, the outputs are shown:
every picture and every claim is a slide of its own, so that a prediction comes before its answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from builder.lesson import SLIDE, Lesson, LessonError
from builder.rendering import escaped, inline, page, rendered, write_page
from minipeft.course import claims

FEWEST = 6  # cells of a lesson that are slides
SCRIPT = Path(__file__).with_name("slides.js").read_text(encoding="utf-8")
STYLE = Path(__file__).with_name("slides.css").read_text(encoding="utf-8")
SECTION = (
    "{%- extends 'basic/index.html.j2' -%}{%- block any_cell -%}"
    '<section class="{{ cell.metadata.get("kind", "text") }}"><div>{{ super() }}</div></section>'
    "{%- endblock any_cell -%}"
)
HINT = re.compile(r"<details>.*?</details>", re.DOTALL)
HEADING = re.compile(r"^#{1,6} ")
ITEM = re.compile(r"^\s*([-*]|\d+\.) +")
SENTENCE = re.compile(r"(?<=[.?!])(?<!e\.g\.)(?<!i\.e\.)(?<!al\.)[)*\"”]* (?=[\"“*`$(]*[A-Z`$0-9])")
CODE_OR_MATH = re.compile(r"`[^`]*`|\$[^$]*\$")
BOLD = re.compile(r"\*\*(?!\d\d\w?\*\*)[^*]+\*\*")  # but for the number of a lesson
AS_IT_IS = re.compile(r"^(\||\$\$|!\[|```|>|<)")


def write_slides(
    lessons: Sequence[Lesson], notebooks: Path, folder: Path, strict: bool = True
) -> list[Path]:
    """Write a presentation of each lesson that has an executed notebook; returns the files.

    strict: False leaves out a notebook that was run before its source was changed.

    Raises:
        LessonError: strict, and there is such a notebook.
    """
    written = []
    for lesson in lessons:
        path = notebooks / f"{lesson.slug}.ipynb"
        if not path.is_file():
            continue
        notebook = nbformat.read(path, as_version=4)
        if strict or belong_together(lesson, notebook):
            written.append(folder / f"{lesson.slug}.html")
            write_page(written[-1], presentation(lesson, notebook))
    return written


def belong_together(lesson: Lesson, notebook: NotebookNode) -> bool:
    """Was the notebook made from this source?"""
    made = [cell["id"] for cell in lesson.solution().cells]
    return made == [cell.get("id") for cell in notebook.cells]


def presentation(lesson: Lesson, notebook: NotebookNode) -> str:
    """The page of one lesson.

    Raises:
        LessonError: the notebook was not made from this source.
    """
    cells = [cell for marked in marked_cells(lesson, notebook) for cell in _slides_of(marked)]
    opening = (
        f'<section class="title"><div><h1>{lesson.number} · {escaped(lesson.title)}</h1>'
        f"<p>{inline(lesson.question)}</p></div></section>"
    )
    body = rendered(nbformat.v4.new_notebook(cells=cells), template=SECTION, code=False)
    keys = "← → or a click: turn the page · Home, End · F: full screen"
    frame = (
        f'<footer><span>{lesson.number} · {escaped(lesson.title)}</span><b id="page"></b></footer>'
    )
    text = f'{opening}{body}{frame}<p class="keys">{keys}</p><script>{SCRIPT}</script>'
    return page(f"{lesson.number} · {lesson.title}: slides", text, STYLE)


def marked_cells(lesson: Lesson, notebook: NotebookNode) -> list[NotebookNode]:
    """The cells of an executed notebook that the lesson's source marks."""
    if not belong_together(lesson, notebook):
        raise LessonError(
            f"{lesson.slug}.ipynb has other cells than its source: `make notebooks "
            f"ONLY={lesson.number}` runs it anew"
        )
    return [
        cell
        for made, cell in zip(lesson.solution().cells, notebook.cells, strict=True)
        if SLIDE in made.metadata.get("tags", [])
    ]


def _slides_of(cell: NotebookNode) -> Iterator[NotebookNode]:
    """One cell per slide."""
    if cell.cell_type == "markdown":
        for text in texts(cell.source):
            yield nbformat.v4.new_markdown_cell(text)
        return
    pictures, others, said = [], [], []
    for output in cell.outputs:
        data = output.get("data", {})
        if any(kind.startswith("image/") for kind in data):
            pictures.append(output)
        elif claims.MIME in data:
            said.append(output)
        elif set(data) != {"text/plain"} or not data["text/plain"].startswith("<"):
            others.append(output)  # all but the name of an object that nobody meant to show
    answers = [[output] for output in said]
    for kind, groups in (
        ("picture", [[output] for output in pictures]),
        ("printed", [others] if others else []),
        ("answer", answers),
    ):
        for outputs in groups:
            slide = nbformat.v4.new_code_cell(outputs=outputs)
            slide.metadata["kind"] = kind
            yield slide


def texts(markdown: str) -> list[str]:
    """The text of each slide that a Markdown cell gives."""
    parts: list[list[str]] = [[]]
    for block in re.split(r"\n\s*\n", HINT.sub("", markdown).strip()):
        lines = block.splitlines()
        while lines and HEADING.match(lines[0]):
            parts.append([lines.pop(0)])
        if lines:
            parts[-1].append("\n".join(lines))
    if len(parts) > 1 and not any(BOLD.search(block) for block in parts[0]):
        parts.pop(0)
    return [text for part in parts if (text := _shortened(part))]


def _shortened(blocks: list[str]) -> str:
    """What is worth a slide, of a heading and the blocks of text below it; "" for nothing."""
    heading = [block for block in blocks if HEADING.match(block)]
    if heading and "exercise" in heading[0].lower():
        return ""
    bold = any(BOLD.search(block) for block in blocks if not AS_IT_IS.match(block))
    kept, plain = list(heading), 0
    for block in blocks[len(heading) :]:
        if AS_IT_IS.match(block):
            kept.append(block)
        elif ITEM.match(block):
            kept.append("\n".join(_first_sentence(item) for item in _items(block)))
        else:
            every = sentences(block)
            chosen = _bold(every) if bold else every[: 2 - plain]
            plain += len(chosen)
            kept += [" ".join(chosen)] if chosen else []
    return "\n\n".join(kept) if len(kept) > len(heading) else ""


def _bold(every: list[str]) -> list[str]:
    """The sentences with something in bold; a prediction goes on to its last question."""
    asked = next((place for place, one in enumerate(every) if "**Predict" in one), len(every))
    questions = [place for place in range(asked, len(every)) if every[place].endswith("?")]
    until = questions[-1] if questions else asked
    return [one for place, one in enumerate(every) if "**" in one or asked <= place <= until]


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph; code, equations and what is in bold are not cut.

    A short opening in bold, **Shown.**, belongs to the sentence behind it.
    """
    text = " ".join(text.split())
    spans = [match.span() for match in CODE_OR_MATH.finditer(text)]
    edges = [0]
    for match in SENTENCE.finditer(text):
        inside = any(start < match.end() <= end for start, end in spans)
        in_bold = text[: match.end()].count("**") % 2
        opening = re.fullmatch(r"\*\*[^*:]{1,20}\*\* ", text[edges[-1] : match.end()])
        if not (inside or in_bold or opening):
            edges.append(match.end())
    edges.append(len(text))
    return [text[a:b].strip() for a, b in zip(edges, edges[1:], strict=False) if text[a:b].strip()]


def _items(block: str) -> list[str]:
    """The items of a list, each on one line."""
    items: list[str] = []
    for line in block.splitlines():
        if ITEM.match(line) or not items:
            items.append(line.rstrip())
        else:
            items[-1] += " " + line.strip()
    return items


def _first_sentence(item: str) -> str:
    mark = ITEM.match(item)
    begin = mark[0] if mark else ""
    return begin + (sentences(item[len(begin) :]) or [""])[0]
