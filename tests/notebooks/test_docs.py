"""The pages made from the lessons: complete, and every link of theirs leads somewhere."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

import build
import start
from builder import docs, glossary, instructors, rendering, results_page
from minipeft.course import results

ROOT = Path(build.__file__).resolve().parents[1]
LESSONS = build.Builder().lessons()
EVERY_NUMBER = [lesson.number for lesson in LESSONS]


@pytest.fixture(scope="module")
def made():
    return docs.made(LESSONS, build.HERE)


def test_links_of_the_pages_lead_to_files_and_headings(made):
    for name, text in made.items():
        headings = {
            re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        for link in re.findall(r"\]\(([^)]+)\)", text):
            target, _, place = link.partition("#")
            if not target:
                assert place in headings, f"{name}: {link}"
            elif "://" not in target:
                known = target in {*docs.PAGES, *made}
                assert known or (ROOT / "docs" / target).exists(), f"{name}: {link}"


def test_pages_of_the_course_link_to_one_another(tmp_path):
    every = docs.html_pages(LESSONS, build.HERE, tmp_path)
    slugs = {f"{lesson.slug}.html" for lesson in LESSONS}
    assert {f"{Path(name).stem}.html" for name in docs.PAGES} == {*every, "claims.html"}
    for name, text in every.items():
        assert not re.search(r'src="(?!data:)', text) and "EQUATION" not in text
        for link in re.findall(r'href="([^"#]+)', text):
            known = link in {*every, *slugs, "claims.html", "index.html"}
            assert known or "://" in link or (tmp_path / link).resolve().exists(), f"{name}: {link}"
    assert 'href="10_lora.html#cell-id=' in every["glossary.html"]
    assert "\\|" not in re.sub(r"<math.*?</math>", "", every["equations.html"])


def test_the_index_has_the_lessons_in_order(made):
    rows = re.findall(r"^\| (\d\d\w?) \| \[([^\]]+)\].*?\| ([^|]+) \|", made["README.md"], re.M)
    assert [(number, title) for number, title, _ in rows] == [
        (lesson.number, lesson.title) for lesson in LESSONS
    ]
    assert all(lesson.question in made["README.md"] for lesson in LESSONS)
    assert "| 80 min | 6 min | 4: [AdapterPatch, " in made["README.md"]
    for name in docs.PAGES:
        assert f"]({name})" in made["README.md"] and (
            name in made or (ROOT / "docs" / name).is_file()
        )


def test_all_claims_and_figures_are_answered_or_said_to_be_open(made):
    assert len(re.findall(r"^\| \d+ \| .* \| (?:\*\*|open)", made["claims.md"], re.M)) == 63
    for figure in results.figures():
        section = made["results.md"].partition(f"\n## {figure.title}\n")[2].partition("\n## ")[0]
        assert figure.shape in section and figure.paper in section
        assert ("| measured here |" in section) != ("**Open**: lesson" in section)
    page = results_page.html_page(build.HERE, [lesson.slug for lesson in LESSONS])
    assert len(re.findall(r'href="claims.html#claim-\d+"', page)) == 63
    assert page.count('<svg class="chart"') == sum(len(one.panels) for one in results.figures())
    assert page.count("data:image/png;base64,") >= 10


def test_the_bars_of_a_chart_are_as_long_as_its_numbers():
    panel = results.Panel("score", (("one", 50.0, None), ("two", 100.0, 25.0)), "again")
    drawn = re.findall(
        r'<rect class="(\w+)" x="\d+" y="\d+" width="([\d.]+)"', results_page.chart(panel)
    )
    (_, half), (_, whole), (kind, quarter) = drawn
    assert float(half) * 2 == float(whole) == float(quarter) * 4 == results_page.BARS
    assert kind == "second"
    assert "again" in results_page.chart(panel)


def test_every_term_is_a_sentence_with_a_chinese_word_and_used_in_a_lesson():
    every = glossary.terms()
    assert len({one.term for one in every}) == len(every) >= 70
    for one in every:
        assert re.fullmatch(r"[A-Z].*\.", one.says) and one.says.count(". ") == 0, one.term
        assert re.search("[\u4e00-\u9fff]", one.chinese), one.term
    unused = {one.term for one in every} - set(glossary.first_uses(every, LESSONS))
    assert not unused, "take them out of the glossary, or give the forms that the lessons use"


def test_the_first_use_is_the_first(made):
    terms = [glossary.Term("soft prompt", "软提示", "It is."), glossary.Term("zyx", "无", "No.")]
    uses = glossary.first_uses(terms, LESSONS)
    assert list(uses) == ["soft prompt"]
    lesson, cell = uses["soft prompt"].lesson, uses["soft prompt"].cell
    before = [one for one in LESSONS if one.number < lesson.number]
    assert not any("soft prompt" in c.source.lower() for one in before for c in one.cells)
    (text,) = [c.source for c in lesson.solution().cells if c["id"] == cell]
    assert "soft prompt" in text.lower()
    assert f"notebooks/{lesson.slug}.ipynb#cell-id={cell}" in made["glossary.md"]


@pytest.mark.parametrize("number", EVERY_NUMBER)
def test_every_lesson_has_three_questions_with_a_rubric(number):
    every = [one for one in instructors.questions() if one.lesson == number]
    assert len(every) == 3
    for one in every:
        assert len(one.asks) > 30
        assert len({one.two, one.one, one.none}) == 3
        assert all(text and "|" not in text for text in (one.asks, one.two, one.one, one.none))


def test_what_the_page_for_teachers_tells_them_to_run_exists(made):
    text = made["instructors.md"]
    assert "{" not in re.sub(r"`[^`]*`", "", text)
    commands = set(re.findall(r"python start\.py (\w+)", text))
    assert {"lab", "nbgrader", "otter", "slides", "check"} <= commands <= set(start.COMMANDS)
    assert set(re.findall(r"build\.py (\w+)", text)) <= set(build.COMMANDS)
    rows = re.findall(r"^\| \[(\d\d\w?) [^|]*\| ([^|]*) \|", text, re.M)
    assert [number for number, _ in rows] == EVERY_NUMBER
    sittings = {lesson.number: lesson.tried.get("sitting") for lesson in LESSONS}
    for number, sitting in rows:
        assert sitting.strip() == (f"{sittings[number]:g} min" if sittings[number] else "")


@pytest.mark.slow
def test_pages_are_written_where_they_differ_and_old_ones_are_told(tmp_path, capsys):
    builder = build.Builder()
    builder.pages = tmp_path
    assert builder.docs(LESSONS) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(docs.MADE)
    assert builder._old_pages() == []
    (tmp_path / "claims.md").write_text("old")
    (note,) = builder._old_pages()
    assert "docs/claims.md" in note and "build.py docs" in note
    capsys.readouterr()
    builder.docs(LESSONS)
    assert capsys.readouterr().out.count("wrote") == 1


def test_a_bar_in_the_code_of_a_table_is_a_bar():
    page = rendering.rendered_markdown("| a |\n|---|\n| `\\|\\|x\\|\\|` |\n")
    assert "<code>||x||</code>" in page


def test_every_formula_of_the_lessons_is_drawn_whole():
    for lesson in LESSONS:
        prose = [c.source for c in lesson.solution().cells if c.cell_type == "markdown"]
        for match in (match for text in prose for match in rendering.MATH.finditer(text)):
            formula = match["block"] or match["inline"]
            if not match["code"]:
                left = re.findall(r"\\\w+", rendering.mathml(formula))
                assert not left, f"{lesson.slug}: no MathML for {left} in {formula}"


def test_the_first_use_in_a_lesson_is_a_link_to_the_glossary(tmp_path):
    every = glossary.terms()
    uses = glossary.first_uses(every, LESSONS)
    page = docs.html_pages(LESSONS, build.HERE, tmp_path)["glossary.html"]
    links = []
    for lesson in LESSONS:
        before, after = lesson.solution(), glossary.linked(lesson, lesson.solution(), uses)
        for one, other in zip(before.cells, after.cells, strict=True):
            links += re.findall(r"glossary\.html#([\w-]+)\)", other.source)
            plain = re.sub(r"\[([^\[\]]*)\]\(glossary\.html#[\w-]+\)", r"\1", other.source)
            assert plain == one.source
    assert len(links) == len(set(links)) > 0.8 * len(every)  # some come first in a heading
    assert all(f'<td id="{place}">' in page for place in links)
    assert len({one.place for one in every}) == len(every)
    assert all(re.fullmatch("[a-z0-9-]+", one.place) for one in every)  # as in an address


def test_a_link_to_the_glossary_leaves_the_stars_around_it_in_pairs():
    uses = glossary.first_uses(glossary.terms(), LESSONS)
    for lesson in LESSONS:
        for cell in glossary.linked(lesson, lesson.solution(), uses).cells:
            if cell.cell_type == "markdown":
                for words in re.findall(r"\[([^\[\]]*)\]\(glossary\.html#", cell.source):
                    assert len(re.findall(r"\*+", words)) % 2 == 0, f"{lesson.slug}: {words}"


@pytest.mark.parametrize(
    ("text", "inside", "span"),
    [
        ("train the **head** only.", "head** only", "**head** only"),
        ("one **masked word** is", "**masked", "masked"),
        ("one **masked** word", "**masked", "**masked**"),
        ("what is *trained* is", "what is *trained*", "what is *trained*"),
        ("a *long word* here", "word* here", ""),
    ],
)
def test_marks_of_bold_and_italic_type_stay_in_pairs(text, inside, span):
    begin = text.index(inside)
    begin, end = glossary.in_pairs(text, begin, begin + len(inside))
    assert text[begin:end] == span


def test_no_label_of_a_chart_is_cut_off():
    """Measured in DejaVu Sans, the widest font that the page's list falls back to."""
    fonts = pytest.importorskip("matplotlib.font_manager")
    from matplotlib.textpath import TextPath

    def width(text, weight="normal"):
        font = fonts.FontProperties(family="DejaVu Sans", weight=weight)
        return TextPath((0, 0), text, size=13, prop=font).get_extents().width

    for panel in (panel for figure in results.figures() for panel in figure.panels):
        svg = results_page.chart(panel)
        wide = int(re.search(r'viewBox="0 0 (\d+) ', svg)[1])
        assert width(panel.measure, "semibold") <= wide, panel.measure
        labels = re.findall(r'<text x="(\d+)" y="\d+" text-anchor="end">([^<]*)', svg)
        assert len(labels) == len(panel.rows)
        for end, label in labels:
            assert width(html.unescape(label)) <= int(end), label


WIDE = f"""# A {"very" * 30} long heading

`{"a_long_name" * 20}` and $x$, {"https://example.org/" * 20}

| {" | ".join(f"`column_{n}`" for n in range(9))} |
|{"---|" * 9}
| {" | ".join(f"`cell_{n}`" for n in range(9))} |

$$ {" + ".join(f"x_{{{n}}}" for n in range(40))} $$

```
{"a line of code " * 20}
```

* `{"item" * 60}`
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def test_an_equation_keeps_its_bracket_and_its_comma():
    page = rendering.rendered_markdown("A union ($m = 48$, $x$; see $y$) of $z$ parts `[$k$]`")
    assert re.findall(r'<span class="glued">([^<]*)<math', page) == ["(", "", ""]
    assert re.findall(r"</math>([^<]*)</span>", page) == [",", ";", ")"]
    assert page.count("<math") == 4 and "<code>[$k$]</code>" in page
    block = rendering.rendered_markdown("$$x = 1$$\n\nand so on")
    assert "glued" not in block


def printed(text):
    cell = nbformat.v4.new_code_cell("print()", id="page")
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    return rendering.rendered(nbformat.v4.new_notebook(cells=[cell]))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("word      right\nthe       0.96\n", True),
        ("\x1b[32m✓ right\x1b[0m\nthe   0.96\nof    0.50\n", True),
        ("one line   with columns\nand a sentence\n", False),
        ("Doctor: 1 finding\n    a sentence that is\n    indented\n", False),
    ],
)
def test_printed_columns_are_known(text, columns):
    page = printed(text)
    assert ('<pre class="columns">' in page) is columns
    assert page.count("<pre") == 2  # the code and its output


@pytest.mark.parametrize("width", [420, 1280])
def test_a_page_never_scrolls_sideways(tmp_path, width):
    """What is wider than the page scrolls by itself. Asked of a browser, where there is one."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("needs Chromium")
    links = "".join(f'<a href="x">{n} The title of a lesson</a>' for n in range(9))
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="894" height="9"/>'
    picture = f'<img src="data:image/svg+xml,{html.escape(picture)}">'
    wide = f'<div class="output">{picture}</div>' + printed(f"{'name':60}number\n" * 2)
    body = f"<nav><div>{links}</div></nav><main>{rendering.rendered_markdown(WIDE)}{wide}</main>"
    inner = html.escape(rendering.page("wide", body))
    (tmp_path / "outer.html").write_text(
        f'<iframe width="{width}" height="600" style="border: 0" srcdoc="{inner}"></iframe><script>'
        'onload = () => document.title = "it is " + document.querySelector("iframe")'
        '.contentDocument.documentElement.scrollWidth + " wide"</script>'
    )
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}")
    command = [browser, *flags, "--dump-dom", (tmp_path / "outer.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert int(re.search(r"it is (\d+) wide", done.stdout)[1]) <= width
