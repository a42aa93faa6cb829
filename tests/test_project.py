"""The project's own promises: imports, pins, the README's tables, the pictures."""

import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def ranges() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"].values()
    texts = sum(optional, project["project"]["dependencies"])
    return [Requirement(text) for text in texts]


def test_importing_minipeft_imports_nothing_heavy_but_torch():
    code = "import sys, minipeft; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"torch", "minipeft", "tiny_transformer"} >= loaded & {
        "torch", "minipeft", "tiny_transformer", "transformers", "peft", "accelerate",
        "matplotlib", "IPython", "jupyter_client", "nbformat", "scipy", "pandas", "datasets",
    }  # fmt: skip
    assert {"torch", "minipeft"} <= loaded


def test_every_range_holds_its_pin_and_every_pin_has_a_range():
    pinned = pins()
    for requirement in ranges():
        assert requirement.name in pinned, f"{requirement.name} is not pinned in requirements.txt"
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
    assert set(pinned) == {requirement.name for requirement in ranges()}


def test_the_readme_says_what_every_dependency_earns():
    table = (ROOT / "README.md").read_text().partition("what each one earns")[2]
    named = set(re.findall(r"[\w-]+", " ".join(re.findall(r"^\| ([^|]+) \|", table, re.M))))
    assert not set(pins()) - named


def test_the_readme_lists_every_lesson_and_links_to_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for source in (ROOT / "notebooks" / "src").glob("*.py"):
        header = source.read_text().split("# ---")[1]
        title = re.search(r"title: (.*)", header)[1].strip("'\" ")
        assert f"[{title}](notebooks/{source.stem}.ipynb)" in text, f"README misses {source.stem}"
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in link or (ROOT / link).exists(), (
            f"README links to {link}, which is not there"
        )


def test_the_picture_is_what_the_command_draws(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "minipeft.course.pictures", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    drawn = (tmp_path / "three_doors.svg").read_bytes()
    assert drawn == (ROOT / "docs" / "three_doors.svg").read_bytes(), "run `make pictures`"


def test_no_committed_file_names_a_path_of_somebodys_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return  # not a git checkout: nothing is committed
    wrong = []
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".ipynb", ".toml", ".json", ".svg"} and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            if re.search(r"/(root|home/\w+|work)/", text) and name != "tests/test_project.py":
                wrong.append(name)
    assert not wrong


def test_the_method_shown_to_contributors_is_the_one_that_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert (ROOT / "minipeft/methods/dora.py").read_text(encoding="utf-8") in blocks
    line = "from minipeft.methods.dora import DoRA, DoRAPatch\n"
    assert line in blocks and line in (ROOT / "minipeft/methods/__init__.py").read_text()


def test_every_method_is_in_the_readme_and_in_the_table_of_support():
    from minipeft import methods
    from minipeft.analysis import support

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    every = {
        name
        for name in methods.__all__
        if issubclass(getattr(methods, name), methods.Method) and name != "Method"
    }
    assert every - {"Combined", "Together"} == set(support.METHODS) - {"MAM"}
    for name in every:
        assert f"`{name}`" in text


OLD_WORDS = """
lent lent_names parked Seat seats _sit Turn turn alike abreast apart Abreast meet stand_in
is_stood_in speak remember revive restored folded Rows Routed entries shown own here there found
more overhear heard Listener Note take crew mates Alone Several told GAPS AGAIN ONLY NUMBERS
_unsure asleep
""".split()
PLAIN_ELSEWHERE = {  # word -> (where it does not stand, why it may stand elsewhere)
    "answer": ("minipeft/doors/", "what a model, a person or a learner answers"),
    "layout": ("minipeft/methods/", "how tensors, checkpoints or figures are laid out"),
    "look": ("minipeft/methods/ minipeft/doors/", "a method's colour and marker in figures"),
    "share": ("tiny_transformer/", "a fraction, or the part of one of several"),
    "stored": ("minipeft/methods/", "numbers in a file, as in the public `Report.stored`"),
    "watch": ("minipeft/methods/", "the public argument of `train`, and what watches a process"),
    ".places": ("", "a list of `Place` is a local name; patches and rows have other names"),
    "Together": (
        "minipeft/doors/ minipeft/model/ minipeft/files/ notebooks/ soak/ benchmarks/",
        "the public name that `Combined` had in version 0.1",
    ),
}


def test_the_words_of_the_house_are_used():
    """Names in the code are the field's, or plain English that needs no explanation."""
    forbidden = dict.fromkeys(OLD_WORDS, "") | {w: at for w, (at, _) in PLAIN_ELSEWHERE.items()}
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith((".", "build/", "work/", "shared/")):
            continue
        before = ""
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                for word in (token.string, f".{token.string}" if before == "." else ""):
                    word = "_unsure" if word.endswith("_unsure") else word
                    where = forbidden.get(word) if token.type == tokenize.NAME else None
                    if where is not None and name.startswith(tuple(where.split()) or ""):
                        wrong.append(f"{name}:{token.start[0]} {word}")
                before = token.string
    assert not wrong, f"call the thing by what it is: {wrong}"
