"""Execute a notebook: a fresh kernel of this interpreter, an empty folder, fixed threads.

What is kept of the outputs is what a reader needs: results, prints and pictures. What goes to
stderr (progress bars, warnings) is shown while it runs and not stored, and no path of this machine
is stored.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from builder.cut import ROOT
from builder.silence import Watch, patience
from minipeft.course.fetching import user_cache

try:
    import fcntl
except ImportError:  # Windows, where a killed build's folder stays until the system clears it
    fcntl = None

THREADS = 1  # small models are not slower for it, and lessons run side by side
LONG = 3600  # seconds nbclient waits for what `silence` watches over: a start, the last outputs
PLACE = "minipeft-lesson-"  # how the temporary folder of a lesson that runs is called


@dataclass
class CellFailed(Exception):
    """A cell raised an error, hung or killed its kernel: its place in the notebook (from 1)."""

    position: int
    reason: str  # in one line
    traceback: str  # whole, "" where there is none


class Stopped(Exception):
    """The build was interrupted while this lesson ran."""


class OwnKernel(AsyncKernelManager):
    """A kernel of the running interpreter; no registered kernelspec is needed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class Client(NotebookClient):
    """nbclient that hands stderr to `say`, stores everything else and tells `watch` of both."""

    def __init__(
        self,
        notebook: NotebookNode,
        say: Callable[[int, str], None],
        place: Path,
        watch: Watch,
        **options,
    ) -> None:
        super().__init__(notebook, kernel_manager_class=OwnKernel, **options)
        self.say = say
        self.place = place
        self.watch = watch

    def process_number(self) -> int | None:
        """The kernel's process, None before it has one."""
        return getattr(self.km and self.km.provisioner, "pid", None)

    def process_message(self, msg, cell, cell_index):
        self.watch.note_sign()
        return super().process_message(msg, cell, cell_index)

    def create_kernel_manager(self) -> OwnKernel:
        if sys.platform == "win32":
            return super().create_kernel_manager()
        # Talk through files of this user, not through network ports.
        ways = {"ip": f"{self.place}/k", "connection_file": f"{self.place}/kernel.json"}
        self.km = OwnKernel(config=self.config, transport="ipc", **ways)
        return self.km

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stderr":
            self.say(cell_index, msg["content"]["text"])
            return None
        return super().output(outs, msg, display_id, cell_index)


def environment(threads: int = THREADS) -> dict[str, str]:
    """This process's environment, with what would change numbers from run to run fixed."""
    fixed = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
        "COLUMNS": "100",
    }
    for name in ("MINIPEFT_ASSETS", "MINIPEFT_CACHE"):  # a lesson runs in another folder
        if os.environ.get(name):
            fixed[name] = str(Path(os.environ[name]).expanduser().resolve())
    return {**os.environ, **fixed, "PYTHONPATH": str(ROOT)}


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder, gone at the end. What a killed build left behind is taken away first.

    The folder is locked as long as this process lives: one without a lock is a dead one's.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PLACE}*") if fcntl else ():
        with suppress(OSError), _locked(old, fcntl.LOCK_NB):  # BlockingIOError: in use
            shutil.rmtree(old)
    with ExitStack() as stack:
        while True:
            place = Path(tempfile.mkdtemp(prefix=PLACE))
            with suppress(FileNotFoundError):
                stack.enter_context(_locked(place))
                if place.exists():  # else another process took it for a dead one's
                    break
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        yield place


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(handle)


def execute(
    notebook: NotebookNode,
    progress: Callable[[int, int, str], None] = lambda cell, cells, text: None,
    threads: int = THREADS,
    stop: threading.Event | None = None,
) -> float:
    """Run every cell of `notebook` in place and return the seconds it took.

    progress(cell, cells, text) is called when a cell starts (with text "") and when it writes to
    stderr.
    stop: set from another thread, it ends the kernel.

    Raises:
        CellFailed: for the first cell that raises, is silent too long or kills its kernel.
        Stopped: `stop` was set.
    """
    stop = stop or threading.Event()
    settings = environment(threads)
    watch = Watch(patience(settings), stop)
    cells = len(notebook.cells)
    current = [0]

    def say(index: int, text: str) -> None:
        progress(index + 1, cells, text)

    def starts(cell: NotebookNode, cell_index: int) -> None:
        current[0] = cell_index
        progress(cell_index + 1, cells, "")

    began = time.perf_counter()
    # A folder of its own proves that a lesson needs no certain one, and takes what it writes.
    with workplace() as place:
        folder = str(place / "lesson")
        os.mkdir(folder)
        client = Client(
            notebook,
            say,
            place,
            watch,
            timeout=None,
            startup_timeout=LONG,
            iopub_timeout=LONG,
            on_cell_start=starts,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        failure = None
        try:
            with watch.over(client.process_number):
                client.execute(env=settings)
        except CellExecutionError:
            outputs = notebook.cells[current[0]].outputs  # a figure may stand behind the error
            output = next(one for one in reversed(outputs) if one.output_type == "error")
            failure = f"{output.ename}: {output.evalue}", "\n".join(output.get("traceback", []))
        except (DeadKernelError, RuntimeError):  # RuntimeError: it died before it was ready
            if stop.is_set():
                raise Stopped from None
            died = "the kernel died (out of memory?)"
            failure = f"nothing was heard for {watch.limit:.0f} s" if watch.silent else died, ""
        if failure is not None:
            raise CellFailed(current[0] + 1, *failure)
        seconds = time.perf_counter() - began
        _tidy(notebook, folder)
    return seconds


def _tidy(notebook: NotebookNode, folder: str) -> None:
    """Take out of the stored notebook what differs from machine to machine."""
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    cache = str(user_cache())
    names = {folder: ".", cache: "$MINIPEFT_CACHE", str(ROOT): "minipeft", str(Path.home()): "~"}
    assets = os.environ.get("MINIPEFT_ASSETS")
    if assets:
        names = {
            str(Path(assets).resolve()): "$MINIPEFT_ASSETS",
            assets: "$MINIPEFT_ASSETS",
            **names,
        }

    def clean(text: str) -> str:
        for path, name in names.items():
            if len(path) > 4:  # "/" or "/root" alone would hit ordinary text
                text = text.replace(path, name)
        return re.sub(r"0x[0-9a-f]{6,}", "0x...", text)

    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            output.pop("transient", None)
            if "text" in output:
                output["text"] = clean(output["text"])
            if "traceback" in output:
                output["traceback"] = [clean(line) for line in output["traceback"]]
            data = output.get("data", {})
            for kind in data:
                if kind.startswith("text/"):
                    data[kind] = clean(data[kind])
