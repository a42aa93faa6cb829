"""Files that version 0.1 wrote, by the names that it used, open today and mean the same."""

from pathlib import Path

import pytest
import torch
import zoo
from closeness import close
from safetensors.torch import load_file

import minipeft as mp

FOLDER = Path(__file__).parents[1] / "files_of_0_1"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_version_0_1_opens_and_means_the_same(name, tmp_path):
    model, batch = zoo.build("tiny-decoder", dtype=torch.float32), zoo.batch("tiny-decoder")
    # torch draws other float32 numbers on a processor without vectors
    model.load_state_dict(load_file(FOLDER / "base.safetensors"))
    tuner = mp.load(model, FOLDER / name)
    written = load_file(FOLDER / "logits.safetensors")[name]  # of size 1, in fp32
    close(zoo.logits(model, batch), written)
    tuner.save(tmp_path)
    tuner.detach()
    mp.load(model, tmp_path)
    close(zoo.logits(model, batch), written)


def test_every_method_that_stores_something_is_there():
    assert len(NAMES) == 19
