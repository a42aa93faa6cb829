"""The page of results: every headline figure of the papers with its miniature beside it.

The papers' numbers come from minipeft/course/headline_figures.toml, everything else from the
outputs of the executed notebooks: see minipeft/course/results.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from builder.rendering import escaped, page
from minipeft.course import claims, results

INTRODUCTION = (
    "Large models, large data: the papers' numbers cannot be had on a laptop, but their shapes can "
    "be asked for. Beside each headline figure stands its miniature, on models of 0.1 to 3 million "
    "numbers and two real ones (MiniLM, 23 million, and SmolLM2, 135 million). What was measured, "
    "and whether the shape is the same, is read from the records of the lessons; a figure without "
    "a record is open."
)
SECONDHAND = "Its numbers were read in notes of the paper, not in the paper."
LETTER, BARS = 8, 190  # the width of a letter of a chart and of its longest bar, in pixels


def html_page(notebooks: Path, pages: Sequence[str]) -> str:
    """results.html. pages: the names of the lessons that have a page beside it."""
    answered = [(figure, results.findings(figure, notebooks)) for figure in results.figures()]
    overview = "".join(
        f'<tr><td><a href="#{figure.name}">{escaped(figure.title)}</a></td>'
        f"<td>{escaped(figure.paper.partition(',')[0])}</td>"
        f"<td>{_badge(results.shape_of(every))}</td><td>{_lessons(figure, every, pages)}</td></tr>"
        for figure, every in answered
    )
    body = "".join(_figure(figure, every, pages) for figure, every in answered)
    return page(
        "minipeft: results",
        '<nav><div><a href="index.html">All lessons</a><a href="claims.html">Claims</a></div></nav>'
        f"<main><h1>Results</h1><p>{escaped(INTRODUCTION)}</p>"
        f"<p>{escaped(counted([every for _, every in answered]))}</p>"
        "<table><tr><th>Figure</th><th>Paper</th><th>Shape</th><th>Lesson</th></tr>"
        f"{overview}</table>{body}{_claims(claims.records(notebooks), pages)}</main>",
    )


def counted(answered: Sequence[Sequence[results.Finding]]) -> str:
    """Such as "31 figures: 9 same, 10 different, 3 undecided, 4 in part, 5 open."."""
    counts = Counter(results.shape_of(every) for every in answered)
    known = [f"{counts[shape]} {shape}" for shape in results.SHAPES if counts[shape]]
    mixed = len(answered) - sum(counts[shape] for shape in results.SHAPES)
    return (
        f"{len(answered)} figures: {', '.join([*known, *([f'{mixed} in part'] if mixed else [])])}."
    )


def _figure(figure: results.Figure, every: Sequence[results.Finding], pages: Sequence[str]) -> str:
    picture = next((finding for finding in every if finding.picture), None)
    paper = "".join(chart(panel) for panel in figure.panels)
    paper = paper or "<p class=soft>The paper shows a figure; its values are not quoted here.</p>"
    source = f"{figure.paper}; {figure.source}. Model: {figure.model}."
    ours = "<p class=soft>No picture: the record is in words.</p>"
    if picture:
        ours = f'<img alt="" src="data:image/png;base64,{picture.picture}">'
    elif not every:
        ours = f"<p class=soft>Open: lesson {', '.join(_expected(figure)) or 'to come'}.</p>"
    rows = "".join(
        f"<tr><td>{escaped(one.part)}</td><td>{escaped(one.measured)} {_link(one, pages)}</td>"
        f"<td>{_badge(one.shape)}</td><td><small class=soft>{escaped(one.why)}</small></td></tr>"
        for one in every
    )
    table = (
        f"<table><tr><th></th><th>Measured here</th><th>Shape</th><th>Why</th></tr>{rows}</table>"
    )
    notes = [figure.note, SECONDHAND if figure.secondhand else ""]
    return (
        f'<h2 id="{figure.name}">{escaped(figure.title)}</h2>'
        f"<p>{escaped(figure.shape)} {_badge(results.shape_of(every))}</p>"
        '<div class="pair"><figure>'
        f"{paper}<figcaption>Paper: {escaped(source)} {escaped(' '.join(filter(None, notes)))}"
        f"</figcaption></figure><figure>{ours}<figcaption>"
        f"{f'Here: {_link(picture, pages)}' if picture else ''}</figcaption></figure></div>"
        f"{table if every else ''}"
    )


def chart(panel: results.Panel) -> str:
    """The numbers of a paper as bars from zero, in SVG."""
    most = max(value for row in panel.rows for value in row[1:] if value is not None)
    label = LETTER * max(len(row[0]) for row in panel.rows) + 12
    parts, top = [], 22
    for name, first, second in panel.rows:
        parts.append(
            f'<text x="{label - 8:.0f}" y="{top + 14}" text-anchor="end">{escaped(name)}</text>'
        )
        for value, kind in ((first, "first"), (second, "second")):
            if value is None:
                continue
            long = max(1.0, value / most * BARS)
            parts.append(
                f'<rect class="{kind}" x="{label:.0f}" y="{top}" width="{long:.1f}" height="16"/>'
                f'<text x="{label + long + 6:.0f}" y="{top + 13}">{value:g}</text>'
            )
            top += 20
        top += 4
    if panel.second:
        legend = f"lighter: {panel.second}"
        parts.append(f'<text x="{label:.0f}" y="{top + 12}" class="name">{escaped(legend)}</text>')
        top += 18
    wide = round(max(label + BARS + 60, LETTER * 1.15 * len(panel.measure)))
    return (
        f'<svg class="chart" viewBox="0 0 {wide} {top + 4}" style="width: {wide}px" role="img">'
        f'<text x="0" y="12" class="name">{escaped(panel.measure)}</text>{"".join(parts)}</svg>'
    )


def _claims(records: Sequence[claims.Record], pages: Sequence[str]) -> str:
    rows = []
    for claim in claims.CLAIMS.values():
        about = [one for one in records if one.claim == claim.number]
        said = ", ".join(
            f"<b>{escaped(one.verdict)}</b> "
            f"({_to_lesson(one.lesson, one.cell, pages) or escaped(one.lesson)})"
            for one in about
        )
        rows.append(
            f'<tr><td class="number"><a href="claims.html#claim-{claim.number}">{claim.number}</a>'
            f"</td><td>{escaped(claim.text)}</td>"
            f"<td>{said or 'open, lesson ' + ', '.join(claim.lessons)}</td></tr>"
        )
    answered = len({one.claim for one in records})
    return (
        f'<h2 id="claims">All claims</h2><p>{answered} of {len(claims.CLAIMS)} have a record. '
        '<a href="claims.html">With sources, measurements and rules</a>.</p>'
        '<table><tr><th class="number"></th><th>Claim</th><th>Verdict</th></tr>'
        f"{''.join(rows)}</table>"
    )


def _badge(shape: str) -> str:
    kind = shape if shape in results.SHAPES else "mixed"
    return f'<span class="shape {kind}">{escaped(shape)}</span>'


def _link(one: results.Finding, pages: Sequence[str]) -> str:
    return _to_lesson(one.lesson, one.cell, pages)


def _to_lesson(lesson: str, cell: str, pages: Sequence[str]) -> str:
    name = f"lesson {lesson.partition('_')[0]}"
    return f'<a href="{lesson}.html#cell-id={cell}">{name}</a>' if lesson in pages else name


def _expected(figure: results.Figure) -> list[str]:
    """The numbers of the lessons that will answer it."""
    return sorted({lesson for evidence in figure.evidence for lesson in evidence.lessons})


def _lessons(figure: results.Figure, every: Sequence[results.Finding], pages) -> str:
    links = {one.number: _link(one, pages) for one in reversed(every)}
    return ", ".join(links[number] for number in sorted(links)) or ", ".join(_expected(figure))


def markdown(notebooks: Path, folder: str = "../notebooks/") -> str:
    """docs/results.md: the same in words and numbers, with links to the notebooks."""
    answered = [(figure, results.findings(figure, notebooks)) for figure in results.figures()]
    lines = ["# Results", "", INTRODUCTION, "", counted([every for _, every in answered]), ""]
    lines += ["The course's own page, `build/course/results.html`, shows the pictures.", ""]
    lines += ["| figure | paper | shape |", "|---|---|---|"]
    for figure, every in answered:
        where = figure.title.lower().replace(" ", "-").translate({ord(c): "" for c in ",?'()"})
        row = (f"[{figure.title}](#{where})", figure.paper, results.shape_of(every))
        lines.append(f"| {' | '.join(row)} |")
    for figure, every in answered:
        source = f"Paper: {figure.paper}; {figure.source}. Model: {figure.model}."
        notes = [figure.note, SECONDHAND if figure.secondhand else ""]
        lines += ["", f"## {figure.title}", "", figure.shape, ""]
        lines += [" ".join(filter(None, [source, *notes])), ""]
        for panel in figure.panels:
            numbers = [
                f"{name} {first:g}" + ("" if second is None else f" ({panel.second} {second:g})")
                for name, first, second in panel.rows
            ]
            lines.append(f"* {panel.measure}: {'; '.join(numbers)}")
        lines += [""] * bool(figure.panels)
        if not every:
            lines += [f"**Open**: lesson {', '.join(_expected(figure)) or 'to come'}."]
            continue
        lines += ["| | measured here | shape | why |", "|---|---|---|---|"]
        for one in every:
            link = f"[lesson {one.number}]({folder}{one.lesson}.ipynb#cell-id={one.cell})"
            row = (one.part, f"{one.measured} {link}", one.shape, one.why)
            lines.append(f"| {' | '.join(part.replace('|', '/') for part in row)} |")
    return "\n".join(lines) + "\n"
