"""How threads wait is settled before torch is loaded, and the user's own word counts."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from minipeft import stopping
from minipeft.__main__ import main
from tiny_transformer.process import SPIN

ROOT = Path(__file__).resolve().parents[1]
ASK = "; import os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"


def said(code: str, **settings: str) -> str:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment = {**known, **settings, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code + ASK]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("package", ["minipeft", "tiny_transformer", "minipeft.__main__"])
def test_threads_that_wait_sleep_soon(package):
    """It is set when torch begins to be loaded, not after."""
    watching = (
        "import sys, os\n"
        "class Finder:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name == 'torch':\n"
        f"            assert os.environ.get('GOMP_SPINCOUNT') == '{SPIN}'\n"
        f"sys.meta_path.insert(0, Finder())\nimport {package}"
    )
    assert said(watching) == f"{SPIN} None"


def test_what_the_user_has_set_stays():
    assert said("import minipeft", GOMP_SPINCOUNT="7") == "7 None"
    assert said("import minipeft", OMP_WAIT_POLICY="ACTIVE") == "None ACTIVE"


def test_nothing_is_set_when_torch_is_there_already():
    """It would change nothing in this process, only in those that it starts."""
    assert said("import torch, minipeft") == "None None"


STOPPED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt as error:  # C++ that is being loaded may make anything of it
    raise ImportError("numpy is not there") from error
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("way", ["module", "script", "import"])
def test_ctrl_c_while_torch_is_loaded_is_one_line(tmp_path, way):
    """Of the command; a program that imports the package is told where, as by any other."""
    (tmp_path / "torch.py").write_text(STOPPED)
    script = tmp_path / "minipeft"  # as pip writes it
    script.write_text("from minipeft.__main__ import run_command\nrun_command()\n")
    ways = {"module": ["-m", "minipeft"], "script": [script], "import": ["-c", "import minipeft"]}
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, *ways[way], *["train"] * (way != "import")]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    if way == "import":
        assert done.returncode == 1 and "Traceback" in done.stderr
    else:
        assert done.returncode == -signal.SIGINT and not done.stdout
        assert done.stderr == "minipeft: stopped.\n"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("way", ["ignored", "in a thread"])
def test_who_does_not_listen_to_ctrl_c_is_left_so(tmp_path, way):
    """nohup and a shell's `&` ignore it, and threads other than the first cannot listen."""
    sent = "os.kill(os.getpid(), signal.SIGINT)" if way == "ignored" else ""
    (tmp_path / "torch.py").write_text(
        f"import os, signal\n{sent}\nprint('torch is next', flush=True)\nos._exit(0)\n"
    )
    script = tmp_path / "minipeft"
    lines = ["import threading", "load = threading.Thread(target=lambda: __import__('minipeft'))"]
    lines += ["load.start()", "load.join()"]
    script.write_text("import minipeft" if way == "ignored" else "\n".join(lines))
    before = signal.SIG_IGN if way == "ignored" else signal.default_int_handler
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, before),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "torch is next\n", "")


@pytest.mark.parametrize("loaded", [stopping.interrupt_as_usual, lambda: main(["nothing"])])
@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL, stopping.stop])
def test_what_listens_when_all_is_loaded(before, loaded):
    """Ctrl-C is a KeyboardInterrupt again; what others have set stays."""
    kept = signal.signal(signal.SIGINT, before)
    try:
        with suppress(SystemExit):  # no such command
            loaded()
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, kept)
    assert after is (signal.default_int_handler if before is stopping.stop else before)
