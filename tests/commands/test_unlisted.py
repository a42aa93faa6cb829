"""The command line with a base on no list: raw names, all linear maps, a described family."""

import json

import pytest
import torch

import minipeft as mp
from minipeft.commands.family_flag import family_from

OLMO = dict(blocks="layers", words="embed_tokens", positions="rotary_emb", attention="self_attn")
OLMO |= dict(query="self_attn.q_proj", value="self_attn.v_proj", output="self_attn.o_proj")
ERNIE = dict(blocks="encoder.layer", words="embeddings.word_embeddings", kind="encoder")
ERNIE |= dict(query=["attention.self.query"], value=["attention.self.value"])
ERNIE |= dict(positions="embeddings.position_embeddings", attention="attention.self")


def train(cli, base, data, *options, kind="text-to-text"):
    quick = ("--steps", 2, "--batch-size", 4, "--dev-limit", 3, "--learning-rate", "0.1")
    return cli("train", "--base", base, "--data", data, "--kind", kind, *quick, *options)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,v_proj"])
def test_from_training_to_a_merged_model(cli, unlisted, pairs, targets):
    done = train(cli, unlisted / "olmo", pairs, "--out", "run", "--targets", targets)
    assert done.code == 0, done.err
    for words in (
        ("inspect", "run"),
        ("inspect", "run/adapter", "--base", unlisted / "olmo"),
        ("convert", "run", "for-peft"),
        ("convert", "for-peft", "ours", "--to", "minipeft", "--base", unlisted / "olmo"),
        ("evaluate", "run", "--data", pairs),
        ("generate", "run", "a b"),
        ("merge", "run", "merged"),
    ):
        done = cli(*words)
        assert done.code == 0, done.err
    assert "logits differ by 0" in cli("convert", "run", "again").out


def test_convert_opens_in_peft(cli, unlisted, pairs, tmp_path):
    peft, hf = pytest.importorskip("peft"), pytest.importorskip("transformers")
    assert train(cli, unlisted / "olmo", pairs, "--out", "run", "--targets", "all-linear").code == 0
    assert cli("convert", "run", "for-peft").code == 0
    base = hf.AutoModelForCausalLM.from_pretrained(unlisted / "olmo").eval()
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        mp.load(base, "run/adapter")
        ours = base(ids).logits
        plain = hf.AutoModelForCausalLM.from_pretrained(unlisted / "olmo").eval()
        theirs = peft.PeftModel.from_pretrained(plain, "for-peft").eval()(ids).logits
    assert (ours - theirs).abs().max() < 1e-5


def test_inspect_lists_the_maps_of_a_base_nobody_listed(cli, unlisted):
    done = cli("inspect", unlisted / "olmo")
    assert done.code == 0, done.err
    assert "on no list" in done.out
    for word in ("q_proj", "model.layers.*.self_attn.q_proj", "16 x 16", "down_proj"):
        assert word in done.out


@pytest.mark.parametrize("as_file", [True, False])
def test_a_described_family(cli, unlisted, pairs, as_file, tmp_path):
    """Every door opens, and the run remembers what was described."""
    text = json.dumps(OLMO)
    if as_file:
        (tmp_path / "olmo.json").write_text(text)
        text = "olmo.json"
    done = cli("inspect", unlisted / "olmo", "--family", text)
    assert done.code == 0, done.err
    for word in ("embed_tokens", "keys and values", "query", "output"):
        assert word in done.out
    for method in ("lora", "prefix", "prompttuning"):
        done = train(cli, unlisted / "olmo", pairs, "--method", method, "--out", method,
                     "--family", text)  # fmt: skip
        assert done.code == 0, done.err
        done = cli("evaluate", method, "--data", pairs)
        assert done.code == 0, done.err
        done = cli("generate", f"{method}/adapter", "a b", "--base", unlisted / "olmo",
                   "--family", text)  # fmt: skip
        assert done.code == 0, done.err
    assert cli("merge", "lora", "merged").code == 0
    assert cli("convert", "lora", "for-peft").code == 0


def test_a_described_encoder(cli, unlisted, texts):
    done = train(cli, unlisted / "ernie", texts, "--family", json.dumps(ERNIE), "--out", "run",
                 "--method", "prompttuning", "--length", 2, kind="classification")  # fmt: skip
    assert done.code == 0, done.err
    config = json.loads(open("run/config.json").read())
    assert config["base"]["kind"] == "encoder" and config["options"]["family"] == ERNIE
    assert cli("evaluate", "run", "--data", texts).code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere.json", "there is no file nowhere.json"),
        ("{blocks}", "not JSON"),
        ('{"query": "q"}', "at least its blocks"),
        ('{"blocks": "layers", "quary": "q"}', "did you mean 'query'"),
        ('{"blocks": "layers", "query": 3}', "must be a tuple of names"),
        ('{"blocks": "layers", "query": {"module": "qkv", "index": 0}}', "its of"),
        ('{"blocks": "layers", "query": {"modul": "qkv"}}', "did you mean 'module'"),
        ('{"blocks": "layers", "kind": "cross"}', "one of decoder, encoder"),
        ('{"blocks": "layers", "query": {"module": "qkv", "index": 3, "of": 3}}', "from 0"),
        (
            '{"blocks": "h", "key": {"module": "qkv", "index": 0, "of": 3, "groups": "head"}}',
            "or 'he",
        ),
    ],
)
def test_a_family_that_is_none(cli, unlisted, pairs, text, said):
    done = train(cli, unlisted / "olmo", pairs, "--family", text)
    assert done.code == 2 and said in done.err, done.err


def test_a_family_that_does_not_fit_the_base(cli, unlisted, pairs):
    family = json.dumps(OLMO | dict(query="self_attn.q_prj"))
    done = train(cli, unlisted / "olmo", pairs, "--family", family)
    assert done.code == 2 and "did you mean 'self_attn.q_proj'" in done.err, done.err


def test_slices_in_json():
    part = {"module": "qkv", "index": 1, "of": 3, "sizes": ["heads", 1, 1], "groups": 2}
    family = family_from({"blocks": "layers", "key": part})
    assert family.key == (mp.Slice("qkv", 1, 3, sizes=("heads", 1, 1), groups=2),)
    assert family == mp.Family((), ("layers",), key=family.key)
