"""Adapters on a model of the same family in another shape: opened where they mean the same, else
the sentence says which model to load. PEFT opens most of these files and ignores what is inside.
"""

import copy
import json
import warnings

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.model.anatomy import Anatomy

peft = pytest.importorskip("peft")
hf = pytest.importorskip("transformers")

TARGETS = {"bert": ["query"], "roberta": ["value"], "gpt2": ["c_attn"], "llama": ["q_proj"]}
TARGETS |= {"t5": ["q"], "bart": ["q_proj"], "distilbert": ["q_lin"], "electra": ["key"]}
# the class that an adapter was made for, the class that it is opened on
SAME = [
    ("bert", "BertForMaskedLM", "BertModel"),
    ("bert", "BertModel", "BertForMaskedLM"),
    ("bert", "BertModel", "BertForSequenceClassification"),
    ("roberta", "RobertaForMaskedLM", "RobertaModel"),
    ("roberta", "RobertaModel", "RobertaForTokenClassification"),
    ("electra", "ElectraModel", "ElectraForMaskedLM"),
    ("distilbert", "DistilBertForMaskedLM", "DistilBertModel"),
    ("gpt2", "GPT2LMHeadModel", "GPT2Model"),
    ("gpt2", "GPT2Model", "GPT2LMHeadModel"),
    ("llama", "LlamaForCausalLM", "LlamaModel"),
    ("llama", "LlamaModel", "LlamaForCausalLM"),
    ("bart", "BartForConditionalGeneration", "BartModel"),
    ("bart", "BartModel", "BartForConditionalGeneration"),
    ("bart", "BartForCausalLM", "BartForConditionalGeneration"),
    ("t5", "T5EncoderModel", "T5ForConditionalGeneration"),
]
OTHER = [
    ("bart", "BartForConditionalGeneration", "BartForCausalLM", "no linear map of this model"),
    ("t5", "T5ForConditionalGeneration", "T5EncoderModel", "no linear map of this model"),
    ("gpt2", "GPT2LMHeadModel", "BertModel", "no linear map of this model"),
]


def build(name: str, kind: str, **settings):
    family = {"Bert": "bert", "Bart": "bart", "GPT2": "gpt2", "T5": "t5"}
    name = next((value for key, value in family.items() if kind.startswith(key)), name)
    config = zoo.build(name).config
    config.update(settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(hf, kind)(config).double().eval()


def adapter(name: str, kind: str, folder, config="LoraConfig", **options):
    """A PEFT model with an adapter that does something, saved."""
    options = dict(target_modules=TARGETS[name]) | options
    if config == "IA3Config":
        options |= dict(feedforward_modules=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(build(name, kind), getattr(peft, config)(**options)).eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.requires_grad and "ranknum" not in key:  # a number, not trained
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("config", ["LoraConfig", "IA3Config", "AdaLoraConfig"])
@pytest.mark.parametrize("name, made, opened", SAME)
def test_it_is_opened_where_it_means_the_same(tmp_path, name, made, opened, config):
    """The maps that it adapts compute the same in both."""
    options = dict(rank_pattern={r"layer.0\..*": 3}) if config == "LoraConfig" else {}
    options |= dict(total_step=10) if config == "AdaLoraConfig" else {}
    theirs = adapter(name, made, tmp_path, config, **options).base_model.model
    model = build(name, opened)
    tuner = mp.load(model, tmp_path)
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counted = 0
    for place, _ in tuner.patches:
        others = [m for path, m in theirs.named_modules() if f".{path}".endswith(f".{place.path}")]
        others += [
            m
            for path, m in theirs.named_modules()
            if path and f".{place.path}".endswith(f".{path}")
        ]
        other = next(m for m in others if hasattr(m, "base_layer"))
        ours = tuner.record.door(place.module, mp.WeightDoor, tuner.name)
        other.base_layer.weight.data.copy_(place.module.weight.data)
        if place.module.bias is not None:
            other.base_layer.bias.data.copy_(place.module.bias.data)
        close(ours(x), other(x))
        assert (ours(x) - place.module(x)).abs().max() > 1e-4
        counted += 1
    assert counted == len([m for m in theirs.modules() if hasattr(m, "base_layer")])


@pytest.mark.parametrize("name, made, opened, sentence", OTHER)
def test_what_is_not_there_is_named(tmp_path, name, made, opened, sentence):
    adapter(name, made, tmp_path)
    model = build(name, opened)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=sentence) as error:
        mp.load(model, tmp_path)
    assert "damaged" not in str(error.value)
    assert not mp.tuners(model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


HEADS = {
    "SEQ_CLS": ("ForSequenceClassification", "AutoModelForSequenceClassification"),
    "TOKEN_CLS": ("ForTokenClassification", "AutoModelForTokenClassification"),
    "QUESTION_ANS": ("ForQuestionAnswering", "AutoModelForQuestionAnswering"),
}


@pytest.mark.parametrize("config", ["LoraConfig", "PromptTuningConfig"])
@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("name, prefix, plain", [
    ("bert", "Bert", "BertForMaskedLM"),
    ("roberta", "Roberta", "RobertaModel"),
    ("gpt2", "GPT2", "GPT2LMHeadModel"),
    ("llama", "Llama", "LlamaForCausalLM"),
])  # fmt: skip
def test_the_head_that_it_needs_is_named(tmp_path, name, prefix, plain, task, config):
    end, auto = HEADS[task]
    options = dict(task_type=task)
    if config == "PromptTuningConfig":
        options |= dict(num_virtual_tokens=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = peft.PromptTuningConfig(**options)
            peft.get_peft_model(build(name, prefix + end), given).save_pretrained(tmp_path)
    else:
        adapter(name, prefix + end, tmp_path, **options)
    two = task == "QUESTION_ANS" and name in ("gpt2", "llama")  # whose class says 2 by itself
    labels = 2 if two else zoo.LABELS
    with pytest.raises(ValueError, match=rf"{task}\).*{auto}.*num_labels={labels}"):
        mp.load(build(name, plain), tmp_path)
    if task != "QUESTION_ANS":
        with pytest.raises(ValueError, match=rf"load the base .* num_labels={labels}"):
            mp.load(build(name, prefix + end, num_labels=5), tmp_path)


def test_a_pointer_of_git_lfs_is_called_so(tmp_path):
    adapter("bert", "BertModel", tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    (tmp_path / "adapter_model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match="a pointer of Git LFS.*git lfs pull"):
        mp.load(build("bert", "BertModel"), tmp_path)


@pytest.mark.parametrize("kind", ["MPNetForMaskedLM", "Olmo3ForCausalLM"])
def test_all_linear_maps_of_a_model_that_nobody_listed(kind):
    """As in PEFT: every linear map but the one that writes words, and a task's head."""
    small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    cls = getattr(hf, kind)
    torch.manual_seed(0)
    model = (
        cls(cls.config_class(**small, vocab_size=48, max_position_embeddings=40)).double().eval()
    )
    assert Anatomy(model).family is None
    settings = peft.LoraConfig(target_modules="all-linear", r=2)
    theirs = peft.get_peft_model(copy.deepcopy(model), settings)
    adapted = {n.split(".lora_A")[0] for n, _ in theirs.named_parameters() if ".lora_A" in n}
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("all-linear",)))
    assert {f"base_model.model.{place.path}" for place, _ in tuner.patches} == adapted


def test_names_that_peft_takes_for_experts(tmp_path):
    """A dense layer's map that is called as the experts' were gets no LoRA in PEFT."""
    config = hf.Qwen3MoeConfig(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, intermediate_size=32, moe_intermediate_size=16,
        num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0], experts_implementation="eager",
    )  # fmt: skip

    def model():
        torch.manual_seed(0)
        return hf.Qwen3MoeForCausalLM(config).double().eval()

    batch, one = {"input_ids": torch.arange(3, 10)[None]}, model()
    tuner = mp.attach(one, mp.LoRA(rank=2, targets=("q_proj", "v_proj")), seed=0)
    zoo.shake(tuner)
    tuner.save(tmp_path / "attention")
    theirs = peft.PeftModel.from_pretrained(model(), tmp_path / "attention").eval()
    close(zoo.logits(theirs, batch), zoo.logits(one, batch))
    tuner.detach()
    tuner = mp.attach(one, mp.LoRA(rank=2, targets=("all-linear",)), seed=0)
    assert any(place.path.endswith("mlp.gate_proj") for place, _ in tuner.patches)
    zoo.shake(tuner)
    with pytest.warns(UserWarning, match="PEFT puts no LoRA at .*_proj of a .* for the experts"):
        tuner.save(tmp_path / "all")
    again = model()
    mp.load(again, tmp_path / "all")
    assert torch.equal(zoo.logits(again, batch), zoo.logits(one, batch))
    with pytest.raises(KeyError, match="MINIPEFT"):
        peft.PeftModel.from_pretrained(model(), tmp_path / "all")


def test_a_map_of_mamba_that_peft_refuses(tmp_path):
    config = hf.MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = hf.MambaForCausalLM(config).eval()
    with pytest.raises(ValueError, match="incompatible with Mamba"):
        peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=["out_proj"]))
    for kind in (mp.LoRA, mp.AdaLoRA):
        tuner = mp.attach(model, kind(targets="out_proj"))
        with pytest.warns(UserWarning, match="out_proj of a MambaForCausalLM, where it refuses it"):
            tuner.save(tmp_path / kind.__name__)
        tuner.detach()


def test_names_that_are_spelled_anew(tmp_path):
    """The old name of laguna's shared experts fits the new one too, which no map has afterwards."""
    config = hf.LagunaConfig(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0,
        num_key_value_heads=2, head_dim=8, intermediate_size=32, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    config._experts_implementation = "eager"

    def model():
        torch.manual_seed(0)
        return hf.LagunaForCausalLM(config).double().eval()

    batch, one = {"input_ids": torch.arange(3, 10)[None]}, model()
    for targets, written in (("q_proj", "LORA"), ("all-linear", "MINIPEFT")):
        tuner = mp.attach(one, mp.LoRA(rank=2, targets=(targets,)), seed=0)
        zoo.shake(tuner)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tuner.save(tmp_path / targets)
        said = [str(w.message) for w in caught if "shared_experts" in str(w.message)]
        assert len(said) == (written == "MINIPEFT")
        settings = json.loads((tmp_path / targets / "adapter_config.json").read_text())
        assert settings["peft_type"] == written
        if written == "LORA":
            theirs = peft.PeftModel.from_pretrained(model(), tmp_path / targets).eval()
            close(zoo.logits(theirs, batch), zoo.logits(one, batch))
        again = model()
        mp.load(again, tmp_path / targets)
        assert torch.equal(zoo.logits(again, batch), zoo.logits(one, batch))
        tuner.detach()
