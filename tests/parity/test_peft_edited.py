"""Files of PEFT's whose adapter_config.json was edited by hand: what PEFT leaves out is told."""

import itertools
import json
import warnings

import pytest
import torch
import zoo
from closeness import close
from safetensors.torch import load_file

import minipeft as mp
from minipeft.files.other_shapes import is_target
from minipeft.files.saving import read

peft = pytest.importorskip("peft")

ALL = ["c_attn", "c_proj", "c_fc"]
SETTINGS = {  # edited -> is a part of what the file has tensors for left out?
    "as it was": ({}, False),
    "narrowed": ({"target_modules": ["c_attn"]}, True),
    "a part of a path": ({"target_modules": ["attn.c_proj", "c_attn", "c_fc"]}, True),
    "no end of a name": ({"target_modules": ["ttn", "c_proj"]}, True),
    "whole paths": (
        {"target_modules": ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"]},
        True,
    ),
    "a pattern of all": ({"target_modules": r".*\.(c_attn|c_proj|c_fc)"}, False),
    "a pattern": ({"target_modules": r".*\.h\.0\..*\.(c_attn|c_fc)"}, True),
    "layers": ({"layers_to_transform": [1]}, True),
    "a layer": ({"layers_to_transform": 0}, True),
    "all layers": ({"layers_to_transform": [0, 1], "layers_pattern": "h"}, False),
    "layers by name": ({"layers_to_transform": [0], "layers_pattern": ["h"]}, True),
    "narrowed in a layer": ({"target_modules": ["c_attn"], "layers_to_transform": [0]}, True),
    "without": ({"exclude_modules": ["mlp.c_proj"]}, True),
    "without a pattern": ({"exclude_modules": r".*\.1\..*"}, True),
    "without nothing": ({"exclude_modules": ["lm_head"]}, False),
    "all linear maps": ({"target_modules": "all-linear"}, False),
    "widened": ({"target_modules": [*ALL, "nothing"]}, False),
}
KINDS = {
    "LoRA": lambda: peft.LoraConfig(r=2, target_modules=ALL, fan_in_fan_out=True),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        init_r=3, target_r=2, total_step=9, target_modules=ALL, fan_in_fan_out=True
    ),
    "IA3": lambda: peft.IA3Config(target_modules=ALL, feedforward_modules=[], fan_in_fan_out=True),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=ALL, fan_in_fan_out=True),
}


def saved(folder, config, name: str = "gpt2", head: str = "language"):
    """A file of PEFT's with random numbers in all that it trains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(zoo.build(name, head), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
    return folder / "adapter_config.json"


def edit(path, change: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def was_said(recwarn, words: str) -> bool:
    return any(words in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_leaves_out_is_told(tmp_path, kind, name, recwarn):
    change, told_of = SETTINGS[name]
    config = KINDS[kind]()
    if set(change) - set(vars(config)):
        pytest.skip("PEFT's config of this kind has no such setting")
    edit(saved(tmp_path, config), change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = peft.PeftModel.from_pretrained(zoo.build("gpt2"), tmp_path).eval()
        except RuntimeError as error:  # VeRA's A and B are as large as the largest map that is left
            assert kind == "VeRA" and "size mismatch" in str(error)
            pytest.skip("PEFT refuses it")
    adapted = {
        path.removeprefix("base_model.model.")
        for path, module in theirs.named_modules()
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)
    }
    settings, tensors, _ = read(tmp_path)
    ends = ".lora_A ia3_l .vera_lambda_d".split()
    paths = {
        key.removeprefix("base_model.model.").partition(end)[0].rstrip(".")
        for key in tensors
        for end in ends
        if end in key
    }
    assert {path for path in paths if is_target(path, settings)} == paths & adapted
    recwarn.clear()
    model = zoo.build("gpt2")
    mp.load(model, tmp_path)
    assert was_said(recwarn, "PEFT leaves them out") == told_of
    inputs = zoo.batch("gpt2")
    ours, others = zoo.logits(model, inputs), zoo.logits(theirs, inputs)
    if told_of:
        assert not torch.allclose(ours, others)
    else:
        close(ours, others, dtype=torch.float32)


PATHS = [
    f"{stack}.block.{block}.layer.{layer}.{name}"
    for stack in ("encoder", "decoder", "a.body")
    for block in (0, 1)
    for layer in (0, 1)
    for name in ("attention.q", "attention.o", "mlp.wi.0", "mlp.o")
] + [f"block.{block}.{name}" for block in (0, 1) for name in ("q", "mlp.o")]


LAYERS = (None, 0, 1, [0], [0, 1], [5])
PATTERNS = (None, "block", "layer", ["layer"], ["layer", "block"], [])


@pytest.mark.parametrize("exclude", [None, "encoder.*", ["mlp.o", "1"]], ids=str)
@pytest.mark.parametrize("names", [["q"], ["q", "mlp.o", "0"], PATHS[3:9], r".*\.(q|o)", "o"])
def test_the_rule_is_that_of_peft(names, exclude):
    rule = peft.tuners.tuners_utils.check_target_module_exists
    for layers, pattern in itertools.product(LAYERS, PATTERNS):
        change = {"target_modules": names, "exclude_modules": exclude}
        if isinstance(names, list) and layers is not None:
            change |= {"layers_to_transform": layers, "layers_pattern": pattern}
        config = peft.LoraConfig(**change)
        for path in PATHS:
            assert is_target(path, change) == bool(rule(config, path)), (path, change)


@pytest.mark.parametrize("names, told_of", [
    ([*ALL[:2]], "transformer.h.0.mlp.c_fc and 1 more modules (target_modules)"),
    (r"transformer\.h\.(0\..*|1\..*c_proj|1\.attn.*)", "transformer.h.1.mlp.c_fc (target_modules)"),
    (r"transformer\.h\..*", ""),
])  # fmt: skip
def test_the_modules_that_peft_leaves_out_are_named(tmp_path, names, told_of, recwarn):
    edit(saved(tmp_path, KINDS["LoRA"]()), {"target_modules": names})
    recwarn.clear()
    mp.load(zoo.build("gpt2"), tmp_path)
    said = " ".join(str(warning.message) for warning in recwarn)
    assert f"does not name {told_of}, and" in said if told_of else not said


@pytest.mark.parametrize("task, options", [
    (None, dict()),
    (None, dict(bias="lora_only")),
    (None, dict(modules_to_save=["classifier"])),
    ("SEQ_CLS", dict()),
    ("SEQ_CLS", dict(bias="all")),
], ids=str)  # fmt: skip
def test_of_a_file_that_does_the_same_in_both_nothing_is_said(tmp_path, task, options, recwarn):
    """Without a task_type, too, which LoRA needs for nothing but a head; RoBERTa's has two maps."""
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type=task, **options)
    path = saved(tmp_path, config, "roberta", "classification")
    tensors = load_file(path.parent / "adapter_model.safetensors")
    has_head = bool(task) or "modules_to_save" in options
    assert any("classifier.dense.weight" in key for key in tensors) == has_head
    model, inputs = zoo.build("roberta", "classification"), zoo.batch("roberta", "classification")
    recwarn.clear()
    mp.load(model, tmp_path)
    assert not [str(warning.message) for warning in recwarn]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(zoo.build("roberta", "classification"), tmp_path)
    close(zoo.logits(model, inputs), zoo.logits(theirs.eval(), inputs), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["PromptTuning", "PTuning", "Prefix"])
def test_a_prompt_that_peft_leaves_out_is_told(tmp_path, kind, recwarn):
    configs = {
        "PromptTuning": lambda task: peft.PromptTuningConfig(num_virtual_tokens=3, task_type=task),
        "PTuning": lambda task: peft.PromptEncoderConfig(
            num_virtual_tokens=3, encoder_hidden_size=16, task_type=task
        ),
        "Prefix": lambda task: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=task),
    }
    path = saved(tmp_path, configs[kind]("CAUSAL_LM"))
    inputs = zoo.batch("gpt2")
    base = zoo.logits(zoo.build("gpt2"), inputs)
    recwarn.clear()
    mp.load(zoo.build("gpt2"), tmp_path)
    assert not was_said(recwarn, "task_type")
    edit(path, {"task_type": None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(zoo.build("gpt2"), tmp_path).eval()
    assert torch.equal(zoo.logits(theirs, inputs), base)
    model = zoo.build("gpt2")
    mp.load(model, tmp_path)
    assert was_said(recwarn, "adapter_config.json has no task_type")
    assert not torch.equal(zoo.logits(model, inputs)[:, -7:], base)


@pytest.mark.parametrize(
    "change",
    [{"target_modules": "("}, {"target_modules": [1, None]}, {"exclude_modules": 5},
     {"layers_to_transform": {"a": 1}}, {"layers_to_transform": [0], "layers_pattern": 5},
     {"layers_to_transform": [0], "layers_pattern": "("}, {"task_type": ["CAUSAL_LM"]}],
)  # fmt: skip
def test_settings_that_are_none_do_no_harm(tmp_path, change):
    edit(saved(tmp_path, KINDS["LoRA"]()), change)
    mp.load(zoo.build("gpt2"), tmp_path)
