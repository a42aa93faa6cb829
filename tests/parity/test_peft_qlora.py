"""A QLoRA's file in 🤗 PEFT: the plain LoRA that it is there."""

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.analysis.drift import full_precision
from minipeft.doors.layers import is_transposed
from minipeft.methods.qlora import QLoRAPatch

peft = pytest.importorskip("peft")

MODELS = ("gpt2", "bert", "t5", "bart", "llama", "qwen2", "gpt_neox", "glm4")


def opened(base, folder):
    return peft.PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("targets", [("all-linear",), ("query", "value")], ids=["all", "parts"])
def test_our_file_opens_there(tmp_path, name, targets):
    model, batch = zoo.build(name), zoo.batch(name)
    tuner = mp.attach(model, mp.QLoRA(rank=2, alpha=6, targets=targets), seed=0)
    zoo.shake(tuner)
    tuner.save(tmp_path)
    tuned = zoo.logits(model, batch)
    with full_precision(tuner):
        whole = zoo.logits(model, batch)
    assert (whole - tuned).abs().max() > 1e-2
    # on the original base it gives the logits of full_precision ...
    theirs = zoo.logits(opened(zoo.build(name), tmp_path), batch)
    close(theirs, whole)
    # ... and on a base with the same four bits those of the tuner
    base = zoo.build(name)
    for path, module in tuner.anatomy.modules.items():
        for door in (m for m in model.modules() if getattr(m, "base", None) is module):
            patch = door.patches["default"]
            assert isinstance(patch, QLoRAPatch)
            linear, weight = base.get_submodule(path), patch.replacement.weight()
            with torch.no_grad():
                linear.weight.copy_(weight.T if is_transposed(linear) else weight)
    theirs = zoo.logits(opened(base, tmp_path), batch)
    close(theirs, tuned)


@pytest.mark.parametrize("name", MODELS)
def test_all_linear_means_the_same_maps(tmp_path, name):
    """PEFT's "all-linear" takes what lies outside of the blocks as well, except the head."""
    tuner = mp.attach(zoo.build(name), mp.QLoRA(rank=2))
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    theirs = peft.get_peft_model(zoo.build(name), config)
    paths = {
        path.removeprefix("base_model.model.").removesuffix(".lora_A")
        for path, module in theirs.named_modules()
        if path.endswith(".lora_A")
    }
    ours = {place.path for place, _ in tuner.patches}
    outside = {"bert": {"cls.predictions.transform.dense"}}
    assert ours == paths - outside.get(name, set()) and ours
