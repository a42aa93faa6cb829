"""Soft prompts and prefixes on models with every kind of head: PEFT puts them in as we do.

For every class of model and every method of the prompt family the file is either in PEFT's layout,
and then PEFT gives the same numbers, or it is in ours, which PEFT refuses to open.
"""

import copy
import json
import warnings

import pytest
import torch
import zoo
from closeness import close
from whole import part_of

import minipeft as mp
import tiny_transformer as tt

peft = pytest.importorskip("peft")
hf = pytest.importorskip("transformers")

CLASSES = {
    "gpt2": "GPT2Model GPT2LMHeadModel GPT2ForSequenceClassification GPT2ForTokenClassification "
    "GPT2ForQuestionAnswering GPT2DoubleHeadsModel",
    "bert": "BertModel BertForMaskedLM BertForSequenceClassification BertForTokenClassification "
    "BertForQuestionAnswering BertForMultipleChoice BertForNextSentencePrediction "
    "BertForPreTraining BertLMHeadModel",
    "roberta": "RobertaModel RobertaForMaskedLM RobertaForCausalLM RobertaForMultipleChoice",
    "electra": "ElectraModel ElectraForPreTraining ElectraForMaskedLM",
    "distilbert": "DistilBertModel DistilBertForMaskedLM DistilBertForSequenceClassification",
    "bart": "BartModel BartForConditionalGeneration BartForSequenceClassification "
    "BartForQuestionAnswering BartForCausalLM",
    "t5": "T5Model T5ForConditionalGeneration T5EncoderModel T5ForSequenceClassification "
    "T5ForTokenClassification T5ForQuestionAnswering",
    "llama": "LlamaModel LlamaForCausalLM LlamaForSequenceClassification "
    "LlamaForTokenClassification LlamaForQuestionAnswering",
}
METHODS = {
    "prefix": mp.Prefix(length=3, hidden=None, std=1.0, compatibility="peft"),
    "prompt": mp.PromptTuning(length=3, compatibility="peft"),
    "p-tuning": mp.PTuning(length=3, encoder=None, compatibility="peft"),
    "prompt of ours": mp.PromptTuning(length=3),
}
EVERY = [(name, kind, True) for name, kinds in CLASSES.items() for kind in kinds.split()]
EVERY += [
    (name, kind, False) for name, kind, _ in EVERY if kind.endswith(("Classification", "Answering"))
]
WITH_METHODS = [(*case, method) for case in EVERY for method in METHODS]
NO_CACHE = ("DistilBert", "T5Encoder", "T5ForToken")  # encoders that no prefix can be handed to
VECTORS = ("ForSequenceClassification", "ForQuestionAnswering")  # of encoder-decoders, need ids


def build(name: str, kind: str):
    config = copy.deepcopy(zoo.build(name).config)
    config.is_decoder = kind in ("BertLMHeadModel", "RobertaForCausalLM")
    config.num_labels = 2 if "Question" in kind else 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(hf, kind)(config).double().eval()


def inputs(name: str, kind: str) -> dict:
    batch = zoo.batch(name, "classification" if kind.endswith("Classification") else "language")
    del batch["labels"]
    if kind in ("BartModel", "T5Model") or kind.endswith("ConditionalGeneration"):
        batch["decoder_input_ids"] = torch.tensor([[2, 5, 6], [2, 7, 8], [2, 9, 3]])
    return batch


@torch.no_grad()
def outputs(model, batch: dict) -> dict[str, torch.Tensor]:
    return {key: value for key, value in model(**batch).items() if torch.is_tensor(value)}


def expected_to_be_refused(name: str, kind: str, method: str) -> bool:
    pair = name in ("bart", "t5") and kind not in ("BartForCausalLM", "T5EncoderModel")
    if "MultipleChoice" in kind or (pair and kind.endswith(VECTORS)):
        return True
    if method == "prefix":
        return kind.startswith(NO_CACHE) or kind in ("BartModel", "T5Model")
    if method == "prompt of ours":  # ours stand behind [CLS], and heads find the last word
        encoder = name in zoo.ENCODERS and kind != "BertLMHeadModel"
        return encoder or (name in ("gpt2", "llama") and kind.endswith("SequenceClassification"))
    return False


@pytest.mark.parametrize("name, kind, head, method", part_of(WITH_METHODS, 75))
def test_peft_gives_the_same_numbers_or_has_no_file(tmp_path, name, kind, head, method):
    model = build(name, kind)
    tuner = mp.attach(model, METHODS[method], seed=0, head=head)
    zoo.shake(tuner, 0.5)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.copy_(parameter.float())  # PEFT keeps prompts in fp32
    meant_for_peft = METHODS[method].compatibility == "peft"
    refused = expected_to_be_refused(name, kind, method)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tuner.save(tmp_path)
    sentences = [str(w.message) for w in said if "minipeft's own layout" in str(w.message)]
    assert len(sentences) == (refused and meant_for_peft)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["peft_type"] == "MINIPEFT") == refused
    if "MultipleChoice" in kind:
        return
    batch = inputs(name, kind)
    ours = outputs(model, batch)
    fresh = build(name, kind)
    base = outputs(fresh, batch)
    mp.load(fresh, tmp_path)
    again = outputs(fresh, batch)
    assert all(torch.equal(value, again[key]) for key, value in ours.items())
    if not refused:
        theirs = peft.PeftModel.from_pretrained(build(name, kind), tmp_path).double().eval()
        given, everywhere = outputs(theirs, batch), outputs(model, tuner.wrap(batch))
        for key, value in everywhere.items():
            close(given[key], value)
    last = list(ours)[0]
    moved = ours[last].shape != base[last].shape or (ours[last] - base[last]).abs().max() > 1e-3
    assert moved, "the tuner does something"


@pytest.mark.parametrize("method", ["prefix", "prompt", "p-tuning"])
@pytest.mark.parametrize("name", zoo.TINY)
def test_a_prompt_for_a_tiny_transformer_is_one_for_its_twin(tmp_path, name, method):
    """The base is saved, opened by transformers, and PEFT puts the prompt in front of that."""
    model = zoo.build(name)
    tuner = mp.attach(model, METHODS[method], seed=0)
    zoo.shake(tuner, 0.5)
    tuner.save(tmp_path / "tuner")
    tt.save(model, None, tmp_path / "base")
    kinds = {"tiny-decoder": "GPT2LMHeadModel", "tiny-encoder": "BertForMaskedLM"}
    kind = getattr(hf, kinds.get(name, "BartForConditionalGeneration"))
    twin = kind.from_pretrained(tmp_path / "base").double().eval()
    batch = {**zoo.batch(name)}
    del batch["labels"]
    if name == "tiny-encoder-decoder":
        batch["decoder_input_ids"] = torch.tensor([[2, 5, 6], [2, 7, 8], [2, 9, 3]])
    theirs = peft.PeftModel.from_pretrained(twin, tmp_path / "tuner").double().eval()
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])  # padding says what it likes
    expected = theirs(**batch).logits
    ours = model(**tuner.wrap(batch)).logits
    close(ours, expected, dtype=torch.float32)  # tt.save writes float32
