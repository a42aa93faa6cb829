"""Every option of 🤗 PEFT, set to something else than its default: the same numbers, or refused.

The fields of PEFT's own classes are gone through, so that an option which PEFT gets tomorrow fails
here until somebody has said what it does. In a file such an option is refused until then.
"""

import dataclasses
import json
import warnings

import pytest
import torch
import zoo
from closeness import MODEL, close

import minipeft as mp

peft = pytest.importorskip("peft")

C_ATTN = ["c_attn"]
PLAIN = {
    "LoraConfig": dict(target_modules=C_ATTN, r=2),
    "AdaLoraConfig": dict(target_modules=C_ATTN, total_step=10),
    "IA3Config": dict(target_modules=C_ATTN, feedforward_modules=[]),
    "VeraConfig": dict(target_modules=C_ATTN, r=2),
    "TrainableTokensConfig": dict(target_modules=["wte"], token_indices=[3, 5]),
    "PrefixTuningConfig": dict(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "PromptTuningConfig": dict(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "PromptEncoderConfig": dict(num_virtual_tokens=3, task_type="CAUSAL_LM", encoder_hidden_size=8),
}
VALUES = {  # an option -> values to try, those that PEFT can build a small model with first
    "task_type": ["CAUSAL_LM", "FEATURE_EXTRACTION"],
    "peft_type": [],  # which class it is
    "auto_mapping": [{"base_model_class": "GPT2LMHeadModel"}],
    "peft_version": ["0.9.0"],
    "base_model_name_or_path": ["somewhere/else"],
    "revision": ["main"],
    "inference_mode": [],  # True in every file
    "r": [3],
    "target_modules": [["c_fc"], "all-linear", r".*\.1\..*c_attn", ["wte"], ["lm_head"]],
    "exclude_modules": [["h.0.attn.c_attn"], r".*h\.0.*"],
    "lora_alpha": [5],
    "lora_dropout": [0.3],
    "fan_in_fan_out": [True],
    "bias": ["all", "lora_only"],
    "use_rslora": [True],
    "modules_to_save": [["ln_f"]],
    "init_lora_weights": [False, "gaussian", "eva", "orthogonal", "mica", "pissa"]
    + ["pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "one of tomorrow"],
    "layers_to_transform": [[1]],
    "layers_pattern": [["h"]],
    "rank_pattern": [{"h.0.attn.c_attn": 4}],
    "alpha_pattern": [{"h.0.attn.c_attn": 3}],
    "megatron_config": [{"x": 1}],
    "megatron_core": ["another.core"],
    "trainable_token_indices": [[3, 5]],
    "token_indices": [[7, 2, 11]],
    "loftq_config": [{"loftq_bits": 4}],
    "eva_config": [{"rho": 2.0}],
    "corda_config": [{"corda_method": "kpm"}],
    "lora_ga_config": [{"direction": "ArBr"}],
    "use_dora": [True],
    "velora_config": [{"rank": 2}],
    "alora_invocation_tokens": [[5, 6]],
    "use_qalora": [True],
    "qalora_group_size": [8],
    "monteclora_config": [{"x": 1}],
    "layer_replication": [[[0, 2], [1, 2]]],
    "runtime_config": [],  # of one process, not written into files
    "lora_bias": [True],
    "target_parameters": [["h.0.mlp.c_fc.weight"]],
    "use_bdlora": [{"x": 1}],
    "arrow_config": [{"top_k": 2}],
    "kasa_config": [{"x": 1}],
    "ensure_weight_tying": [True],
    "target_r": [4],
    "init_r": [6],
    "tinit": [2],
    "tfinal": [2],
    "deltaT": [3],
    "beta1": [0.5],
    "beta2": [0.5],
    "orth_reg_weight": [0.1],
    "total_step": [20],
    "feedforward_modules": [["c_attn"]],
    "init_ia3_weights": [False],
    "vera_dropout": [0.3],
    "d_initial": [0.5],
    "projection_prng_key": [7],
    "save_projection": [False],
    "num_virtual_tokens": [5],
    "token_dim": [16],
    "num_transformer_submodules": [1],
    "num_attention_heads": [4],
    "num_layers": [2],
    "init_weights": ["zero"],
    "encoder_hidden_size": [12],
    "prefix_projection": [True],
    "prompt_tuning_init": ["SAMPLE_VOCAB"],
    "prompt_tuning_init_text": ["a text"],
    "tokenizer_name_or_path": ["somewhere"],
    "tokenizer_kwargs": [{"x": 1}],
    "encoder_reparameterization_type": ["LSTM"],
    "encoder_num_layers": [1],
    "encoder_dropout": [0.3],
}
# what decides nothing once the tensors are there, of what PEFT builds no small model with
HARMLESS = {
    *("megatron_config", "megatron_core", "eva_config", "prompt_tuning_init_text"),
    *("tokenizer_name_or_path", "tokenizer_kwargs", "prompt_tuning_init", "layers_pattern"),
    *("init_ia3_weights", "exclude_modules", "rank_pattern", "target_modules"),
}
EVERY = [
    (kind, field.name, value)
    for kind in PLAIN
    for field in dataclasses.fields(getattr(peft, kind))
    for value in VALUES.get(field.name, [])
]


def built_by_peft(kind: str, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(peft, kind)(**(PLAIN[kind] | options))
        model = peft.get_peft_model(zoo.build("gpt2", dtype=torch.float32), config).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:  # a number, not trained
                noise = torch.randn(parameter.shape, generator=generator).double()
                parameter.add_(noise, alpha=0.1)
    return model.eval()


def saved(theirs, folder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(folder)


def test_every_option_is_known_here():
    fields = {f.name for kind in PLAIN for f in dataclasses.fields(getattr(peft, kind))}
    assert fields - VALUES.keys() == set(), "PEFT has a new option: say above what it may be"


@pytest.mark.parametrize("kind, option, value", EVERY)
def test_the_same_numbers_or_refused_by_name(tmp_path, kind, option, value):
    batch = zoo.batch("gpt2")
    del batch["labels"]
    try:
        theirs = built_by_peft(kind, **{option: value})
        expected, edited = zoo.logits(theirs, batch), False
        saved(theirs, tmp_path)
    except Exception:  # it needs another library, data, or a larger model: the file is enough
        theirs, edited = built_by_peft(kind), True
        expected = zoo.logits(theirs, batch)
        saved(theirs, tmp_path)
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {option: value}))
    model = zoo.build("gpt2").double()
    base = zoo.logits(model, batch)
    try:
        tuner = mp.load(model, tmp_path)
    except ValueError as error:
        text = str(error)
        assert option in text or "rank" in text or "settings" in text, text
        assert len(text) > 30 and "\n" not in text
        assert torch.equal(zoo.logits(model, batch), base) and not mp.tuners(model)
        return
    assert not edited or option in HARMLESS, f"{option} was ignored"
    ours = zoo.logits(model, tuner.wrap(batch))
    if value == "pissa":  # PEFT splits the base in fp32, by an SVD: of 16 features, each rounded
        close(ours, expected, dtype=torch.float32, roundings=16 * MODEL)
    else:
        close(ours, expected)
    assert ours.shape != base.shape or (ours - base).abs().max() > 1e-4


@pytest.mark.parametrize("kind", PLAIN)
def test_an_option_of_tomorrow_is_refused(tmp_path, kind):
    saved(built_by_peft(kind), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_tomorrow": True}))
    with pytest.raises(ValueError, match="use_tomorrow=True, which is none of the settings"):
        mp.load(zoo.build("gpt2"), tmp_path)
