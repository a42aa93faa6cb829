"""macOS and Windows, as far as Linux can tell: what they lack is taken away, then all is imported.

Linux alone has fork, signals beyond a few, /proc, `resource` and `fcntl` together. A learner needs
none of them: the packages, the builder of the course, the launcher and the command that judges.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What a learner's commands load of other people is loaded first: it is theirs to be portable.
WITHOUT = r"""
import importlib, os, pkgutil, signal, subprocess, sys
import torch, numpy, safetensors.torch, tqdm, nbformat, nbclient, jupytext, jupyter_client.manager
import matplotlib.pyplot, nbconvert, latex2mathml.converter, transformers, asyncio, multiprocessing
import torch.utils.data, tempfile, logging.handlers

for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty", "syslog", "posix"):
    sys.modules[name] = None
if PLATFORM == "win32":
    for name in ("fork", "forkpty", "killpg", "setsid", "getpgid", "geteuid", "getuid", "uname",
                 "register_at_fork", "mkfifo"):
        delattr(os, name)
    for name in ("SIGKILL", "SIGXCPU", "SIGXFSZ", "SIGHUP", "SIGALRM", "alarm", "setitimer"):
        delattr(signal, name)
real, sys.platform = sys.platform, PLATFORM

sys.path[:0] = [ROOT, ROOT + "/notebooks"]
seen = []
for package in ("minipeft", "tiny_transformer", "builder"):
    module = importlib.import_module(package)
    seen.append(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        if not found.name.endswith(LINUX_ONLY) and "__main__" not in found.name:
            importlib.import_module(found.name)
            seen.append(found.name)
import build, start
print(len(seen))
"""
LINUX_ONLY = (".warden",)  # started on Linux only, by its path
JUDGE = r"""
import pathlib, types
subprocess.signal = types.SimpleNamespace(SIGKILL=9)  # Linux's subprocess needs it itself
from minipeft.checks import submission
from minipeft.__main__ import main
import tiny_transformer as tt
tt.files.write_text("a.txt", "written without locks")
assert pathlib.Path("a.txt").read_text() == "written without locks\n"
assert len(list(pathlib.Path(".").iterdir())) == 1
assert "cannot limit memory" in submission.limits_missing()
print(main(["check", NOTEBOOK, "--seconds", "300"]))
"""


def run(platform, code, folder):
    names = {
        "PLATFORM": platform,
        "ROOT": str(ROOT),
        "LINUX_ONLY": LINUX_ONLY,
        "NOTEBOOK": str(ROOT / "notebooks" / "00_map.ipynb"),
    }
    head = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    return subprocess.run(
        [sys.executable, "-c", f"{head}\n{code}"], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_that_a_learner_runs_needs_what_other_systems_lack(platform, tmp_path):
    """All is imported; then files are written and a notebook is judged."""
    done = run(platform, WITHOUT + JUDGE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 50  # modules
    assert "1 of 1 passed" in done.stdout and "cannot limit memory" in done.stderr
