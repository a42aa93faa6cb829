"""`train --pooling mean`: the adapter's folder remembers it, and what cannot say it refuses."""

import json
import shutil
from pathlib import Path

import pytest


def trained(cli, bert, texts, pooling):
    how = ("--kind", "classification", "--steps", 4, "--batch-size", 4, "--dev-limit", 4)
    done = cli(
        "train", "--base", bert, "--data", texts, *how, "--pooling", pooling, "--out", pooling
    )
    assert done.code == 0, done.err
    return done.out


def answers(cli, what, texts, *words):
    done = cli("evaluate", what, "--data", texts, "--kind", "classification", *words,
               "--predictions", "said.jsonl")  # fmt: skip
    assert done.code == 0, done.err
    return done.out.splitlines()[2:4], Path("said.jsonl").read_text()


def test_the_folder_remembers_it_and_a_merge_is_refused(cli, bert, texts):
    assert "--pooling mean: other programs" in trained(cli, bert, texts, "mean")
    assert json.loads(Path("mean/adapter/pooling.json").read_text()) == "mean"
    run = answers(cli, "mean", texts)
    shutil.copytree("mean/adapter", "alone")
    assert answers(cli, "alone", texts, "--base", bert) == run
    done = cli("convert", "alone", "there", "--base", bert, "--to", "peft")
    assert done.code == 0 and Path("there/pooling.json").is_file()
    refused = cli("merge", "mean", "whole")
    assert refused.code == 2 and "knows" not in refused.out and "keep the adapter" in refused.err
    Path("alone/pooling.json").write_text('"sum"')
    assert cli("evaluate", "alone", "--data", texts, "--base", bert).code == 2


def test_the_first_token_is_the_default_and_leaves_no_file(cli, bert, texts):
    assert "--pooling" not in trained(cli, bert, texts, "first")
    assert not Path("first/adapter/pooling.json").exists()


@pytest.mark.parametrize("base", ["tiny-encoder", "tiny-decoder"])
def test_it_is_for_encoders_with_a_classification_head(cli, texts, base):
    done = cli("train", "--base", base, "--data", texts, "--kind", "classification", "--out", "r",
               "--pooling", "mean")  # fmt: skip
    assert done.code == 2 and "--pooling mean is for" in done.err
