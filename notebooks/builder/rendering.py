"""What all pages of the course share: cells and Markdown as HTML that needs nothing else.

nbconvert renders the cells. Its own page would fetch MathJax from the network, so equations are
turned into MathML here, which browsers draw by themselves, and the page around the cells is ours.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from builder.lesson import HIDDEN

# Code (fenced or in backticks) is matched first, so that a dollar sign in it stays one. An equation
# may go on in the next line of its paragraph, as it may in Jupyter.
MATH = re.compile(
    r"(?P<code>^(?P<fence>```|~~~).*?^(?P=fence)[^\n]*$|(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))"
    r"|\$\$(?P<block>.+?)\$\$"
    r"|(?<![\\$\w])\$(?P<inline>[^\s$](?:(?:[^$\n]|\n(?!\s*\n))*?[^\s$\\])?)\$(?![\w$])",
    re.DOTALL | re.MULTILINE,
)
TOKEN = re.compile(r"EQUATION\d+X")
# Browsers break a line between an equation and the comma behind it, or the bracket before it.
GLUED = re.compile(r"[(\[]EQUATION\d+X[.,;:?!)\]]*|EQUATION\d+X[.,;:?!)\]]+")
PRINTED = re.compile(r"<pre>(?!<span></span>)(.*?)</pre>", re.DOTALL)  # and no highlighted code
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
FOLDED = (
    "{%- extends 'basic/index.html.j2' -%}{%- block input_group -%}"
    f"{{%- if '{HIDDEN}' in cell.metadata.get('tags', []) -%}}"
    "<details><summary>The code of this cell</summary>{{ super() }}</details>"
    "{%- else -%}{{ super() }}{%- endif -%}{%- endblock input_group -%}"
)


def mathml(formula: str, display: str = "inline") -> str:
    """An equation in LaTeX as MathML. display: "inline" or "block"."""
    known = re.sub(r"\\arg\s*\\(max|min)", r"\\arg\1", formula)  # the converter has these only
    return convert(known, display=display)


def rendered(notebook: NotebookNode, template: str = FOLDED, code: bool = True) -> str:
    """The cells of a notebook as HTML.

    template: of nbconvert, in Jinja's language.  code: False leaves the code of the cells out.
    """
    exporter = HTMLExporter(template_name="basic", raw_template=template)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.exclude_input = not code
    body, _ = exporter.from_notebook_node(_without_math(notebook, equations := []))
    # a heading is the name of its place too, and a name cannot hold an equation
    body = re.sub(r'(?<=[ "])(id|href)="[^"]*"', lambda m: TOKEN.sub("", m[0]), body)
    # in a table, a bar in code is written \\| so that it divides no cells
    body = re.sub(r"(?<=<code>)[^<]*(?=</code>)", lambda m: m[0].replace("\\|", "|"), body)
    body = GLUED.sub(r'<span class="glued">\g<0></span>', body)
    for number, equation in enumerate(equations):
        body = body.replace(_token(number), equation)
    return PRINTED.sub(_printed, body)


def _printed(match: re.Match) -> str:
    """Output as text; where lines of it have columns, it says so: they must not be wrapped."""
    lines = re.sub(r"<[^>]*>", "", match[1]).splitlines()
    columns = sum(re.search(r"\S {2,}\S", line) is not None for line in lines) > 1
    return f'<pre class="columns">{match[1]}</pre>' if columns else match[0]


def rendered_markdown(source: str) -> str:
    """Markdown, with equations, as HTML."""
    return rendered(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source, id="page")])
    )


def _without_math(notebook: NotebookNode, equations: list[str]) -> NotebookNode:
    """A copy whose equations are replaced by tokens; their MathML goes to `equations`.

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


def inline(text: str) -> str:
    """Plain text that may hold `$equations$`, as HTML."""
    pieces = re.split(r"\$([^$]+)\$", text)
    return "".join(mathml(p) if i % 2 else escaped(p) for i, p in enumerate(pieces))


def _token(number: int) -> str:
    """What TOKEN finds."""
    return f"EQUATION{number}X"


def escaped(text: str) -> str:
    return html.escape(text, quote=False)


def page(title: str, body: str, style: str = "") -> str:
    """A whole page. style: rules of CSS besides those that all pages have."""
    code = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    style = f"{code}\n.highlight {{ background: none; }}\n{STYLE}{style}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write under a temporary name and move into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
