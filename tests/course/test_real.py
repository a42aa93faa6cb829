"""Real models: where a name leads without any network, and the models once they are fetched."""

import os

import pytest
import torch
import zoo
from safetensors.torch import load_file

import minipeft as mp
from minipeft.course import real
from minipeft.course.fetching import is_complete
from tiny_transformer import WordTokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small random models that stand in for the real ones."""
    place = tmp_path_factory.mktemp("models")
    for name in ("gpt2", "bert"):
        zoo.build(name).save_pretrained(place / name)
        words = ["good", *(f"w{i}" for i in range(zoo.WORDS - 15))]
        WordTokenizer(words).save(place / name, 32)
    return place


@pytest.fixture
def gpt2(folders):
    return folders / "gpt2"


@pytest.fixture
def bert(folders):
    return folders / "bert"


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A user who has fetched nothing and has set nothing."""
    for name in ("MINIPEFT_ASSETS", "MINIPEFT_REAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def said(capsys):
    return capsys.readouterr().out.splitlines()


# -- where a name leads ----------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [real.load, real.folder], ids=["load", "folder"])
@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_not_fetched_is_one_sentence_and_none(bare, capsys, name, ask):
    assert ask(name) is None
    (line,) = said(capsys)
    assert f"python -m minipeft fetch {name}" in line and line.endswith(".")


def test_the_lexicon_too(bare, capsys):
    assert real.vader() is None and len(said(capsys)) == 1


def test_left_out_by_wish(bare, capsys, monkeypatch, gpt2):
    monkeypatch.setenv("MINIPEFT_REAL", "0")
    monkeypatch.setenv("MINIPEFT_ASSETS", str(gpt2.parent))
    assert real.load("smollm2") is None
    (line,) = said(capsys)
    assert "MINIPEFT_REAL is 0" in line
    assert real.load(gpt2) is not None  # a folder that is given is meant


@pytest.mark.parametrize("under", ["", "checkpoints"])
def test_assets_win(bare, monkeypatch, gpt2, under):
    place = bare / "assets" / under / "smollm2-135m-instruct"
    place.parent.mkdir(parents=True)
    os.symlink(gpt2, place)
    monkeypatch.setenv("MINIPEFT_ASSETS", str(bare / "assets"))
    assert real.folder("smollm2") == place and real.get("smollm2") == place
    assert real.find("minilm") is None


def test_a_folder_wins(bare, gpt2, bert):
    model, tokenizer = real.load(gpt2)
    assert type(model).__name__ == "GPT2LMHeadModel" and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer("good")["input_ids"]
    assert type(real.load(str(bert))[0]).__name__ == "BertModel"
    assert type(real.load(gpt2, head="none")[0]).__name__ == "GPT2Model"
    model, _ = real.load(bert, head="classification", labels=("no", "yes", "perhaps"))
    assert model.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    assert model.classifier.out_features == 3
    again, _ = real.load(bert, head="classification", labels=3)
    assert torch.equal(model.classifier.weight, again.classifier.weight)  # seed 0
    other, _ = real.load(bert, head="classification", labels=3, seed=1)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert type(real.load(bert, "tagging", 2)[0]).__name__ == "BertForTokenClassification"


def test_a_name_on_the_hub_without_a_network_is_one_sentence(bare, capsys):
    assert real.load("somebody/some-model") is None
    (line,) = said(capsys)
    assert line.startswith("Left out: somebody/some-model") and line.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("llama",), "choose of smollm2, minilm, vader"),
        (("smollm2", "classifier"), "head is one of language, none, classification, tagging"),
        (("minilm", "classification"), "labels"),
    ],
)
def test_what_cannot_be_meant(bare, arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        real.load(*arguments)
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_one_sentence(bare, gpt2, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in gpt2.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        real.load(folder)
    (folder / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="cannot be opened") as caught:
        real.load(folder)
    assert "\n" not in str(caught.value)


# -- the models themselves; they are skipped where they have not been fetched ----------------------


@pytest.fixture(scope="module")
def fetched():
    """`fetched("smollm2")` is what `real.load` gives; skips with the reason where it is not."""

    def get(name, *arguments):
        if real.find(name) is None:
            pytest.skip(real.absent(name))
        return real.load(name, *arguments)

    return get


@pytest.fixture(scope="module")
def smollm2(fetched):
    return fetched("smollm2")


def test_smollm2_is_what_its_name_says(smollm2):
    model, tokenizer = smollm2
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # what its page tells
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not hasattr(config, "quantization_config") and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        ids = tokenizer("The capital of France is", return_tensors="pt")
        best = model(**ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
    chat = [{"role": "user", "content": "Hello"}]
    assert "<|im_start|>user\nHello<|im_end|>" in tokenizer.apply_chat_template(
        chat, tokenize=False
    )


def test_smollm2_has_the_weights_of_a_four_bit_file(smollm2):
    """Q4_1: 32 weights that follow each other share one scale and one start, and have 16 values."""
    weight = smollm2[0].model.layers[7].mlp.up_proj.weight  # (1536, 576)
    blocks = weight.reshape(-1, 32).sort(dim=1).values  # (1536 * 18, 32)
    distinct = 1 + (blocks.diff(dim=1) > 0).sum(dim=1)
    assert distinct.max() <= 16 < 1 + (weight[0].sort().values.diff() > 0).sum()
    assert torch.equal(weight, weight.to(torch.bfloat16).float())


def test_smollm2_can_be_tuned_and_is_unharmed(smollm2):
    model, tokenizer = smollm2
    batch = tokenizer(["The soup was cold."], return_tensors="pt")
    batch["labels"] = batch["input_ids"]
    with torch.no_grad():
        before = model(**batch).logits
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)  # B = 0
    history = mp.train(model, [dict(batch)], steps=3, learning_rate=1e-2, progress=False)
    assert history.losses[-1] < history.losses[0]
    tuner.detach()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)


def test_minilm_knows_what_is_alike(fetched):
    model, tokenizer = fetched("minilm")
    assert sum(p.numel() for p in model.parameters()) == 22_713_216
    texts = ["A man is eating food.", "A man eats something.", "The stock market fell sharply."]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**batch).last_hidden_state  # (3, T, 384)
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)  # (3, 384)
    cosines = means @ means.T
    assert cosines[0, 1] > 0.7 and cosines[0, 2] < 0.2


def test_minilm_is_the_copy_of_the_assets(fetched, asset, monkeypatch):
    monkeypatch.delenv("MINIPEFT_ASSETS", raising=False)
    if real.find("minilm") is None:
        pytest.skip(real.absent("minilm"))
    ours = load_file(real.find("minilm") / "model.safetensors")
    theirs = load_file(asset("checkpoints/all-minilm-l6-v2") / "model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_the_lexicon_is_a_task(fetched):
    if real.find("vader") is None:
        pytest.skip(real.absent("vader"))
    task = real.vader()
    words = {split: [e.input for e in rows] for split, rows in task.splits.items()}
    assert sum(map(len, words.values())) == 5586
    stems = [{word[:5].lower() for word in rows} for rows in words.values()]
    assert not (stems[0] & stems[1] or stems[0] & stems[2] or stems[1] & stems[2])
    labels = {e.input: e.target for e in (*task.train, *task.dev, *task.test)}
    assert labels["wonderful"] == "positive" and labels["horrible"] == "negative"
    model, tokenizer = fetched("minilm", "classification", task.labels)
    batch = task.batches("train", tokenizer, "encoder", batch_size=4)(0)
    assert batch["labels"].shape == (4,) and model(**batch).logits.shape == (4, 2)
    assert 0 <= task.score(model, tokenizer, "dev", limit=8)["accuracy"] <= 1


def test_a_copy_that_is_there_is_whole(fetched):
    for name, source in real.SOURCES.items():
        place = real.find(name)
        if place is not None and (place / "fetched.json").is_file():
            assert is_complete(place, source)
