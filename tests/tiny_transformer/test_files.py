"""A reader never sees half a file, and a failed write leaves nothing behind."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import scrambled

import tiny_transformer as tt
from tiny_transformer import files


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def half(name: str) -> None:
        with open(name, "w") as file:
            file.write("half of")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        files.write(path, half)
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_failing_write_of_tensors_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    files.write_tensors(path, {"a": torch.ones(2)})
    with pytest.raises(Exception, match="."):
        files.write_tensors(path, {"a": torch.ones(2), "b": "no tensor"})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    with pytest.raises(OSError, match="read-only"):
        files.write_tensors(path, {"a": torch.zeros(2)})
    monkeypatch.undo()
    assert load_file(path)["a"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["t.safetensors"]


def test_the_name_changes_hands_only_when_the_file_is_whole(tmp_path, monkeypatch):
    path, seen = tmp_path / "deep" / "file.txt", []
    replace = os.replace

    def watched(source, target):
        seen.append((open(source).read(), os.path.exists(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    files.write_text(path, "é")
    assert seen == [("é\n", False)]
    assert path.read_text(encoding="utf-8") == "é\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # readable by others, unlike mkstemp's


def test_save_writes_nothing_when_the_config_cannot_be_said(tmp_path):
    model = scrambled("bart", norm_epsilon=1e-3)
    with pytest.raises(ValueError, match="cannot say norm_epsilon=0.001"):
        tt.save(model, None, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_what_a_killed_process_leaves_is_taken_away_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "file.txt"
    (tmp_path / ".file.txt.dead.part").write_text("half")
    (tmp_path / ".other.txt.dead.part").write_text("not this file's")

    def while_writing(name: str) -> None:
        files.write_text(path, "quick")  # another writer of the same file, meanwhile
        assert os.path.exists(name)
        with open(name, "w") as file:
            file.write("slow")

    files.write(path, while_writing)
    assert path.read_text() == "slow"
    assert sorted(os.listdir(tmp_path)) == [".other.txt.dead.part", "file.txt"]


def test_tensors_are_written_into_the_very_file_that_is_locked(tmp_path):
    """safetensors' own save_file moves another file there, whose name a kill would leave behind."""
    seen = []

    def save(name: str) -> None:
        before = os.stat(name).st_ino
        files.saving_tensors({"x": torch.ones(3)})(name)
        seen.append(os.stat(name).st_ino == before)

    files.write(tmp_path / "x.safetensors", save)
    assert seen == [True] and os.listdir(tmp_path) == ["x.safetensors"]


def test_files_that_belong_together_are_moved_when_all_are_there(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    files.write_all({one: files.saving_text("1"), two: files.saving_text("2")})

    def full(name: str) -> None:
        raise OSError(28, "No space left on device")

    sentence = f"{two} could not be written .No space left on device.: make room .* as it was[.]$"
    with pytest.raises(OSError, match=sentence) as caught:
        files.write_all({one: files.saving_text("11"), two: full})
    assert caught.value.errno == 28
    assert (one.read_text(), two.read_text()) == ("1\n", "2\n")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_a_place_below_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("a file")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "c"):
        with pytest.raises(OSError, match="could not be written .*: make room or choose another"):
            files.write_text(path, "text")


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path):
    metadata = {"format": "pt", "é\n": "ü/", "b": '{"x": 1}', "a": "1"}
    written = set()
    for number in range(12):  # safetensors keeps its metadata in a random order
        files.write_tensors(
            tmp_path / str(number), {"b": torch.ones(3), "a": torch.ones(2, 2)}, metadata
        )
        written.add((tmp_path / str(number)).read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == metadata and file.get_tensor("b").tolist() == [1, 1, 1]
