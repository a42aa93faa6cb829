"""Data, files and surroundings as they are met in the world, one test for each way they went wrong."""

import csv
import json

import pytest
import torch

import minipeft as mp

hf = pytest.importorskip("transformers")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def behind(gpt2, tmp_path):
    """A prefix of 🤗 PEFT's, behind which every token has a higher position."""
    peft = pytest.importorskip("peft")
    base = hf.AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float64)
    settings = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    peft.get_peft_model(base, settings).save_pretrained(tmp_path / "behind")
    return tmp_path / "behind"


def test_answers_behind_a_prefix_of_pefts_end_where_the_positions_do(cli, gpt2, behind, tmp_path):
    """The last three positions were asked for and not there: a long answer was lost at its end."""
    model = hf.AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float64).eval()
    table = model.config.n_positions
    mp.load(model, behind)
    ids = torch.tensor([[5, 6]])
    assert mp.generate(model, ids, max_new_tokens=500, eos_token_id=10**6).shape[1] == table - 3
    with pytest.raises(ValueError, match="fills all"):
        mp.generate(model, torch.full((1, table - 3), 5), max_new_tokens=1)
    done = cli("generate", behind, "a b", "--base", gpt2, "--tokens", 500)
    assert done.code == 0, done.err
    rows = [{"input": "a " * (table - 4), "target": "b"}] * 2
    what = ("--base", gpt2, "--data", lines(tmp_path / "long.jsonl", rows), "--kind")
    done = cli("evaluate", behind, *what, "text-to-text")
    assert done.code == 2 and f"Example 1 has {table + 2} tokens, but the model knows" in done.err
