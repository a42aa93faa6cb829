"""start.py: what it runs, on this system and with the others' names; the Makefile calls it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import start  # noqa: E402

PLATFORMS = ["linux", "darwin", "win32"]
FETCH = ["-m", "minipeft", "fetch", "--optional"]


@pytest.fixture
def computer(tmp_path, monkeypatch):
    """A folder with our pins and a system on which only what is named can be started."""
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    calls = []

    class Computer:
        pythons = {sys.executable}
        failing = ()

        def place(self, platform="linux", **variables):
            return start.Place(tmp_path, platform, variables)

    computer = Computer()
    computer.calls = calls

    def quiet(command):
        return 0 if str(command[0]) in computer.pythons else None

    def call(command, **options):
        calls.append([str(part) for part in command])
        if "venv" in command:  # making it makes its interpreter
            folder = Path(command[-1])
            for name in ("bin/python", "Scripts/python.exe"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
        return 0

    class Popen:
        def __init__(self, command, cwd, env):
            calls.append([str(part) for part in command])
            self.returncode, self.code = (
                None,
                next((c for w, c in computer.failing if w in command), 0),
            )

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def wait(self):
            self.returncode = self.code

    monkeypatch.setattr(start, "quiet", quiet)
    monkeypatch.setattr(start, "answer", lambda command: "Python 3.11.0")
    monkeypatch.setattr(start.subprocess, "call", call)
    monkeypatch.setattr(start.subprocess, "Popen", Popen)
    return computer


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_first_command_sets_up_and_later_ones_do_not(computer, platform, capsys):
    place = computer.place(platform, TORCH_INDEX="https://index.example/cpu")
    inside = ".venv/Scripts/python.exe" if platform == "win32" else ".venv/bin/python"
    assert start.main(["check", "work/a.ipynb", "--seconds", "9"], place) == 0
    making, torch, requirements, package, check = computer.calls
    assert making[0] == sys.executable and making[1:4] == ["-m", "venv", "--clear"]
    assert all(Path(c[0]) == place.root / inside for c in computer.calls[1:])
    assert torch[-3:-1] == ["--index-url", "https://index.example/cpu"]
    assert re.fullmatch(r"torch==[\d.]+", torch[-1])
    assert requirements[-2:] == ["-r", str(place.root / "requirements.txt")]
    assert "--use-pep517" in requirements  # pip 23.0 builds seqeval in a way that breaks
    assert package[-2:] == ["-e", str(place.root)]
    assert check[1:] == ["-m", "minipeft", "check", "work/a.ipynb", "--seconds", "9"]
    computer.calls.clear()
    assert start.main(["check", "work/a.ipynb"], place) == 0
    assert len(computer.calls) == 1
    (place.root / "requirements.txt").write_text("torch==1.0\n")  # other pins: set up again
    computer.pythons = {str(place.python)}
    assert start.main(["check", "work/a.ipynb"], place) == 0
    assert ["venv" in call for call in computer.calls].count(True) == 0
    assert computer.calls[1][-1] == "torch==1.0"
    assert len(list(place.venv.glob(".ready-*"))) == 1


def test_without_the_real_models_the_lessons_are_told(computer):
    for wish, setting in (("0", "0"), ("", None)):
        place = computer.place(REAL=wish)
        assert start.main(["course"], place) == 0
        assert place.environment.get("MINIPEFT_REAL") == setting


def test_an_interrupted_set_up_is_done_again(computer, capsys):
    computer.failing = [("-r", 1)]
    assert start.main(["course"], computer.place()) == 1
    assert not any("build.py" in part for call in computer.calls for part in call)
    computer.failing = ()
    assert start.main(["course"], computer.place()) == 0
    assert computer.calls[-1][1:] == ["notebooks/build.py", "course"]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("command", "variables", "runs"),
    [
        ("course", {}, [FETCH, ["notebooks/build.py", "course"]]),
        ("course", {"REAL": "0"}, [["notebooks/build.py", "course"]]),
        ("course", {"ONLY": "10", "FORCE": "1"},
         [FETCH, ["notebooks/build.py", "course", "--only", "10", "--force"]]),
        ("course", {"FAST": "1"}, [FETCH, ["notebooks/build.py", "course", "--fast"]]),
        ("fetch", {}, [FETCH]),
        ("notebooks", {"ONLY": "10", "FAST": "1"}, [
            ["notebooks/build.py", "publish", "--only", "10"]
        ]),
        ("test", {"WORKERS": "4"},
         [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."],
          ["-m", "pytest", "-n", "4", "--dist", "worksteal"]]),
        ("soak", {"SOAK": "--seconds 20"}, [["-m", "soak", "--seconds", "20"]]),
        ("bench", {}, [["benchmarks/run.py"]]),
        ("slides", {"ONLY": "10"}, [["notebooks/build.py", "slides", "--only", "10"]]),
    ],
)  # fmt: skip
def test_variables_reach_the_command(computer, platform, command, variables, runs):
    place = computer.place(platform, **variables)
    assert start.main([command], place) == 0
    assert [call[1:] for call in computer.calls[4:]] == runs


def test_lab_is_opened_where_the_copies_are(computer, monkeypatch):
    place = computer.place("win32")
    assert start.main(["lab", "--no-browser"], place) == 0
    work, lab = computer.calls[4:]
    assert work[1:] == ["notebooks/build.py", "work"]
    assert lab[1:4] == ["-m", "jupyter", "lab"] and lab[-1] == "--no-browser"
    assert "--allow-root" not in lab


def test_without_a_new_enough_python_it_says_so(computer, capsys):
    computer.pythons = set()
    assert start.main(["course"], computer.place()) == 1
    assert "no Python 3.11 or newer was found; install one" in capsys.readouterr().err
    assert start.main(["course"], computer.place(PYTHON="/no/python")) == 1
    assert "PYTHON=/no/python is no Python 3.11 or newer" in capsys.readouterr().err
    assert not computer.calls


def test_the_exit_code_is_the_commands(computer):
    computer.failing = [("check", 2), ("course", -9)]
    assert start.main(["check", "x"], computer.place()) == 2
    assert start.main(["course"], computer.place()) == 137


def test_make_has_the_same_commands_and_calls_start(tmp_path):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"^COMMANDS := (.*)$", text, re.M)[1].split()
    assert set(listed) == {*start.COMMANDS, "help"} - {"check"}  # which needs an argument
    try:
        done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("make is not installed; nothing needs it")
    assert done.returncode == 0, done.stderr
    for name, command in start.COMMANDS.items():
        assert (f"make {name} " in done.stdout) == (name in listed)
        assert (command.__doc__ in done.stdout) == (name in listed)


def test_a_pythonless_reading(capsys):
    """start.py is read by whatever Python is there, so it keeps to what any Python 3 knows."""
    source = (ROOT / "start.py").read_text(encoding="utf-8")
    compile(source, "start.py", "exec", dont_inherit=True)
    assert "match " not in source and ":=" not in source and " | None" not in source
    assert start.main(["help"]) == 0
    assert "TORCH_INDEX" in capsys.readouterr().out
