"""A vocabulary that was enlarged: 🤗 PEFT stores the embeddings beside what was trained.

The new rows are drawn anew by every resize_token_embeddings, so that another session's base has
others than the file.
"""

import warnings

import pytest
import torch
import zoo
from closeness import close
from safetensors.torch import load_file

import minipeft as mp

peft = pytest.importorskip("peft")

NEW = zoo.WORDS + 2
IDS = [NEW - 2, NEW - 1]
TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj"], "opt": ["q_proj"], "t5": ["q"]}
CONFIGS = {
    "lora": dict(),
    "rows": dict(trainable_token_indices=IDS),
    "rows alone": dict(token_indices=IDS),
}


def base(name: str, folder, seed: int = 0):
    """The model of the folder with two more words."""
    model = zoo.build(name)
    folder = folder / "base"
    if not folder.is_dir():
        model.save_pretrained(folder)
    model = type(model).from_pretrained(folder, dtype=torch.float64).eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.resize_token_embeddings(NEW)
    return model


def batch(name: str) -> dict:
    inputs = zoo.batch(name)
    inputs["input_ids"][0, 1], inputs["input_ids"][1, 2] = IDS
    return inputs


@pytest.fixture
def with_peft(tmp_path):
    def make(name: str, kind: str, **options):
        options = CONFIGS.get(kind, {}) | options
        alone = "token_indices" in options
        options |= {} if alone else dict(target_modules=TARGETS[name], r=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = (peft.TrainableTokensConfig if alone else peft.LoraConfig)(**options)
            model = peft.get_peft_model(base(name, tmp_path), config).double().eval()
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        noise = torch.randn(parameter.shape, generator=generator)
                        parameter.add_(noise, alpha=0.1)
            model.save_pretrained(tmp_path / "theirs")
        return model

    return make


def opened_by_peft(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(model, folder).double().eval()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_on_its_base_it_trains_what_peft_trains(tmp_path, with_peft, name, kind):
    theirs = with_peft(name, kind)
    stored = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert any(tensor.shape == (NEW, 16) for tensor in stored.values()), "with the embeddings"
    model, inputs = base(name, tmp_path), batch(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner = mp.load(model, tmp_path / "theirs")
    expected = zoo.logits(theirs, inputs)
    close(zoo.logits(model, inputs), expected)
    trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert sum(p.numel() for p in tuner.parameters()) == trained and not tuner.copies
    tuner.save(tmp_path / "ours")
    again = opened_by_peft(base(name, tmp_path), tmp_path / "ours")
    close(zoo.logits(again, inputs), expected)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_with_new_words_drawn_anew(tmp_path, with_peft, name, kind):
    """Rows that were trained take the place of those; else they are told and copied."""
    theirs = with_peft(name, kind)
    inputs, expected = batch(name), zoo.logits(theirs, batch(name))
    model = base(name, tmp_path, seed=5)
    assert not torch.equal(
        model.get_input_embeddings().weight, base(name, tmp_path).get_input_embeddings().weight
    )
    if name == "llama" and kind == "rows alone":  # its head is not in the file
        mp.load(model, tmp_path / "theirs")
        other = opened_by_peft(base(name, tmp_path, seed=5), tmp_path / "theirs")
        close(zoo.logits(model, inputs), zoo.logits(other, inputs))
        return
    copies = kind == "lora" or name == "llama"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tuner = mp.load(model, tmp_path / "theirs")
    assert any("which PEFT leaves frozen" in str(w.message) for w in said) == copies
    close(zoo.logits(model, inputs), expected)
    tuner.save(tmp_path / "ours")
    again = opened_by_peft(base(name, tmp_path, seed=6), tmp_path / "ours")
    close(zoo.logits(again, inputs), expected)


def test_a_layer_in_several_places(tmp_path, with_peft):
    """Enlarging T5's vocabulary makes one module of its three embeddings, and PEFT copies one."""
    with_peft("t5", "lora", modules_to_save=["shared"])
    with pytest.raises(ValueError, match="shared as a whole .modules_to_save., which stands in"):
        mp.load(base("t5", tmp_path), tmp_path / "theirs")
    theirs = with_peft("t5", "lora")
    inputs = batch("t5")
    expected = theirs(**inputs).logits.detach()
    model = base("t5", tmp_path, seed=5)
    with pytest.warns(UserWarning, match="of another base, or of one whose new tokens"):
        tuner = mp.load(model, tmp_path / "theirs")
    close(model(**inputs).logits, expected)
    tuner.save(tmp_path / "ours")  # in our layout: PEFT would copy one of the three
    fresh = base("t5", tmp_path, seed=5)
    mp.load(fresh, tmp_path / "ours")
    close(fresh(**inputs).logits, expected)
    with pytest.raises(KeyError, match="MINIPEFT"):
        opened_by_peft(base("t5", tmp_path, seed=5), tmp_path / "ours")
