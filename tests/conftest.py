"""What every test shares: its number of threads, no network, the folder of real checkpoints."""

from __future__ import annotations

import gc
import getpass
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before transformers is imported: a test that reaches for the Hub is a mistake.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# torch.compile keeps what it built for one instruction set and hands it to another: NaN.
if isa := os.environ.get("ATEN_CPU_CAPABILITY"):
    compiled = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{isa}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))

import tiny_transformer  # noqa: E402, F401  before torch: threads that wait shall not spin

# isort: split
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from whole import WHOLE  # noqa: E402

# The same sums in the same order; tests/machines.py asks for another number.
torch.set_num_threads(int(os.environ.get("MINIPEFT_TEST_THREADS", "1")))

# The same examples for everybody, and no clock: a busy machine is not a failure.
settings.register_profile("minipeft", deadline=None, derandomize=True, database=None)
settings.load_profile("minipeft")


def keep_what_is_alive() -> None:
    """Take out the garbage; no later search for it looks at what is alive now: millions."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked as slow is for WHOLE=1."""
    for item in items:
        if item.get_closest_marker("slow") and not WHOLE:
            item.add_marker(pytest.mark.skip(reason="takes long: WHOLE=1 make test runs it"))


def pytest_collection_finish() -> None:
    """All is imported and collected."""
    keep_what_is_alive()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None):
    """A file has ended: what is alive now was kept by somebody."""
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        keep_what_is_alive()
    return result


@pytest.fixture(scope="session")
def asset() -> Callable[[str], Path]:
    """`asset("checkpoints/capp-gpt2")` is that path in the folder named by MINIPEFT_ASSETS.

    Skips when the variable is not set; fails when it is and the path does not exist.
    """
    folder = os.environ.get("MINIPEFT_ASSETS")

    def find(name: str) -> Path:
        if not folder:
            pytest.skip("MINIPEFT_ASSETS is not set; it names a folder of real checkpoints")
        path = Path(folder).resolve() / name
        if not path.exists():
            pytest.fail(f"MINIPEFT_ASSETS is set, but {name} is missing there", pytrace=False)
        return path

    return find
