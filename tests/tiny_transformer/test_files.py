"""A reader never sees half a file, and a failed write leaves nothing behind."""

from __future__ import annotations

import os
import stat

import pytest
import torch
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
