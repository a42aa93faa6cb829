"""What happens around a run: other processes, signals, pipes, disks, terminals, networks."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import patience

from minipeft.commands import fitting, train
from minipeft.commands.folder_lock import Taken, held

ROOT = str(Path(__file__).parents[2])
TINY = ("train", "--base", "tiny-decoder-0.1m", "--data", "reverse", "--batch-size", "4")
FEW = (*TINY, "--steps", "2", "--dev-limit", "3")


def started(folder, *words, ctrl_c=signal.SIG_DFL, **variables):
    """The command line as a process of its own; ctrl_c: what it finds SIGINT to do."""
    env = dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS="1", **variables)
    command = [sys.executable, "-m", "minipeft", *map(str, words)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, ctrl_c)
    return subprocess.Popen(command, cwd=folder, env=env, **pipes)


def test_a_folder_that_another_process_is_at_work_in(cli):
    with held(Path("r")):
        done = cli(*FEW, "--out", "r")
        assert done.code == 2 and "Another process is at work in r: wait" in done.err
        assert Path("r").is_dir()  # of the one that holds it
    assert not Path("r").exists()
    assert cli(*FEW, "--out", "r").code == 0
    with held(Path("r")):
        for words in ((), ("--steps", 4)):
            done = cli("train", "--resume", "r", *words)
            assert done.code == 2 and "Another process is at work in r" in done.err
        with pytest.raises(Taken), held(Path("r")):
            pass
    assert cli("train", "--resume", "r", "--steps", 4).code == 0


def test_runs_without_a_name_that_begin_together_have_a_folder_each(cli, monkeypatch):
    """The second one begins while the first one still opens its base."""
    open_for, codes = train.open_for, []

    def both(*words):
        monkeypatch.setattr(train, "open_for", open_for)
        codes.append(cli(*FEW, "--seed", 1).code)
        return open_for(*words)

    monkeypatch.setattr(train, "open_for", both)
    assert cli(*FEW).code == 0 and codes == [0]
    seeds = {
        path.parent.name: json.loads(path.read_text())["options"]["seed"]
        for path in Path("runs").glob("*/config.json")
    }
    name = "tiny-decoder-0.1m-lora-reverse"
    assert seeds == {name: 0, f"{name}-2": 1}


def test_two_grids_in_one_folder(cli):
    with held(Path("runs/compare")):
        done = cli("compare", *FEW[1:], "--methods", "bitfit", "--seeds", 0)
        assert done.code == 2 and "at work in runs/compare" in done.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "number, ctrl_c",
    [
        (signal.SIGTERM, signal.SIG_DFL),
        pytest.param(signal.SIGINT, signal.SIG_DFL, marks=pytest.mark.slow),
        (signal.SIGTERM, signal.SIG_IGN),  # in the background of a script
    ],
)
def test_a_run_that_is_told_to_stop_keeps_its_last_step(tmp_path, cli, number, ctrl_c):
    endless = (*TINY, "--steps", 100_000, "--dev-limit", 1, "--out", "r")
    process = started(tmp_path, *endless, ctrl_c=ctrl_c)
    end = time.monotonic() + patience(60)
    while not Path("r/log.jsonl").is_file() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=patience(60))
    assert process.returncode == 130 and "stopped; go on with --resume r" in said
    (state,) = Path("r/checkpoint").glob("step-*/state.json")
    assert state.is_file()


def test_who_reads_what_is_printed_may_go(tmp_path):
    """`| head`: no word about a broken pipe, and a finished run is one."""
    process = started(tmp_path, *FEW, "--out", "r", PYTHONUNBUFFERED="1")
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=patience(60)) == 141 and not said
    assert not (tmp_path / "r").exists()


def test_a_mistyped_name_without_a_network_is_one_sentence(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    process = started(tmp_path, "predict", "no-run", "x", HF_ENDPOINT="https://nowhere.invalid")
    said, error = process.communicate(timeout=patience(60))
    assert process.returncode == 2 and not said and error.count("\n") == 1
    assert "no-run is no folder, and cannot be opened as a base" in error


def test_a_warning_is_a_note_without_code(tmp_path):
    rows = "".join(f"the cat {n},{('zqx', 'zqy')[n % 2]}\n" for n in range(9))
    (tmp_path / "d.csv").write_text(f"input,target\n{rows}")
    base = ("--base", "tiny-decoder-0.1m", "--data", "d.csv", "--kind", "classification")
    process = started(tmp_path, "train", *base, "--steps", 1)
    _, error = process.communicate(timeout=patience(60))
    assert process.returncode == 0 and error.startswith("note: The labels 'zqx' and 'zqy'")
    assert "UserWarning" not in error and ".py" not in error
    assert error.count("zqx") == 1


def test_a_terminal_that_knows_few_signs(tmp_path):
    (tmp_path / "new.csv").write_text("input\nf\u00fcr \u2192\n", encoding="utf-8")
    for words in (("train", "--help"), ("generate", "tiny-decoder-0.1m", "--data", "new.csv")):
        process = started(tmp_path, *words, PYTHONIOENCODING="ascii")
        said, error = process.communicate(timeout=patience(60))
        assert process.returncode == 0 and said and not error


def test_a_full_disk_says_how_to_go_on(cli):
    """A limit on the length of files is what a full disk is to one process."""
    few = (*TINY, "--steps", 40, "--dev-limit", 1, "--out", "r")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # the log is longer in the end
    try:
        done = cli(*few)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 2 and "r/log.jsonl could not be written (File too large)" in done.err
    assert done.err.endswith("then go on with --resume r.\n")
    assert cli("train", "--resume", "r").code == 0
    assert len(Path("r/log.jsonl").read_text().splitlines()) == 40 + 5


@pytest.mark.parametrize("base", ["tiny-decoder-0.1m", "of transformers"])
def test_a_disk_that_is_full_while_a_folder_is_written(cli, gpt2, pairs, base):
    base = gpt2 if base == "of transformers" else base
    how = ("--base", base, "--data", pairs, "--kind", "text-to-text", "--steps", 2)
    assert cli("train", *how, "--dev-limit", 3, "--out", "r").code == 0
    before = sorted(Path().rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        done = [cli(command, "r", "new") for command in ("merge", "convert")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for each in done:
        assert each.code == 2 and each.err.startswith("minipeft: new could not be written (")
        assert each.err.count("could not be written") == 1 and "File too large" in each.err
    assert sorted(Path().rglob("*")) == before


def test_nothing_is_left_of_a_run_that_did_not_begin(cli, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.mp, "train", stop)
    done = cli(*FEW, "--find-rate", "--out", "a/b")
    assert done.code == 130 and not Path("a").exists()


def test_the_version_and_words_that_are_empty(cli):
    done = cli("--version")
    assert done.code == 0 and "minipeft" in done.out and "torch" in done.out
    for words in (
        (*FEW, "--resume", ""),
        (*FEW, "--start", ""),
        (*FEW, "--dev="),
        ("merge", "", "m"),
    ):
        done = cli(*words)
        assert done.code == 2 and "is empty: is a variable of the shell not set?" in done.err
    assert not list(Path().iterdir())
