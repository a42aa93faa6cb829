"""🤗 PEFT's file -> here -> PEFT: what it says beside its tensors is kept, and what is refused gets
advice that works.
"""

import json
import warnings

import pytest
import torch
import zoo
from closeness import close
from safetensors.torch import load_file, save_file

import minipeft as mp

peft = pytest.importorskip("peft")

PLAIN = {"gpt2": "c_attn", "llama": "q_proj", "t5": "q", "bert": "query", "opt": "q_proj"}
TASKS = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


def with_peft(name: str, folder, head: str = "language", kind: str = "LoraConfig", **options):
    """PEFT's model, changed and saved."""
    if kind == "LoraConfig":
        options = dict(target_modules=[PLAIN[name]], r=2) | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(peft, kind)(**options)
        model = peft.get_peft_model(zoo.build(name, head), config).double().eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(parameter.add(noise, alpha=0.1).float())
        model.save_pretrained(folder)
    return model


def opened_by_peft(name: str, folder, head: str = "language"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(zoo.build(name, head), folder).double().eval()


def settings_of(folder) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("kind", ["LoraConfig", "IA3Config", "PromptTuningConfig"])
@pytest.mark.parametrize("name, module", [("gpt2", "ln_f"), ("llama", "lm_head"), ("t5", "wi")])
def test_the_task_is_kept_where_layers_are_trained_whole(tmp_path, name, module, kind):
    options = dict(task_type=TASKS[name], modules_to_save=[module])
    if kind == "IA3Config":
        options |= dict(target_modules=[PLAIN[name]], feedforward_modules=[])
    if kind == "PromptTuningConfig":
        options |= dict(num_virtual_tokens=3)
    theirs = with_peft(name, tmp_path / "theirs", kind=kind, **options)
    tuner = mp.load(zoo.build(name), tmp_path / "theirs")
    tuner.save(tmp_path / "ours")
    assert settings_of(tmp_path / "ours")["task_type"] == TASKS[name]
    again = opened_by_peft(name, tmp_path / "ours")
    assert type(again) is type(theirs) is not peft.PeftModel
    batch = zoo.batch(name)
    close(zoo.logits(again, batch), zoo.logits(theirs, batch))


def test_a_classifier_whose_head_is_not_trained(tmp_path):
    """With the task of a head PEFT insists on finding the head in the file."""
    batch = zoo.batch("bert", "classification")
    theirs = with_peft("bert", tmp_path / "theirs", "classification", modules_to_save=["pooler"])
    tuner = mp.load(zoo.build("bert", "classification"), tmp_path / "theirs")
    tuner.save(tmp_path / "ours")
    assert settings_of(tmp_path / "ours")["task_type"] is None
    again = opened_by_peft("bert", tmp_path / "ours", "classification")
    close(zoo.logits(again, batch), zoo.logits(theirs, batch))


@pytest.mark.parametrize("name, task, auto", [
    ("gpt2", "CAUSAL_LM", "AutoPeftModelForCausalLM"),
    ("t5", "SEQ_2_SEQ_LM", "AutoPeftModelForSeq2SeqLM"),
    ("bert", None, "AutoPeftModel"),
])  # fmt: skip
def test_their_auto_classes_find_the_base(tmp_path, name, task, auto):
    zoo.build(name).save_pretrained(tmp_path / "base")
    kind = type(zoo.build(name))
    model = kind.from_pretrained(tmp_path / "base", dtype=torch.float64).eval()
    zoo.shake(mp.attach(model, mp.LoRA(rank=2), seed=0))
    tuner = mp.tuners(model)["default"]
    tuner.save(tmp_path / "ours")
    assert settings_of(tmp_path / "ours")["task_type"] == task
    again = getattr(peft, auto).from_pretrained(tmp_path / "ours", dtype=torch.float64)
    batch = zoo.batch(name)
    close(zoo.logits(again.double().eval(), batch), zoo.logits(model, batch))


def test_the_base_and_its_revision_are_kept_unless_the_base_has_another_name(tmp_path):
    with_peft("gpt2", tmp_path / "theirs")
    path = tmp_path / "theirs" / "adapter_config.json"
    named = {"base_model_name_or_path": "some/base", "revision": "v2"}
    path.write_text(json.dumps(settings_of(path.parent) | named))
    for name, expected in (("", named), ("some/base", named), ("a/copy", None)):
        model = zoo.build("gpt2")
        model.config._name_or_path = name
        for folder in ("theirs", "ours"):  # a file of ours keeps them, too
            tuner = mp.load(model, tmp_path / folder)
            tuner.save(tmp_path / "ours")
            tuner.detach()
            settings = settings_of(tmp_path / "ours")
            expected = expected or {"base_model_name_or_path": name, "revision": None}
            assert {key: settings[key] for key in expected} == expected


WORDS = {"gpt2": "wte", "llama": "embed_tokens", "opt": "embed_tokens"}
REFUSED = [  # settings of PEFT's, those with True being names of this model
    dict(alora_invocation_tokens=[5, 6]),
    dict(velora_config={}),
    dict(monteclora_config={}),
    dict(ensure_weight_tying=True),
    dict(ensure_weight_tying=True, words=True),
    dict(use_dora=True, bias="all"),
    dict(use_dora=True, words=True),
    dict(lora_bias=True, bias="lora_only"),
    dict(layer_replication=[[0, 2], [1, 2]]),
    dict(words="alone", bias="all"),
]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_who_is_told_to_merge_gets_what_the_adapter_did(tmp_path, name, options):
    """PEFT cannot merge some, cannot save others merged, and merges tied words into the head."""
    options = dict(options)
    words = options.pop("words", False)
    if words:
        first = [] if words == "alone" else [PLAIN[name]]
        options["target_modules"] = [*first, WORDS[name]]
    try:
        theirs = with_peft(name, tmp_path, **options)
    except ValueError:  # not for this model
        return
    model, batch = zoo.build(name), zoo.batch(name)
    if words == "alone" and name == "llama":  # without biases it is a plain LoRA
        mp.load(model, tmp_path)
        close(zoo.logits(model, batch), zoo.logits(theirs, batch))
        return
    with pytest.raises(ValueError, match="with PEFT") as refused:
        mp.load(model, tmp_path)
    assert next(iter(options)) in str(refused.value) or words
    assert not mp.tuners(model)
    if "merge_and_unload" in str(refused.value):
        expected = zoo.logits(theirs, batch)
        merged = theirs.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        again = type(merged).from_pretrained(tmp_path / "merged").double().eval()
        close(zoo.logits(again, batch), expected)


@pytest.mark.parametrize("kind", ["PrefixTuningConfig", "PromptTuningConfig"])
def test_prompts_for_two_stacks_are_refused_by_a_model_with_one(tmp_path, kind):
    """PEFT gives GPT-2 twice as many virtual tokens with it, of which half would be left out."""
    options = dict(task_type="CAUSAL_LM", num_virtual_tokens=3, num_transformer_submodules=2)
    with_peft("gpt2", tmp_path, kind=kind, **options)
    with pytest.raises(ValueError, match="num_transformer_submodules=2.*has one stack"):
        mp.load(zoo.build("gpt2"), tmp_path)


TOGETHER = [
    (dict(modules_to_save=["ln_f"], bias="all"), r"ln_f as a whole \(modules_to_save\)"),
    (
        dict(trainable_token_indices=[5], target_modules=["c_attn", "lm_head"]),
        r"rows of transformer.wte \(trainable_token_indices\) and adapts lm_head",
    ),
    (dict(trainable_token_indices={"wte": [5], "lm_head": [6]}), "lm_head.*is no embedding"),
    (dict(alpha_pattern={"c_attn": 0}), "alpha must be a positive number, not 0.*alpha_pattern"),
]


@pytest.mark.parametrize("options, sentence", TOGETHER)
def test_what_is_refused_names_the_field_and_says_what_to_do(tmp_path, options, sentence):
    with_peft("gpt2", tmp_path, task_type="CAUSAL_LM", **options)
    model = zoo.build("gpt2")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"{sentence}.*open (it|the file) with PEFT"):
        mp.load(model, tmp_path)
    assert not mp.tuners(model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("bias", ["detour", "adapted", "all"])
@pytest.mark.parametrize("options", [dict(alphas={"query": 3}), dict(ranks={"value": 5})], ids=str)
def test_biases_beside_parts_of_unequal_scale(tmp_path, options, bias):
    """GPT-2's queries and values share one map, and PEFT has one scale for it."""
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.LoRABias(rank=2, bias=bias, **options), seed=0)
    zoo.shake(tuner)
    tuner.save(tmp_path)
    expected = zoo.logits(model, batch)
    close(zoo.logits(opened_by_peft("gpt2", tmp_path), batch), expected)
    fresh = zoo.build("gpt2")
    mp.load(fresh, tmp_path)
    close(zoo.logits(fresh, batch), expected)


INCOMPLETE = [
    (dict(modules_to_save=["ln_f"]), "ln_f", "has 'ln_f' among its modules_to_save"),
    (dict(trainable_token_indices=[5]), "token_adapter", "has trainable_token_indices, and"),
]


@pytest.mark.parametrize("options, left_out, sentence", INCOMPLETE)
def test_a_file_without_what_it_trained_is_incomplete(tmp_path, options, left_out, sentence):
    """PEFT stops with a KeyError."""
    with_peft("gpt2", tmp_path, **options)
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key: tensor for key, tensor in load_file(path).items() if left_out not in key}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(KeyError, match=left_out):
        opened_by_peft("gpt2", tmp_path)
    model = zoo.build("gpt2")
    with pytest.raises(ValueError, match=f"{sentence}.*is incomplete, save it anew with PEFT"):
        mp.load(model, tmp_path)
    assert not mp.tuners(model)


@pytest.mark.parametrize("name, adapter", [("bert", "default"), ("gpt2", "a")])
@pytest.mark.parametrize("kind", ["LoraConfig", "IA3Config", "AdaLoraConfig", "VeraConfig"])
def test_names_of_a_running_model_are_called_so(tmp_path, name, adapter, kind):
    """What people get who store the state_dict of PEFT's model, trained parameters alone."""
    head = "classification" if name == "bert" else "language"
    options = dict(task_type="SEQ_CLS") if name == "bert" else {}
    options |= dict(target_modules=[PLAIN[name]])
    options |= dict(feedforward_modules=[]) if kind == "IA3Config" else {}
    options |= dict(total_step=10) if kind == "AdaLoraConfig" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(peft, kind)(**options)
        model = peft.get_peft_model(zoo.build(name, head), config, adapter_name=adapter)
        model.save_pretrained(tmp_path)
        folder = tmp_path if adapter == "default" else tmp_path / adapter
    mp.load(zoo.build(name, head), folder)  # as PEFT writes it
    state = {key: p.detach() for key, p in model.named_parameters() if p.requires_grad}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="a name inside a running model .* save_pretrained"):
        mp.load(zoo.build(name, head), folder)


def test_who_trains_a_mica_on_is_told_that_b_trains_too(tmp_path):
    """PEFT freezes B, so that what it started with decides what it can learn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = zoo.build("llama", dtype=torch.float32)
        config = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights="mica")
        theirs = peft.get_peft_model(model, config)
        theirs.save_pretrained(tmp_path)
    trained = [key for key, p in theirs.named_parameters() if p.requires_grad]
    assert trained and not any("lora_B" in key for key in trained)
    with pytest.warns(UserWarning, match="'mica', where PEFT trains A alone"):
        tuner = mp.load(zoo.build("llama", dtype=torch.float32), tmp_path)
    assert any(p.requires_grad for _, patch in tuner.patches for p in [patch.B])


def test_a_head_that_older_versions_did_not_name(tmp_path):
    """PEFT before 0.8 wrote modules_to_save=None and the head beside it, and trains it on."""
    theirs = with_peft("bert", tmp_path, "classification", task_type="SEQ_CLS")
    settings = settings_of(tmp_path) | dict(modules_to_save=None)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    model, batch = zoo.build("bert", "classification"), zoo.batch("bert", "classification")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner = mp.load(model, tmp_path)
    close(zoo.logits(model, batch), zoo.logits(theirs, batch))
    trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert sum(p.numel() for p in tuner.parameters()) == trained
