"""Build the course.

    build.py course            run every lesson here, write build/course/index.html
    build.py course --only 10  one lesson
    build.py course --fast     a smoke run of the code with few steps, into build/fast/
    build.py work              copy the exercises to work/, where a copy is not there yet
    build.py student           write notebooks/exercises/*.ipynb, run nothing
    build.py publish           run what changed, write notebooks/*.ipynb and the exercises
    build.py nbgrader          write the exercises as a course of nbgrader, to build/nbgrader/
    build.py otter             write them as assignments of otter-grader, to build/otter/
    build.py slides            write presentations of the committed notebooks to build/slides/
    build.py docs              write the pages of docs/ that are made from the lessons
    build.py check             do the committed notebooks correspond to their sources?

A lesson is run again only when something it depends on has changed: its source, the packages,
data/, the pinned requirements or this builder. Lessons run side by side, one thread each and as
many as there are cores. A finished lesson is written at once, so an interrupted build goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import shorten

import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from builder import graders  # noqa: E402
from builder.lesson import Lesson, LessonError, read  # noqa: E402
from builder.measure import measure, too_long  # noqa: E402
from builder.progress import Progress  # noqa: E402
from builder.run import THREADS, CellFailed, Stopped, execute  # noqa: E402
from minipeft.course import real  # noqa: E402

MOST_BYTES = 1_000_000
COMMANDS = ["course", "work", "student", "publish", "nbgrader", "otter", "slides", "docs", "check"]


class Builder:
    """The course's folders, so that tests can build a small course elsewhere."""

    def __init__(self, notebooks: Path = HERE, output: Path = ROOT / "build" / "course") -> None:
        self.sources = notebooks / "src"
        self.solutions = notebooks
        self.exercises = notebooks / "exercises"
        self.pages = notebooks.parent / "docs"
        self.output = output
        self._shared_hash: str | None = None

    def lessons(self, only: str | None = None) -> list[Lesson]:
        """The lessons in order; only: a number ("10", "10b") or the beginning of a name."""
        paths = sorted(self.sources.glob("*.py"))
        chosen = [p for p in paths if only is None or p.stem.partition("_")[0] == only]
        chosen = chosen or [p for p in paths if p.stem.startswith(only)]
        if not chosen:
            names = ", ".join(p.stem for p in paths)
            raise LessonError(f"no lesson begins with {only!r}; there are {names or 'none'}")
        return [read(path) for path in chosen]

    def hash(self, lesson: Lesson) -> str:
        """What the outputs of a lesson depend on, as a hash."""
        if self._shared_hash is None:
            digest = hashlib.sha256()
            for path in _shared_sources():
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            self._shared_hash = digest.hexdigest()
        text = lesson.path.read_bytes()
        return hashlib.sha256(self._shared_hash.encode() + text).hexdigest()[:16]

    # -- the commands ------------------------------------------------------------------------------

    def course(
        self, lessons: list[Lesson], force: bool, fast: bool, threads: int, jobs: int = 1
    ) -> int:
        """Run what is not up to date in the output folder, write the pages; returns failures."""
        todo = []
        for lesson in lessons:
            path = self.output / f"{lesson.slug}.ipynb"
            known = _facts(path)
            wanted = {"hash": self.hash(lesson), **_assets(lesson), "fast": fast}
            if not force and all(known.get(k) == v for k, v in wanted.items()):
                print(f"  {lesson.slug:<24} up to date ({known['seconds']} s when it ran)")
                continue
            todo.append((lesson, wanted))

        def keep(lesson: Lesson, notebook: NotebookNode) -> None:
            _write(self.output / f"{lesson.slug}.ipynb", notebook)

        failed = self._run_all(todo, threads, jobs, keep)
        if fast:
            done = len(lessons) - failed
            print(f"{done} of {len(lessons)} lessons ran to their end, with few steps and no pages")
        else:
            from builder.pages import write_pages  # only here: the other commands need no HTML

            index = write_pages(self.lessons(), self.output, self.exercises)
            print(f"open {os.path.relpath(index)}")
        return failed

    def student(self, lessons: list[Lesson]) -> int:
        """Write the student notebooks that differ from their sources."""
        for lesson in lessons:
            path = self.exercises / f"{lesson.slug}.ipynb"
            if not lesson.exercises or _text(lesson.student()) == _read_text(path):
                continue
            if _worked_in(path):
                print(f"  kept {os.path.relpath(path)}: it has been worked in, move it to work/")
                continue
            _write(path, lesson.student())
            print(f"  wrote {os.path.relpath(path)}")
        return 0

    def work(self, lessons: list[Lesson], folder: Path = ROOT / "work") -> int:
        """Copy each student notebook for the learner; a copy that is there is never touched."""
        for lesson in lessons:
            path = folder / f"{lesson.slug}.ipynb"
            if lesson.exercises and not path.exists():
                _write(path, lesson.student())
                print(f"  wrote {os.path.relpath(path)}")
        return 0

    def graders(self, kind: str, lessons: list[Lesson], folder: Path | None = None) -> int:
        """Write the assignments of a grader; what it made there itself is left alone."""
        folder = folder or ROOT / "build" / kind
        for name, content in graders.files(kind, lessons).items():
            text = content if isinstance(content, str) else _text(content)
            _write_text(folder / name, text)
        print(f"wrote {os.path.relpath(folder)}")
        return 0

    def slides(self, lessons: list[Lesson], folder: Path = ROOT / "build" / "slides") -> int:
        """Write a presentation of every committed notebook."""
        from builder.slides import write_slides

        for path in write_slides(lessons, self.solutions, folder):
            print(f"open {os.path.relpath(path)}")
        return 0

    def docs(self, lessons: list[Lesson]) -> int:
        """Write the pages of docs/ that are made from all lessons."""
        from builder.docs import write_docs

        for path in write_docs(self.lessons(), self.solutions, self.pages):
            print(f"  wrote {os.path.relpath(path)}")
        return 0

    def publish(self, lessons: list[Lesson], force: bool, threads: int, jobs: int = 1) -> int:
        """Run what changed since the committed notebooks were made, and write these."""
        todo = []
        for lesson in lessons:
            target = self.solutions / f"{lesson.slug}.ipynb"
            local = self.output / f"{lesson.slug}.ipynb"
            wanted = {"hash": self.hash(lesson), **_assets(lesson), "fast": False}
            if not force:
                if all(_facts(target).get(k) == v for k, v in wanted.items()):
                    print(f"  {lesson.slug:<24} up to date")
                    continue
                if all(_facts(local).get(k) == v for k, v in wanted.items()):
                    _write(target, nbformat.read(local, as_version=4))
                    print(f"  {lesson.slug:<24} taken from {os.path.relpath(local)}")
                    continue
            todo.append((lesson, wanted))

        def keep(lesson: Lesson, notebook: NotebookNode) -> None:
            for folder in (self.output, self.solutions):
                _write(folder / f"{lesson.slug}.ipynb", notebook)

        failed = self._run_all(todo, threads, jobs, keep)
        self.student(lessons)
        self.docs(lessons)
        return failed

    def check(self, lessons: list[Lesson]) -> int:
        """Compare the committed notebooks with their sources, without running anything."""
        problems, notes = [], []
        for lesson in lessons:
            student = self.exercises / f"{lesson.slug}.ipynb"
            if lesson.exercises and _text(lesson.student()) != _read_text(student):
                problems.append(f"exercises/{student.name} does not correspond to its source")
            path = self.solutions / f"{lesson.slug}.ipynb"
            if not path.is_file():
                problems.append(f"{path.name} has not been built")
                continue
            problems += [f"{path.name}: {p}" for p in _differences(path, lesson.solution())]
            counts = measure(lesson, nbformat.read(path, as_version=4))
            problems += [f"{path.name} is too long: {p}" for p in too_long(lesson, counts)]
            if _facts(path).get("hash") != self.hash(lesson):
                notes.append(
                    f"{path.name}: code or data changed after it ran; its outputs may differ"
                )
        known = {lesson.slug for lesson in lessons}
        for folder in (self.solutions, self.exercises):
            orphans = [p for p in sorted(folder.glob("*.ipynb")) if p.stem not in known]
            problems += [f"{os.path.relpath(p, self.solutions)} has no source" for p in orphans]
        notes += self._old_pages()
        for note in notes:
            print(f"note: {note}")
        for problem in problems:
            print(f"stale: {problem}", file=sys.stderr)
        if problems:
            print("`make notebooks` brings them up to date", file=sys.stderr)
        return len(problems)

    def _old_pages(self) -> list[str]:
        """A sentence for each page of docs/ that was made from other notebooks than these."""
        from builder.docs import made

        return [
            f"docs/{name}: a lesson changed after it was made; `build.py docs` makes it anew"
            for name, text in made(self.lessons(), self.solutions).items()
            if (self.pages / name).is_file() and _read_text(self.pages / name) != text
        ]

    # -- running lessons ---------------------------------------------------------------------------

    def _run_all(
        self,
        todo: list[tuple[Lesson, dict]],
        threads: int,
        jobs: int,
        keep: Callable[[Lesson, NotebookNode], None],
    ) -> int:
        """Run lessons, `jobs` side by side; keep(lesson, notebook) as soon as one has finished.

        todo: lessons with the facts to write into their notebooks.  Returns how many failed.
        """
        stop, progress = threading.Event(), Progress()
        todo = sorted(todo, key=lambda pair: -pair[0].minutes) if jobs > 1 else todo

        def run(lesson: Lesson, wanted: dict) -> bool:
            if not stop.is_set():
                return self._run(lesson, wanted, threads, progress, stop, keep)
            return False

        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(run, *pair) for pair in todo]
            try:
                return sum(not future.result() for future in running)
            except BaseException:
                stop.set()
                raise

    def _run(self, lesson, wanted, threads, progress, stop, keep) -> bool:
        """Run one lesson and say how it went; was it well?"""
        notebook = lesson.solution(wanted["fast"])
        line = progress.lesson(lesson.slug)
        log = self.output / f"{lesson.slug}.failed.txt"
        log.unlink(missing_ok=True)
        try:
            seconds = execute(notebook, line.update, threads, stop)
        except Stopped:
            return False
        except CellFailed as error:
            (self.output / f"{lesson.slug}.ipynb").unlink(missing_ok=True)
            line.end(f"failed after {time.perf_counter() - line.began:.0f} s")
            for sentence in self._what_to_do(lesson, error, log):
                print(sentence, file=sys.stderr)
            return False
        counts = measure(lesson, notebook)
        notebook.metadata["minipeft"] |= {**wanted, "seconds": round(seconds), "measured": counts}
        keep(lesson, notebook)
        over = "" if wanted["fast"] or seconds <= 60 * lesson.minutes else "  (longer than it says)"
        size = len(_text(notebook))
        large = f"  ({size / 1e6:.1f} MB; keep a notebook below 1 MB)" if size > MOST_BYTES else ""
        line.end(f"{len(notebook.cells):>3} cells  {seconds:>5.0f} s{over}{large}")
        past = [] if wanted["fast"] else too_long(lesson, counts)
        for sentence in past:
            print(f"{lesson.slug}: it is written, and too long: {sentence}.", file=sys.stderr)
        return not past

    def _what_to_do(self, lesson: Lesson, error: CellFailed, log: Path) -> tuple[str, str]:
        """Two lines on a lesson that failed; the whole traceback goes to `log`."""
        where = ""
        if error.traceback:
            _write_text(log, re.sub(r"\x1b\[[0-9;]*m", "", error.traceback) + "\n")
            where = f"The whole traceback is in {os.path.relpath(log)}. "
        reason = " ".join(error.reason.split())
        return (
            f"{lesson.slug}: cell {error.position} failed: {shorten(reason, 160)}",
            f"    {where}Run it again with `make course ONLY={lesson.number}`; "
            "the lessons that finished are kept.",
        )


def _shared_sources() -> list[Path]:
    """The files that the outputs of every lesson may depend on."""
    paths = [ROOT / "requirements.txt", HERE / "build.py"]
    paths += [HERE / "builder" / name for name in ("cut.py", "lesson.py", "run.py", "tables.py")]
    for package in ("minipeft", "tiny_transformer"):
        paths += (ROOT / package).rglob("*.py")
    paths += [p for p in (ROOT / "data").rglob("*") if p.is_file() and p.suffix in DATA_SUFFIXES]
    return sorted(p for p in paths if "__pycache__" not in p.parts)


DATA_SUFFIXES = {".json", ".jsonl", ".txt", ".safetensors", ".csv", ".tsv"}


def _assets(lesson: Lesson) -> dict:
    """Which real checkpoints the lesson reads that are on this machine: its outputs differ then."""
    text = lesson.path.read_text("utf-8")
    facts: dict = {"assets": "MINIPEFT_ASSETS" in text and "MINIPEFT_ASSETS" in os.environ}
    if re.search(r"\breal\.\w+\(", text):
        facts["real"] = [name for name in real.SOURCES if real.find(name)]
    return facts


def _facts(path: Path) -> dict:
    """What an executed notebook says about the run that made it; empty when there is none."""
    try:
        return dict(nbformat.read(path, as_version=4).metadata.get("minipeft", {}))
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return {}


def _worked_in(path: Path) -> bool:
    """Has somebody run cells of this student notebook?"""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return False
    return any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def _differences(path: Path, wanted: NotebookNode) -> list[str]:
    """How a committed solution notebook departs from what its source makes."""
    notebook = nbformat.read(path, as_version=4)
    have = [(c.cell_type, c.source, c.get("id")) for c in notebook.cells]
    want = [(c.cell_type, c.source, c.get("id")) for c in wanted.cells]
    if have != want:
        pairs = zip(have + [None] * len(want), want + [None] * len(have), strict=False)
        place = next(i for i, (a, b) in enumerate(pairs, start=1) if a != b)
        return [f"cell {place} does not correspond to its source"]
    problems = []
    code = [c for c in notebook.cells if c.cell_type == "code"]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        problems.append("its cells were not run once each, in order")
    for place, cell in enumerate(notebook.cells, start=1):
        kinds = [o.output_type for o in cell.get("outputs", [])]
        if "error" in kinds and "raises-exception" not in cell.metadata.get("tags", []):
            problems.append(f"cell {place} ended in an error")
    if path.stat().st_size > MOST_BYTES:
        problems.append("it is larger than 1 MB")
    return problems


def _text(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook) + "\n"


def _read_text(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def _write(path: Path, notebook: NotebookNode) -> None:
    _write_text(path, _text(notebook))


def _write_text(path: Path, text: str) -> None:
    """Write under a temporary name and move into place: nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may have fewer than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="notebooks/build.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--only", metavar="NN", help="one lesson, by its number or its name's beginning"
    )
    parser.add_argument("--force", action="store_true", help="run even what is up to date")
    parser.add_argument(
        "--fast", action="store_true", help="few steps: tests the code, not the numbers"
    )
    parser.add_argument(
        "--threads", type=int, default=THREADS, help=f"per kernel (default {THREADS})"
    )
    parser.add_argument("--jobs", type=int, help="lessons side by side (default: one per core)")
    options = parser.parse_args(arguments)
    jobs = options.jobs or max(1, cores() // options.threads)
    builder = Builder(output=ROOT / "build" / ("fast" if options.fast else "course"))
    try:
        lessons = builder.lessons(options.only)
        if options.command == "course":
            failed = builder.course(lessons, options.force, options.fast, options.threads, jobs)
        elif options.command == "publish":
            failed = builder.publish(lessons, options.force, options.threads, jobs)
        elif options.command in ("nbgrader", "otter"):
            failed = builder.graders(options.command, lessons)
        elif options.command in ("student", "work", "slides", "docs"):
            failed = getattr(builder, options.command)(lessons)
        else:
            failed = builder.check(lessons)
    except LessonError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; the lessons that finished are kept, run it again to go on",
            file=sys.stderr,
        )
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
