"""What `pip install minipeft` gives: everything a learner needs, without the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from whole import part_of

from builder import run, setup_cell
from builder.lesson import read

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "src"
EXERCISES = sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the built wheel installed, nothing else of ours."""
    folder = tmp_path_factory.mktemp("wheel")
    python = [sys.executable, "-m"]
    for command in (
        [*python, "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        [*python, "pip", "install", "-q", "--no-deps", "--target", str(folder / "site")],
    ):
        wheels = [str(path) for path in folder.glob("*.whl")] if "pip" in command else []
        done = subprocess.run([*command, *wheels], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def outside(site, tmp_path):
    """Run a command in an empty folder with the installed package."""

    def command(*arguments, code=0):
        done = subprocess.run(
            [str(a) for a in arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return command


def test_the_library_loads_its_checkpoints(outside, site):
    code = (
        "import minipeft as mp, tiny_transformer as tt; print(mp.__file__, tt.data_folder());"
        "model, tokenizer = tt.load('tiny-decoder'); print(mp.tasks.load('reverse').train[0])"
    )
    first = outside(sys.executable, "-c", code).splitlines()[0]
    assert all(Path(path).is_relative_to(site) for path in first.split())


@pytest.mark.slow
def test_the_command_copies_the_exercises_and_checks_them(outside, site, tmp_path):
    minipeft = next((site / "bin").glob("minipeft*"))
    assert "copied" in outside(minipeft, "lessons", "work")
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert names == {path.name for path in EXERCISES}
    mine = tmp_path / "work" / "00_map.ipynb"
    notebook = json.loads(mine.read_text(encoding="utf-8"))
    solution = next(iter(read(SOURCES / "00_map.py").exercises.values())).cut.solution
    for cell in notebook["cells"]:
        if cell["metadata"].get("minipeft"):
            cell["source"] = solution
    mine.write_text(json.dumps(notebook), encoding="utf-8")
    assert "kept" in outside(minipeft, "lessons", "work")  # what was worked in stays
    assert "1 of 1 passed" in outside(minipeft, "check", mine)
    assert "unfinished" in outside(minipeft, "check", tmp_path / "work" / "10_lora.ipynb", code=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", part_of([path.stem for path in EXERCISES], 1))
def test_each_exercise_notebook_runs_from_an_empty_folder(name, site, monkeypatch):
    """As a learner meets it: nothing written yet, so that each check says so, and all else runs."""
    lesson = read(SOURCES / f"{name}.py")
    notebook = lesson.student(fast=True)
    assert setup_cell.badge(f"{lesson.slug}.ipynb") in notebook.cells[0].source
    assert notebook.cells[1].source == setup_cell.SOURCE
    calls = [f"checks.{e.check}({e.cut.name}" for e in lesson.exercises.values()]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    checked = [next(cell for cell in code if call in cell.source) for call in calls]
    for cell in checked:
        cell.metadata["tags"] = ["raises-exception"]
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import minipeft; minipeft.__file__"))
    monkeypatch.setattr(run, "ROOT", site)  # the kernel's PYTHONPATH, "minipeft" in outputs
    run.execute(notebook, threads=1)
    place = notebook.cells[0].outputs[0].data["text/plain"]
    assert place == repr(str(Path("minipeft", "minipeft", "__init__.py")))
    assert [cell.outputs[-1].ename for cell in checked] == ["NotFinished"] * len(calls)
