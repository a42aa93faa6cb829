"""🤗 PEFT as the oracle for prefix-tuning: files both ways, logits, gradients, what it writes."""

import json
import warnings
from functools import partial

import pytest
import torch
import transformers as hf
import zoo
from closeness import close
from safetensors.torch import load_file, save_file

import minipeft as mp

peft = pytest.importorskip("peft")

P = 5
TASKS = {"classification": "SEQ_CLS", "tagging": "TOKEN_CLS"}
MODELS = [
    *(("gpt2", "language"), ("t5", "language"), ("bart", "language"), ("llama", "language")),
    *(("qwen2", "language"), ("bert", "classification"), ("bert", "tagging")),
]
OTHERS = [
    *(("gpt2", "classification"), ("llama", "classification"), ("roberta", "classification")),
    *(("mbart", "language"), ("gpt_neox", "language"), ("opt", "language"), ("glm4", "language")),
    *((name, "language") for name in ("mt5", "umt5", "marian", "pegasus", "m2m_100", "glm")),
    *((name, "language") for name in ("gemma", "phi3", "olmo2", "granite", "cohere", "mixtral")),
    *((name, "language") for name in ("starcoder2", "stablelm", "smollm3", "gpt_bigcode")),
]


def with_peft(name: str, head: str, layers: int = 2, mlp: bool = False):
    """A PEFT model with a prefix from N(0, 1), or out of an MLP."""
    pair = "SEQ_2_SEQ_LM" if name in zoo.SEQ2SEQ else "CAUSAL_LM"
    config = peft.PrefixTuningConfig(
        task_type=TASKS.get(head, pair),
        num_virtual_tokens=P,
        prefix_projection=mlp,
        encoder_hidden_size=7,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return peft.get_peft_model(zoo.build(name, head, layers=layers), config).eval()


def opened_by_peft(name: str, head: str, folder, layers: int = 2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(zoo.build(name, head, layers=layers), folder).eval()


def check_their_file(tmp_path, name, head, layers, mlp):
    theirs, batch = with_peft(name, head, layers, mlp), zoo.batch(name, head)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = zoo.logits(theirs, batch)
    same = partial(close, dtype=torch.float32) if mlp else close  # PEFT's MLP sums in fp32
    model = zoo.build(name, head, layers=layers)
    base = zoo.logits(model, batch)
    tuner = mp.load(model, tmp_path / "theirs")
    same(zoo.logits(model, batch), expected)
    assert (expected - base).abs().max() > 1e-2
    assert tuner.method.compatibility == "peft" and tuner.method.hidden is None
    assert 'compatibility="peft"' in str(tuner.report())
    assert bool(tuner.copies) == (head != "language")
    tuner.save(tmp_path / "ours")
    same(zoo.logits(opened_by_peft(name, head, tmp_path / "ours", layers), batch), expected)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)
    mp.load(model, tmp_path / "ours")
    same(zoo.logits(model, batch), expected)


@pytest.mark.parametrize("layers, mlp", [(2, False), (4, True)], ids=["flat", "mlp, four layers"])
@pytest.mark.parametrize("name, head", MODELS)
def test_their_file_opens_here_and_goes_back(tmp_path, name, head, layers, mlp):
    """Four layers: T5's and BART's decoder layers read the rows 0, 2, 0, 2."""
    check_their_file(tmp_path, name, head, layers, mlp)


@pytest.mark.parametrize("name, head", OTHERS)
def test_their_file_opens_here_on_more_models(tmp_path, name, head):
    check_their_file(tmp_path, name, head, 2, False)


METHODS = {
    "flat": mp.Prefix(length=4, hidden=None, std=1.0, compatibility="peft"),
    "mlp": mp.Prefix(length=4, hidden=6, compatibility="peft"),
    "kept": mp.Prefix(length=4, hidden=6, keep_mlp=True, compatibility="peft"),
    "v2": mp.PTuningV2(length=4, std=1.0, reparameterize="mlp", hidden=6, compatibility="peft"),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name, head", MODELS)
def test_our_file_opens_there_and_here(tmp_path, name, head, method):
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, method, seed=0)
    zoo.shake(tuner)
    ours = zoo.logits(model, batch)
    assert (ours - base).abs().max() > 1e-2
    tuner.save(tmp_path)
    theirs = zoo.logits(opened_by_peft(name, head, tmp_path), batch)
    close(theirs, ours, dtype=torch.float32)  # PEFT keeps prefixes in fp32
    trained = tuner.report().trainable
    tuner.detach()
    tuner = mp.load(model, tmp_path)
    close(zoo.logits(model, batch), ours)
    assert type(tuner.method) is type(method) and tuner.method.compatibility == "peft"
    table = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    assert tuner.report().trainable == (trained if method.keep_mlp else table.numel())


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart", "llama"])
def test_loss_gradients_and_written_tokens_are_theirs(tmp_path, name):
    theirs, batch = with_peft(name, "language"), zoo.batch(name)
    theirs.save_pretrained(tmp_path)
    model = zoo.build(name)
    tuner = mp.load(model, tmp_path)
    expected, loss = theirs(**batch).loss, model(**batch).loss
    close(loss, expected)
    expected.backward()
    loss.backward()
    (table,) = tuner.parameters()
    close(table.grad, theirs.prompt_encoder["default"].embedding.weight.grad)
    inputs = {key: batch[key][:2] for key in ("input_ids", "attention_mask")}
    how = dict(max_new_tokens=5, do_sample=False)
    written = theirs.generate(**inputs, **how)
    assert torch.equal(mp.generate(model, **inputs, max_new_tokens=5), written)
    assert torch.equal(mp.generate(model, **inputs, max_new_tokens=5, use_cache=False), written)


@pytest.mark.parametrize("name, head", [("t5", "language"), ("llama", "language"), MODELS[-2]])
def test_the_settings_are_those_that_peft_writes(tmp_path, name, head):
    with_peft(name, head).save_pretrained(tmp_path / "theirs")
    tuner = mp.load(zoo.build(name, head), tmp_path / "theirs")
    tuner.save(tmp_path / "ours")
    files = [tmp_path / whose / "adapter_config.json" for whose in ("theirs", "ours")]
    theirs, ours = (json.loads(file.read_text()) for file in files)
    free = {"peft_version", "init_weights", "encoder_hidden_size", "modules_to_save"}
    assert {k: v for k, v in theirs.items() if k not in free} == {
        k: v for k, v in ours.items() if k not in free
    }
    tensors = [load_file(file.with_name("adapter_model.safetensors")) for file in files]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


def test_a_prefix_of_our_own_layout_is_not_written_as_theirs(tmp_path):
    """PEFT would open it and move the positions, so it gets a name that PEFT does not know."""
    mp.attach(zoo.build("gpt2"), mp.Prefix(length=3)).save(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["peft_type"] == "MINIPEFT"


def broken(tmp_path, tensors=None, **changes):
    with_peft("gpt2", "language").save_pretrained(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    if tensors is not None:
        save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    return tmp_path


@pytest.mark.parametrize(
    "name, change, sentence",
    [
        ("gpt2", dict(num_virtual_tokens=6), "the two files do not belong together"),
        ("gpt2", dict(num_attention_heads=2), "belongs to another base"),
        ("t5", {}, "a prefix for a single stack"),
        ("gpt2", dict(tensors={"prompt_embeddings": torch.zeros(7)}), "it is no prefix"),
        ("gpt2", dict(tensors={"prompt_embeddings": torch.zeros(5, 32)}), "has shape"),
        (
            "gpt2",
            dict(tensors={"prompt_embeddings": torch.zeros(5, 64), "x": torch.zeros(1)}),
            "a tensor x, which is none",
        ),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(tmp_path, name, change, sentence):
    model = zoo.build(name)
    with pytest.raises(ValueError, match=sentence):
        mp.load(model, broken(tmp_path, **change))
    assert not mp.tuners(model)


ROBERTAS = ("Roberta", "Camembert", "XLMRoberta", "XLMRobertaXL", "RobertaPreLayerNorm")


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kind", [*ROBERTAS, "Data2VecText", "Bert"])
def test_decoders_that_count_from_their_row_for_padding(tmp_path, kind, padding):
    """A word's position is counted by the model, or told to it, as `generate` does (from 0)."""
    numbers = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=48)
    numbers |= dict(intermediate_size=32, max_position_embeddings=40, initializer_range=0.15)
    cls = getattr(hf, "BertLMHeadModel" if kind == "Bert" else f"{kind}ForCausalLM")
    ids = dict(pad_token_id=padding, bos_token_id=2, eos_token_id=3)
    config = getattr(hf, f"{kind}Config")(is_decoder=True, **ids, **numbers)

    def model():
        torch.manual_seed(0)
        return cls(config).double().eval()

    settings = peft.PrefixTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    theirs = peft.get_peft_model(model(), settings).eval()
    theirs.save_pretrained(tmp_path)
    ours = model()
    mp.load(ours, tmp_path)
    for side in ("none", "right", "left"):
        batch = zoo.batch("roberta", rows=2) | {"labels": None}
        batch["input_ids"][batch["attention_mask"] == 0] = padding
        if side != "right":
            batch = {k: v if v is None else v[..., :5] for k, v in batch.items()}
        if side == "left":
            batch["input_ids"][0, :2], batch["attention_mask"][0, :2] = padding, 0
        real = batch["attention_mask"] != 0
        close(zoo.logits(ours, batch)[real], zoo.logits(theirs, batch)[real])
        if side == "right":
            continue
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        written = theirs.generate(**inputs, max_new_tokens=5, do_sample=False)
        assert torch.equal(mp.generate(ours, **inputs, max_new_tokens=5), written)
        assert torch.equal(ours.generate(**inputs, max_new_tokens=5, do_sample=False), written)


@pytest.mark.parametrize(
    "kind, head", [("Ultrabert", "QuestionAnswering"), ("Qwen3Next", "TokenClassification")]
)
def test_peft_cannot_put_it_where_no_cache_is_taken(tmp_path, kind, head):
    """Ultrabert's head takes a cache, its body does not; one layer of Qwen3Next has none."""
    numbers = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=48)
    numbers |= dict(num_key_value_heads=2, intermediate_size=32, max_position_embeddings=40)
    config = getattr(hf, f"{kind}Config")(**numbers, pad_token_id=0)
    if kind == "Qwen3Next":
        config.layer_types = ["linear_attention", "full_attention"]
        config.head_dim, config.num_experts, config._experts_implementation = 8, 0, "eager"
    model = getattr(hf, f"{kind}For{head}")(config).eval()
    names = dict(words=("embed_tokens",), positions=("rotary_emb",), attention=("self_attn",))
    method = mp.Prefix(length=3, compatibility="peft")
    tuner = mp.attach(model, method, family=mp.Family((), ("layers",), **names))
    with pytest.warns(UserWarning, match="PEFT cannot put a Prefix into"):
        tuner.save(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "MINIPEFT"
