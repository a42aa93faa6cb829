"""What a person waits for and may interrupt: a grid of runs, a build of the course.

`grid(folder)` and `course(folder)` go on from what is in the folder; `grid_whole(folder)` and
`course_whole(folder)` say what is broken in it, or was made a second time; `grid_plain` and
`course_plain` give what of a file is the same in every run: seconds are not.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import tempfile
import textwrap
import time
from contextlib import redirect_stdout
from pathlib import Path

from minipeft.__main__ import main
from tiny_transformer.files import write_text

ROOT = Path(__file__).resolve().parents[1]
SEEN = "seen.json"  # when each finished piece was made
ORPHAN = 10  # seconds after which a kernel must have seen that nobody waits for it


def made_again(folder: Path, pieces: list[Path]) -> str | None:
    """A piece that was finished when we last looked, and is another or gone now."""
    record = folder / SEEN
    before = json.loads(record.read_text()) if record.exists() else {}
    now = {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in pieces}
    record.write_text(json.dumps(now))
    again = [name for name, made in before.items() if now.get(name) != made]
    return f"was finished and is made again: {again}" if again else None


# ---- a grid: two methods, two seeds, three steps each


def grid(folder: Path) -> None:
    """`minipeft compare` on eight pairs of words."""
    data = folder.parent / "pairs.jsonl"  # the same file for all, since a grid remembers its path
    if not data.exists():
        words = "kite box bell coin drum lamp rope cup".split()
        pairs = [(f"{a} {b} =>", f"{b} {a} .") for a, b in zip(words, words[::-1], strict=True)]
        lines = [json.dumps({"input": x, "target": y}) for x, y in pairs]
        write_text(data, "\n".join(lines))
    words = f"compare --base tiny-decoder-0.1m --data {data} --kind text-to-text --device cpu"
    words += " --methods ia3 lora:rank=1 --learning-rates 0.01 --seeds 0 1 --steps 3"
    words += f" --batch-size 2 --dev-limit 1 --out {folder / 'grid'}"
    with redirect_stdout(io.StringIO()):
        code = main(words.split())
    if code:
        raise RuntimeError(f"compare ended with {code}")


def grid_whole(folder: Path) -> str | None:
    grid = folder / "grid"
    cells = sorted(grid.glob("cells/*.json"))
    for path in [*grid.glob("grid.json"), *cells]:
        json.loads(path.read_text())
    for path in grid.glob("cells.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text())))
        if len(rows) != 1 + len(cells) or len({len(row) for row in rows}) != 1:
            return "cells.csv is not whole"
    for path in grid.glob("table.txt"):
        if not path.read_text().endswith("is possible\n"):
            return "table.txt is not whole"
    for path in grid.glob("compare.png"):
        if not path.read_bytes().endswith(b"IEND\xaeB`\x82"):
            return "compare.png is not whole"
    return made_again(folder, cells)


def grid_plain(name: str, content: bytes) -> object:
    if "cells/" in name:
        return {**json.loads(content), "seconds": 0}
    if name.endswith("cells.csv"):
        rows = csv.DictReader(io.StringIO(content.decode()))
        return [{**row, "seconds": 0} for row in rows]
    if name.endswith("table.txt"):  # seconds are the last column
        rows = [line.split() for line in content.decode().splitlines() if "---" not in line]
        return [row[:-1] if row and row[0] in ("ia3", "lora:rank=1") else row for row in rows]
    return None if name == SEEN else content


# ---- the course: two lessons that take no time beside the start of their kernels

LESSON = r"""
    # ---
    # jupyter:
    #   minipeft:
    #     title: Toy
    #     question: Is $1 + 1$ two?
    #     minutes: 0.5
    # ---

    # %% [markdown]
    # An equation, $h = W_0 x$.

    # %%
    import time
    time.sleep(0.2)
    open("left behind", "w").write("x" * 9999)
    print(1 + 1)
"""


def builder():
    """The module notebooks/build.py, with all that a build imports on its way."""
    if str(ROOT / "notebooks") not in sys.path:
        sys.path.insert(0, str(ROOT / "notebooks"))
    import build
    from builder import pages  # noqa: F401

    return build


def course(folder: Path) -> None:
    """`build.py course` on two small lessons. For a child only: it moves the temporary folder."""
    for name in ("src", "out", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
    for name in ("01_toy", "02_toy"):
        (folder / "src" / f"{name}.py").write_text(textwrap.dedent(LESSON).lstrip())
    made = builder().Builder(folder, folder / "out")
    with redirect_stdout(io.StringIO()):
        if made.course(made.lessons(), force=False, fast=False, threads=1):
            raise RuntimeError("a lesson failed")


def course_whole(folder: Path) -> str | None:
    import nbformat

    end = time.monotonic() + ORPHAN
    while alive := kernels(folder):
        if time.monotonic() > end:
            return f"kernels go on without their builder: {alive}"
        time.sleep(0.2)
    books = sorted((folder / "out").glob("*.ipynb"))
    for path in books:
        nbformat.validate(nbformat.read(path, as_version=4))
    for path in (folder / "out").glob("*.html"):
        text = path.read_text()
        if not (text.startswith("<!doctype html>") and text.endswith("</html>\n")):
            return f"{path.name} is not whole"
    left = sorted(path.name for path in (folder / "tmp").glob("*"))
    if len(left) > 1:
        return f"temporary folders pile up: {left}"
    return made_again(folder, books)


def kernels(folder: Path) -> list[str]:
    """Processes whose command line names something in the folder. One that is dead has none."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                alive.append(path.parent.name)
        except OSError:  # it ended meanwhile
            pass
    return alive


def course_plain(name: str, content: bytes) -> object:
    if name.endswith(".ipynb"):
        book = json.loads(content)
        book["metadata"]["minipeft"]["seconds"] = 0
        return book
    if name.endswith("index.html"):
        return re.sub(r"\(here \d+ s\)", "", content.decode())
    return None if name == SEEN else content
