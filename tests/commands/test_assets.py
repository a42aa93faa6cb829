"""Real checkpoints and corpora, end to end with few steps: train, measure, use."""

import json
from pathlib import Path

import pytest

from minipeft.tasks import pronunciation

FEW = ("--steps", 2, "--batch-size", 4, "--dev-limit", 6, "--out", "run")


def head(source, target, lines):
    """The first lines of a corpus, so that a test reads no more than it needs."""
    with source.open(encoding="utf-8") as file:
        target.write_text("".join(line for _, line in zip(range(lines), file, strict=False)))
    return target


@pytest.fixture
def minilm(asset):
    return asset("checkpoints/all-minilm-l6-v2")


def trained(cli, *words):
    done = cli("train", *words, *FEW)
    assert done.code == 0, done.err
    assert "dev: " in done.out
    return json.loads(Path("run/result.json").read_text())


def test_sst2_with_minilm(cli, asset, minilm, tmp_path):
    train = head(asset("corpora/sst2/train_full.tsv"), tmp_path / "train.tsv", 60)
    dev = asset("corpora/sst2/dev.tsv")
    columns = ("--kind", "classification", "--input", "sentence", "--target", "label")
    result = trained(cli, "--base", minilm, "--data", train, "--dev", dev, *columns)
    assert result["trainable"] == 6 * 2 * 8 * 2 * 384 and 0 <= result["dev"]["accuracy"] <= 1
    done = cli("evaluate", "run", "--data", dev, "--limit", 8, "--require", "accuracy=0")
    assert done.code == 0 and "per label" in done.out, done.err
    assert cli("merge", "run", "merged").code == 0
    alone = cli("evaluate", "merged", "--data", dev, "--limit", 8, *columns)
    assert alone.code == 0, alone.err
    scores = (out.partition("\n")[2].partition("\n\n")[0] for out in (done.out, alone.out))
    assert len({text.split("score")[1].strip("- \n") for text in scores}) == 1  # merged = adapter


def test_banking77_with_minilm(cli, asset, minilm):
    data = asset("corpora/banking77/train.csv")
    columns = ("--kind", "classification", "--input", "text", "--target", "category")
    trained(cli, "--base", minilm, "--data", data, *columns, "--method", "headonly")
    assert len(json.loads(Path("run/config.json").read_text())["task"]["labels"]) == 77
    test = asset("corpora/banking77/test.csv")
    done = cli("evaluate", "run", "--data", test, "--limit", 8)
    assert done.code == 0 and "macro_f1" in done.out, done.err


def test_wnut17_with_minilm(cli, asset, minilm):
    train, dev = (
        asset("corpora/wnut17/wnut17train.conll"),
        asset("corpora/wnut17/emerging.dev.conll"),
    )
    trained(cli, "--base", minilm, "--data", train, "--dev", dev, "--kind", "tagging",
            "--method", "bitfit")  # fmt: skip
    done = cli("evaluate", "run", "--data", dev, "--limit", 8)
    assert done.code == 0 and "B-location" in done.out, done.err


def test_e2e_with_a_llama(cli, asset):
    base, data = asset("checkpoints/tinystories-656k"), asset("corpora/e2e/devset.csv")
    result = trained(cli, "--base", base, "--data", data, "--kind", "text-to-text", "--input", "mr",
                    "--target", "ref", "--method", "prefix", "--length", 4)  # fmt: skip
    assert 0 <= result["dev"]["overlap"] <= 1
    done = cli("generate", "run", "name[Blue Spice], area[riverside]", "--tokens", 5)
    assert done.code == 0 and done.out.strip(), done.err


def test_american_to_british_with_bart(cli, asset, tmp_path):
    us, gb = (
        pronunciation.read_lexicon(asset(f"corpora/g2p/{name}_gold.json")) for name in ("us", "gb")
    )
    words = [word for word in pronunciation.pairs(us, gb) if word.phonemes != word.before]
    lines = "".join(f"{word.spelling}\t{word.phonemes}\n" for word in words[::500])
    (tmp_path / "british.tsv").write_text(f"word\tbritish\n{lines}", encoding="utf-8")
    result = trained(cli, "--base", asset("checkpoints/bart-g2p-en-us"), "--data", "british.tsv",
                    "--kind", "text-to-text", "--input", "word", "--target", "british",
                    "--targets", "query,key,value,output,up,down")  # fmt: skip
    assert result["trainable"] == 61_440 and result["dev"]["error_rate"] < 0.5
    assert set(json.loads(Path("run/config.json").read_text())["task"]["borrowed"]) <= set("aQɒː")
    done = cli("generate", "run", "tomato")
    assert done.code == 0 and done.out.strip().startswith("təm"), done.err
    assert cli("merge", "run", "merged").code == 0


def test_a_strangers_adapter(cli, asset):
    done = cli("inspect", asset("adapters/peft-lora-gpt2"), "--plot", "s.png")
    assert done.code == 0 and "not written by minipeft" in done.out, done.err
    assert Path("s.png").is_file()


def test_facts_with_the_tiny_encoder(cli):
    """No asset is needed: the project ships both."""
    trained(cli, "--base", "tiny-encoder", "--data", "capital", "--kind", "cloze")
    done = cli("evaluate", "run", "--data", "capital", "--limit", 5)
    assert done.code == 0 and "accuracy" in done.out, done.err
