"""Start anything of minipeft: python start.py COMMAND. It needs Python only, no make and no gcc.

The first command sets everything up in .venv, later ones find it ready. `python start.py help` says
what each does, and which variables it reads (ONLY, FORCE, FAST, REAL, WORKERS, PYTHON, TORCH_INDEX,
SOAK, WHOLE). The Makefile calls this file: `make course` and `python start.py course` are the same.
"""

# Any Python 3 may start this file; it then looks for one that is new enough.
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENOUGH = "sys; sys.exit(sys.version_info < (3, 11))"
TRIED = ("python3.11", "python3.12", "python3.13", "python3", "python", "py")
EXAMPLE = "C:\\Python311\\python.exe" if sys.platform == "win32" else "/path/to/python3.11"


# Threads that wait for others spin shortly; tiny_transformer/process.py says why.
SPIN = "10000"


class Failed(Exception):
    """What went wrong, as one sentence, and the exit code."""

    def __init__(self, sentence, code=1):
        super().__init__(sentence)
        self.code = code


class Place:
    """Where the set-up stands, on Linux, macOS and Windows."""

    def __init__(self, root=ROOT, platform=sys.platform, environment=None):
        self.root = root
        self.windows = platform == "win32"
        self.environment = dict(os.environ if environment is None else environment)
        self.venv = root / ".venv"
        folder, name = ("Scripts", "python.exe") if self.windows else ("bin", "python")
        self.python = self.venv / folder / name

    def setting(self, name, default=""):
        return self.environment.get(name, "").strip() or default

    @property
    def stamp(self):
        """Its name is the hash of what the set-up depends on: another hash, another set-up."""
        digest = hashlib.sha256()
        for name in ("requirements.txt", "pyproject.toml"):
            digest.update((self.root / name).read_bytes())
        return self.venv / f".ready-{digest.hexdigest()[:16]}"

    # -- the set-up --------------------------------------------------------------------------------

    def interpreter(self):
        """The command of a Python that is new enough."""
        named = self.setting("PYTHON")
        candidates = [named] if named else [sys.executable, *TRIED]
        for candidate in filter(None, candidates):
            if quiet([candidate, "-c", f"import {ENOUGH}"]) == 0:
                return candidate
        if named:
            raise Failed(
                f"PYTHON={named} is no Python 3.11 or newer that can be started; name one that "
                "is, or leave PYTHON out."
            )
        raise Failed(
            "no Python 3.11 or newer was found; install one, or name it in the variable PYTHON, "
            f"for example PYTHON={EXAMPLE}."
        )

    def set_up(self):
        """Make .venv and install the pinned requirements, unless that has been done."""
        stamp = self.stamp
        if stamp.is_file() and self.python.is_file():
            return
        if quiet([self.python, "-c", f"import pip, {ENOUGH}"]) != 0:
            python = self.interpreter()
            print("making .venv with " + answer([python, "--version"]), flush=True)
            if subprocess.call([python, "-m", "venv", "--clear", str(self.venv)]) != 0:
                raise Failed(
                    f"{python} cannot make a virtual environment; on Debian and Ubuntu: "
                    "apt-get install python3-venv."
                )
        for old in self.venv.glob(".ready-*"):
            old.unlink()
        pins = (self.root / "requirements.txt").read_text(encoding="utf-8").splitlines()
        torch = next(line for line in pins if line.startswith("torch=="))
        index = self.setting("TORCH_INDEX")
        print("installing torch (the largest part, some minutes on a slow line)", flush=True)
        self.pip(*(["--index-url", index] if index else []), torch)
        print("installing requirements.txt", flush=True)
        # --use-pep517, since pip 23.0, as Debian 12 has it, builds seqeval in a way that breaks.
        self.pip("--use-pep517", "-r", str(self.root / "requirements.txt"))
        self.pip("--no-deps", "--no-build-isolation", "-e", str(self.root))
        stamp.touch()  # last: an interrupted set-up is done again
        print("set-up finished", flush=True)

    def pip(self, *arguments):
        self.run("-m", "pip", "install", "--progress-bar", "off", "-qq", *arguments)

    # -- running -----------------------------------------------------------------------------------

    def run(self, *arguments):
        """Run the Python of .venv in the project's folder; Failed when it does not exit with 0."""
        environment = {**self.environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(environment):
            environment["GOMP_SPINCOUNT"] = SPIN
        command = [str(self.python), *map(str, arguments)]
        with subprocess.Popen(command, cwd=str(self.root), env=environment) as process:
            while process.returncode is None:
                try:
                    process.wait()
                except KeyboardInterrupt:  # the command got it, too: JupyterLab asks back
                    continue
        if process.returncode:
            code = process.returncode
            raise Failed("", code if code > 0 else 128 - code)

    def build(self, command):
        only, force = self.setting("ONLY"), self.setting("FORCE")
        flags = (["--only", only] if only else []) + (["--force"] if force else [])
        if command == "course" and self.setting("FAST"):
            flags.append("--fast")
        self.run("notebooks/build.py", command, *flags)

    def lint(self):
        self.run("-m", "ruff", "check", ".")
        self.run("-m", "ruff", "format", "--check", ".")


# -- the commands; the docstring of each is its help ----------------------------------------------


def setup(place, rest):
    """make .venv and install the pinned requirements (the other commands do this by themselves)"""


def course(place, rest):
    """run every lesson and write build/course/index.html, to open in a browser"""
    if place.setting("REAL") == "0":
        place.environment["MINIPEFT_REAL"] = "0"
    else:
        fetch(place, [])
    place.build("course")


def fetch(place, rest):
    """fetch the real models of the lessons, 176 MB, unless they are there (course does it, too)"""
    place.run("-m", "minipeft", "fetch", "--optional", *rest)


def lab(place, rest):
    """copy the exercises to work/ (a copy that is there is kept) and open JupyterLab"""
    place.run("notebooks/build.py", "work")
    flags = ["--ServerApp.root_dir=.", "--LabApp.default_url=/lab/tree/work"]
    # In a container one is often root, which JupyterLab refuses unless told that it is meant.
    root = not place.windows and os.geteuid() == 0
    place.run("-m", "jupyter", "lab", *flags, *(["--allow-root"] if root else []), *rest)


def check(place, rest):
    """judge the exercises of a notebook or a folder of them: check work/10_lora.ipynb"""
    place.run("-m", "minipeft", "check", *rest)


def test(place, rest):
    """lint, then the tests; WHOLE=1 runs those that take long, too"""
    place.lint()
    workers = place.setting("WORKERS", "2")
    place.run("-m", "pytest", "-n", workers, "--dist", "worksteal", *rest)


def machines(place, rest):
    """the tests of numbers as on other processors: other instruction sets, one and two threads"""
    place.run("tests/machines.py", *rest)


def bench(place, rest):
    """measure speed; the tables go to build/"""
    place.run("benchmarks/run.py", *rest)


def soak(place, rest):
    """kills, faults, bad inputs, thousands of cycles; counts at the end (SOAK="--seconds 20")"""
    place.run("-m", "soak", *place.setting("SOAK").split(), *rest)


def lint(place, rest):
    """ruff only"""
    place.lint()


def format(place, rest):
    """let ruff rewrite the sources"""
    place.run("-m", "ruff", "check", "--fix", ".")
    place.run("-m", "ruff", "format", ".")


def notebooks(place, rest):
    """for authors: run the lessons that changed and write notebooks/*.ipynb"""
    place.build("publish")


def nbgrader(place, rest):
    """write the exercises as a course of nbgrader, to build/nbgrader/"""
    place.build("nbgrader")


def otter(place, rest):
    """write the exercises as assignments of otter-grader, to build/otter/"""
    place.build("otter")


def slides(place, rest):
    """write a presentation of each lesson, without running anything, to build/slides/"""
    place.build("slides")


def pictures(place, rest):
    """redraw docs/*.svg"""
    place.run("-m", "minipeft.course.pictures", "docs")


def clean(place, rest):
    """remove build/ (not .venv, not runs/)"""
    shutil.rmtree(place.root / "build", ignore_errors=True)


COMMANDS = {
    function.__name__: function
    for function in (
        *(setup, course, fetch, lab, check, test, machines, bench, soak, lint, format),
        *(notebooks, nbgrader, otter, slides, pictures, clean),
    )
}
WITHOUT_SETUP = ("clean",)
SETTINGS = """settings are variables of the environment (with make: make course ONLY=10):
  PYTHON=/path/to/python3.12   which interpreter .venv is made with (default: one that is found)
  TORCH_INDEX=https://...      where pip takes torch from, such as PyTorch's CPU-only index
  ONLY=10                      for course, notebooks and slides: one lesson
  FORCE=1                      for course and notebooks: execute even what is up to date
  FAST=1                       for course: few steps, into build/fast/: tests the code, no numbers
  REAL=0                       for course: without the real models (176 MB, fetched once)
  MINIPEFT_REPOSITORY=https://...  for nbgrader and otter: where your copy of the course is
  WORKERS=4                    for test: how many processes share the tests (default: 2)
  WHOLE=1                      for test: all lessons and solutions where a part is the default"""


def quiet(command):
    """The exit code of a command whose output nobody needs; None when there is no such command."""
    try:
        return subprocess.call(
            [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None


def answer(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace").strip()


def help_text(prefix):
    """One line per command."""
    return "\n".join(
        f"  {prefix + ' ' + name:<20}{function.__doc__}"
        for name, function in COMMANDS.items()
        if (prefix, name) != ("make", "check")  # which needs to be told a notebook
    )


def main(arguments=None, place=None):
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="start.py",
        description="Start anything of minipeft. The first command sets everything up in .venv.",
        epilog=f"commands:\n{help_text('')}\n\n{SETTINGS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python start.py COMMAND [..]",
    )
    parser.add_argument("command", choices=[*COMMANDS, "help"], metavar="COMMAND")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="what the command is given")
    options = parser.parse_args(arguments)
    if options.command == "help":
        print(help_text("make" if os.environ.get("MAKELEVEL") else "start.py"))
        print("\n" + SETTINGS)
        return 0
    place = place or Place()
    try:
        if options.command not in WITHOUT_SETUP:
            place.set_up()
        COMMANDS[options.command](place, options.rest)
    except Failed as error:
        if str(error):
            print(f"start.py: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
