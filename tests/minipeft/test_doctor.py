"""The doctor finds every broken run, names its place, and says nothing of a healthy one."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import transformers as hf
import zoo
from torch import nn
from whole import part_of

import minipeft as mp
from minipeft.analysis import support

peft = pytest.importorskip("peft")
CAUSAL = "CAUSAL_LM"


def wrapped(model, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config)


def state(model) -> tuple:
    """All that must be the same afterwards, to the last bit."""
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [(name, p.requires_grad, p.grad) for name, p in model.named_parameters()],
        [module.training for module in model.modules()],
        torch.get_rng_state(),
    )


def check_same(before: tuple, after: tuple) -> None:
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][key].view(-1), after[0][key].view(-1)) for key in before[0])
    for (name, flag, gradient), (_, flag_now, gradient_now) in zip(
        before[1], after[1], strict=True
    ):
        assert (flag, gradient) == (flag_now, gradient_now) if gradient is None else True, name
        assert gradient is gradient_now
    assert before[2] == after[2] and torch.equal(before[3], after[3])


def examined(model, batch, **settings):
    """The doctor's table; the model must be the same, and every finding one whole sentence."""
    before = state(model)
    table = mp.doctor(model, batch, **settings)
    check_same(before, state(model))
    for finding in table.findings:
        assert len(finding.sentence) > 60 and finding.sentence.endswith(".")
        assert "\n" not in finding.sentence and ": " in finding.sentence
        assert finding.place and finding.kind in str(table) and finding.place in str(table)
    return table


def only(model, batch, kind: str, *words: str, **settings) -> None:
    """One finding, of this kind, whose sentence has these words."""
    table = examined(model, batch, **settings)
    assert table.kinds == (kind,), table
    for word in words:
        assert any(word in finding.sentence for finding in table.findings), table


def fp32(name: str, head: str = "language", layers: int = 2, dtype=torch.float32):
    return zoo.build(name, head, layers=layers, dtype=dtype)


# ---- healthy runs ----

EVERY_HEAD, LANGUAGE = ("tiny-encoder", "gpt2"), ("tiny-decoder", "bert", "t5", "bart", "llama")
HEALTHY = [
    cell
    for cell in support.cells()
    if cell.why_not is None
    and (cell.architecture in EVERY_HEAD or cell.architecture in LANGUAGE)
    and (cell.architecture in EVERY_HEAD or cell.head == "language")
]


@pytest.mark.parametrize(
    "cell", part_of(HEALTHY, 58), ids=lambda c: f"{c.method}-{c.architecture}-{c.head}"
)
def test_nothing_is_found_in_a_healthy_run(cell):
    model, batch = fp32(cell.architecture, cell.head), zoo.batch(cell.architecture, cell.head)
    mp.attach(model, support.METHODS[cell.method], seed=0)
    assert examined(model, batch).passed
    mp.train(model, [batch], 3, 1e-3, progress=False)
    assert examined(model, batch).passed


def peft_configs(name: str):
    task = {"bert": None, "t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}.get(name, CAUSAL)
    words = {"gpt2": ["c_attn"], "bert": ["query", "value"], "t5": ["q", "v"]}
    words = words.get(name, ["q_proj", "v_proj"])
    yield peft.LoraConfig(target_modules=words, task_type=task)
    yield peft.LoraConfig(target_modules="all-linear", task_type=task, lora_dropout=0.1)
    yield peft.LoraConfig(target_modules=words, task_type=task, use_dora=True)
    yield peft.LoraConfig(target_modules=words, task_type=task, bias="all")
    yield peft.LoraConfig(target_modules=words, task_type=task, layers_to_transform=[1])
    yield peft.LoraConfig(target_modules=words, task_type=task, init_lora_weights="pissa", r=2)
    yield peft.AdaLoraConfig(target_modules=words, task_type=task, total_step=99)
    yield peft.IA3Config(task_type=task)
    if task:
        yield peft.PromptTuningConfig(num_virtual_tokens=3, task_type=task)
        yield peft.PromptEncoderConfig(num_virtual_tokens=3, task_type=task, encoder_hidden_size=8)
        yield peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=task)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "bart", "llama"])
def test_nothing_is_found_in_a_healthy_run_of_peft(name):
    for config in peft_configs(name):
        model = wrapped(fp32(name), config)
        table = examined(model, zoo.batch(name))
        assert table.passed, table


@pytest.mark.parametrize("kind", ["SEQ_CLS", "TOKEN_CLS"])
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_a_head_that_peft_copies_is_healthy(name, kind):
    head = {"SEQ_CLS": "classification", "TOKEN_CLS": "tagging"}[kind]
    model = wrapped(fp32(name, head), peft.LoraConfig(task_type=kind))
    assert examined(model, zoo.batch(name, head)).passed


def test_a_model_in_bfloat16_with_lora_is_healthy():
    for name in ("llama", "gpt2"):
        model = fp32(name, dtype=torch.bfloat16)
        mp.attach(model, mp.LoRA(), seed=0)
        assert examined(model, zoo.batch(name)).passed
        assert examined(wrapped(fp32(name, dtype=torch.bfloat16), peft.LoraConfig()),
                        zoo.batch(name)).passed  # fmt: skip


def test_what_was_loaded_to_answer_is_healthy(tmp_path):
    wrapped(fp32("llama"), peft.LoraConfig()).save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(fp32("llama"), tmp_path)
    table = examined(model, zoo.batch("llama"))
    assert table.passed and "frozen" in table.left_out["gradients"]
    model = fp32("llama")
    mp.load(model, tmp_path)
    assert examined(model, zoo.batch("llama")).passed


# ---- 1 targets that matched in part ----


def test_a_pattern_that_misses_the_layers_from_ten_on():
    model = fp32("gpt2", layers=12)
    mp.attach(model, mp.LoRA(targets=("transformer.h.[0-9].attn.c_attn",)))
    only(model, zoo.batch("gpt2"), "targets", "layers 0-9 of transformer.h but not in 10-11")
    model = fp32("gpt2", layers=3)
    mp.attach(model, mp.LoRA(targets=("transformer.h.[0-9].attn.c_attn",)))
    assert examined(model, zoo.batch("gpt2")).passed


def test_layers_of_several_makes_are_no_finding():
    """Attention and a convolution take turns: what only one of them has is not left out."""
    sizes = dict(vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=2, num_key_value_heads=2)
    config = hf.Lfm2Config(**sizes, layer_types=["conv", "full_attention"])
    for names in (["in_proj"], ["q_proj", "v_proj"]):
        model, batch = hf.Lfm2ForCausalLM(config), zoo.batch("llama")
        mp.attach(model, mp.LoRA(targets=tuple(names)))
        assert examined(model, batch).passed
        theirs = wrapped(hf.Lfm2ForCausalLM(config), peft.LoraConfig(target_modules=names))
        assert examined(theirs, batch).passed


@pytest.mark.parametrize("settings", [dict(layers=(1,)), dict(targets=("h.1.attn.c_attn",))])
def test_layers_that_are_named_are_meant(settings):
    model = fp32("gpt2", layers=3)
    mp.attach(model, mp.LoRA(**settings))
    assert examined(model, zoo.batch("gpt2")).passed


def test_peft_targets_that_matched_in_part():
    batch = zoo.batch("llama")
    model = wrapped(fp32("llama"), peft.LoraConfig(target_modules=["q_proj", "v_porj"]))
    only(model, batch, "targets", "'v_porj' matched nothing")
    digit = peft.LoraConfig(target_modules=r".*layers\.\d\.self_attn\.q_proj")
    model = wrapped(fp32("llama", layers=12), digit)
    only(model, batch, "targets", "but not in 10-11", "layers_to_transform")
    assert examined(wrapped(fp32("llama"), copy.copy(digit)), batch).passed
    named = peft.LoraConfig(target_modules=r".*layers\.[01]\.self_attn\.q_proj")
    assert examined(wrapped(fp32("llama", layers=4), named), batch).passed


# ---- 2 experts that stayed frozen ----


def experts():
    config = hf.MixtralConfig(
        vocab_size=zoo.WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=32, num_local_experts=4, pad_token_id=0,
        max_position_embeddings=32, initializer_range=0.15,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hf.MixtralForCausalLM(config).eval()


def test_experts_that_stayed_frozen():
    batch, maps = zoo.batch("llama"), ("q_proj", "k_proj", "v_proj", "o_proj")
    model = experts()
    mp.attach(model, mp.LoRA(targets=maps))
    only(model, batch, "experts", "model.layers.0.mlp.experts.gate_up_proj", "stay frozen")
    model = experts()
    mp.attach(model, mp.LoRA(targets=("all-linear",)))
    only(model, batch, "experts", "stay frozen")
    model = experts()
    mp.attach(model, mp.LoRA())
    assert examined(model, batch).passed
    model = wrapped(experts(), peft.LoraConfig(target_modules=list(maps)))
    only(model, batch, "experts", "mlp.experts.gate_up_proj", "target_parameters")
    few = peft.LoraConfig(target_modules=["q_proj", "v_proj"])
    assert examined(wrapped(experts(), few), batch).passed
    both = peft.LoraConfig(
        target_modules=list(maps),
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    assert examined(wrapped(experts(), both), batch).passed


class Mixture(nn.Module):
    """Experts in a list, each token to one of them by its number."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.words, self.scores = nn.Embedding(zoo.WORDS, 16), nn.Linear(16, zoo.WORDS)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(count))

    def forward(self, input_ids, labels=None, attention_mask=None):
        x = self.words(input_ids)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = input_ids % len(self.experts) == number
            if mine.any():
                y = y.index_put((mine,), expert(x[mine]))
        logits = self.scores(x + y)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return hf.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


def test_experts_in_a_list_that_a_pattern_misses():
    batch = zoo.batch("gpt2", rows=8)
    model = Mixture(12).eval()
    mp.attach(model, mp.LoRA(targets=("experts.[0-9]",)))
    only(model, batch, "experts", "experts 0-9 of experts but not in 10-11")
    model = wrapped(Mixture(12).eval(), peft.LoraConfig(target_modules=r"experts\.\d"))
    table = examined(model, batch)
    assert "experts" in table.kinds and "10-11" in str(table)


def test_an_expert_that_got_no_token_is_no_finding():
    batch = zoo.batch("gpt2", rows=1, tokens=4)
    model = Mixture(12).eval()
    mp.attach(model, mp.LoRA(targets=("experts.*",)))
    assert examined(model, batch).passed


# ---- 3 tied embeddings lost in a merge ----


def test_a_tied_embedding_that_a_merge_would_change():
    for name in ("gpt2", "qwen2"):
        model = fp32(name)
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        mp.attach(model, mp.LoRA(targets=("lm_head",)))
        only(model, zoo.batch(name), "tied weights", "lm_head", "is tied to", "untie")
    for target in ("lm_head", "wte"):
        model = wrapped(fp32("gpt2"), peft.LoraConfig(target_modules=[target], task_type=CAUSAL))
        only(model, zoo.batch("gpt2"), "tied weights", "wte", "lm_head")
    saved = peft.LoraConfig(target_modules=["c_attn"], modules_to_save=["lm_head"])
    only(wrapped(fp32("gpt2"), saved), zoo.batch("gpt2"), "tied weights", "copy")
    model = fp32("llama")  # not tied
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    mp.attach(model, mp.LoRA(targets=("lm_head",)))
    assert examined(model, zoo.batch("llama")).passed


def test_the_merge_of_peft_that_it_warns_of_is_wrong():
    """The independent truth behind the finding: the logits after a merge are others."""
    model = wrapped(fp32("gpt2"), peft.LoraConfig(target_modules=["lm_head"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = zoo.logits(model, zoo.batch("gpt2"))
    merged = zoo.logits(model.merge_and_unload(), zoo.batch("gpt2"))
    assert (merged - before).abs().max() > 0.1


# ---- 4 checkpointing that kills gradients ----


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_checkpointing_that_kills_gradients(name):
    batch, kwargs = zoo.batch(name), {"use_reentrant": True}
    model = fp32(name)
    mp.attach(model, mp.LoRA())
    model.gradient_checkpointing_enable(kwargs)
    assert examined(model, batch).passed
    model.disable_input_require_grads()  # as transformers did it before it took care of this
    only(model, batch, "checkpointing", "reentrant", "use_reentrant")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()
    assert examined(model, batch).passed
    model = wrapped(fp32(name), peft.LoraConfig())
    model.gradient_checkpointing_enable(kwargs)
    model.disable_input_require_grads()
    only(model, batch, "checkpointing", "enable_input_require_grads")
    model.enable_input_require_grads()
    assert examined(model, batch).passed


def test_checkpointing_kills_no_gradient_of_a_head():
    model = fp32("gpt2", "classification")
    mp.attach(model, mp.HeadOnly())
    model.gradient_checkpointing_enable({"use_reentrant": True})
    assert examined(model, zoo.batch("gpt2", "classification")).passed


class Checkpointed(Mixture):
    """A module of one's own that checkpoints in eval mode as well."""

    def forward(self, input_ids, labels=None, attention_mask=None):
        x = self.words(input_ids)
        call = torch.utils.checkpoint.checkpoint
        x = call(self.experts[0], x, use_reentrant=True)
        logits = self.scores(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return hf.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


def test_checkpointing_in_a_model_of_ones_own():
    for attached in (
        lambda m: mp.attach(m, mp.LoRA(targets=("experts.0",)), head=("scores",)) and m,
        lambda m: wrapped(
            m, peft.LoraConfig(target_modules=["experts.0"], modules_to_save=["scores"])
        ),
    ):
        model = attached(Checkpointed(1).eval())
        only(model, zoo.batch("gpt2"), "checkpointing", "experts.0")


# ---- 5 labels that are all -100 ----


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "bert", "t5"])
def test_labels_that_ask_for_nothing(name):
    batch = zoo.batch(name)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    model = fp32(name)
    mp.attach(model, mp.LoRA())
    only(model, batch, "labels", "-100", "nothing is learnt")
    if name != "tiny-decoder":
        only(wrapped(fp32(name), peft.LoraConfig()), batch, "labels", "-100")


def test_rows_without_labels_and_labels_at_a_first_token():
    batch = zoo.batch("gpt2")
    batch["labels"][1] = -100
    model = fp32("gpt2")
    mp.attach(model, mp.LoRA())
    only(model, batch, "labels", "1 of the batch's 3 rows", "row 1")
    batch["labels"][:, 1:] = -100
    batch["labels"][:, 0] = 5
    only(model, batch, "labels", "first token")


# ---- 6 A and B both zero ----


def zero_everything(model) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".A", ".B")) or "lora_" in name:
                parameter.zero_()


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_a_and_b_both_zero(name):
    model = fp32(name)
    mp.attach(model, mp.LoRA())
    zero_everything(model)
    only(model, zoo.batch(name), "zero start", "both are 0", "random numbers")
    model = wrapped(fp32(name), peft.LoraConfig())
    zero_everything(model)
    only(model, zoo.batch(name), "zero start", "lora_A.default.weight and lora_B.default.weight")


def test_one_place_of_many_at_zero():
    model = fp32("llama")
    tuner = mp.attach(model, mp.LoRA())
    with torch.no_grad():
        for tensor in tuner.patches[2][1].parameters():
            tensor.zero_()
    only(model, zoo.batch("llama"), "zero start", tuner.patches[2][0].path)


# ---- 7 the head not saved ----


@pytest.mark.parametrize("name", ["tiny-encoder", "bert", "gpt2", "llama", "bart"])
def test_a_head_that_is_frozen_or_trained_and_not_saved(name):
    batch = zoo.batch(name, "classification")
    model = fp32(name, "classification")
    tuner = mp.attach(model, mp.LoRA(), head=False)
    only(model, batch, "head", "frozen", 'attach(..., head=("')
    path = tuner.anatomy.heads()[0]
    model.get_submodule(path).requires_grad_(True)
    only(model, batch, "head", "trained with the adapter and not saved", path)
    if name == "tiny-encoder":
        return
    model = wrapped(fp32(name, "classification"), peft.LoraConfig())
    only(model, batch, "head", "frozen", "modules_to_save")
    model.get_submodule(f"base_model.model.{path}").requires_grad_(True)
    only(model, batch, "head", "trained with the adapter and not saved")


def test_a_head_that_was_trained_before_may_be_frozen():
    model = fp32("bert", "classification")
    with torch.no_grad():
        model.classifier.bias.normal_()
    mp.attach(model, mp.LoRA(), head=False)
    assert examined(model, zoo.batch("bert", "classification")).passed


def test_a_module_to_save_that_is_not_there():
    config = peft.LoraConfig(modules_to_save=["clasifier"])
    table = examined(
        wrapped(fp32("bert", "classification"), config), zoo.batch("bert", "classification")
    )
    assert table.kinds == ("head",) and "'clasifier'" in str(table)


# ---- 8 a prompt behind left padding ----


def left_padded(name: str) -> dict:
    batch = zoo.batch(name)
    batch = {key: value.clone() for key, value in batch.items()}
    for key in batch:
        batch[key][-1] = batch[key][-1].roll(2)
    return batch


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox"])
def test_a_prompt_behind_left_padding(name):
    right, left = zoo.batch(name), left_padded(name)
    model = fp32(name)
    tuner = mp.attach(model, mp.PromptTuning(length=3, compatibility="peft"), seed=0)
    zoo.shake(tuner, 1.0)
    only(model, left, "padding", "row 2", "in front of the padding", "left")
    assert examined(model, right).passed
    model = fp32(name)
    zoo.shake(mp.attach(model, mp.PromptTuning(length=3), seed=0), 1.0)
    assert examined(model, left).passed
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type=CAUSAL)
    model = wrapped(fp32(name), config)
    with torch.no_grad():
        model.prompt_encoder.default.embedding.weight.normal_()
    only(model, left, "padding", "row 2", "in front of the padding")
    assert examined(model, right).passed


def test_positions_that_are_counted_from_padding():
    model = wrapped(fp32("gpt2"), peft.LoraConfig())
    only(model, left_padded("gpt2"), "padding", "position_ids", "base itself")
    with_positions = left_padded("gpt2")
    mask = with_positions["attention_mask"]
    with_positions["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    assert examined(model, with_positions).passed


# ---- 9 half precision that rounds the update away ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_that_rounds_the_update_away(dtype):
    batch, word = zoo.batch("llama"), str(dtype).removeprefix("torch.")
    model = fp32("llama")
    mp.attach(model, mp.LoRA())
    model.to(dtype)
    only(model, batch, "precision", word, "minipeft.train")
    model = fp32("llama", dtype=dtype)
    mp.attach(model, mp.FullFineTuning())
    only(model, batch, "precision", word, "float32")
    model = wrapped(fp32("llama"), peft.LoraConfig()).to(dtype)
    only(model, batch, "precision", word, "autocast_adapter_dtype")


def test_a_merge_into_half_precision_that_loses_what_was_trained():
    for model in (fp32("llama", dtype=torch.bfloat16),):
        zoo.shake(mp.attach(model, mp.LoRA(), seed=0), 2e-3)
        only(model, zoo.batch("llama"), "merge", "rounding")
    model = wrapped(fp32("llama", dtype=torch.bfloat16), peft.LoraConfig())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=2e-3)
    only(model, zoo.batch("llama"), "merge", "rounding")


# ---- 10 a tuner that no pass reaches ----


class Bypassed(Mixture):
    """`unused` is never called; the weight of `read` is read without calling it."""

    def __init__(self) -> None:
        super().__init__(1)
        self.unused, self.read = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, input_ids, labels=None, attention_mask=None):
        x = nn.functional.linear(self.words(input_ids), self.read.weight, self.read.bias)
        logits = self.scores(self.experts[0](x))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return hf.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


@pytest.mark.parametrize("place", ["unused", "read"])
def test_a_tuner_that_no_pass_reaches(place):
    batch = zoo.batch("gpt2")
    model = Bypassed().eval()
    mp.attach(model, mp.LoRA(targets=(place,)))
    only(model, batch, "reach", place)
    model = wrapped(Bypassed().eval(), peft.LoraConfig(target_modules=[place]))
    only(model, batch, "reach", f"base_model.model.{place}", "calls")
    both = peft.LoraConfig(target_modules=[place, "experts.0"])
    only(wrapped(Bypassed().eval(), both), batch, "reach", place, "1 of 2 places")


class Detached(Mixture):
    def forward(self, input_ids, labels=None, attention_mask=None):
        x = self.words(input_ids)
        logits = self.scores(x + self.experts[0](x).detach() + self.experts[1](x))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return hf.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


def test_a_place_that_a_detach_stands_behind():
    model = Detached(2).eval()
    mp.attach(model, mp.LoRA(targets=("experts.*",)))
    only(model, zoo.batch("gpt2"), "reach", "experts.0", "detach()")


# ---- what else can be wrong ----


def test_a_base_that_moves():
    model = fp32("gpt2")
    mp.attach(model, mp.LoRA())
    model.transformer.h[0].ln_1.requires_grad_(True)
    only(model, zoo.batch("gpt2"), "base", "transformer.h.0.ln_1.weight", "requires_grad_(False)")
    model = wrapped(fp32("gpt2"), peft.LoraConfig())
    model.base_model.model.transformer.h[0].ln_1.requires_grad_(True)
    only(model, zoo.batch("gpt2"), "base", "ln_1.weight")


class Normed(Mixture):
    def __init__(self) -> None:
        super().__init__(1)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, input_ids, labels=None, attention_mask=None):
        x = self.norm(self.experts[0](self.words(input_ids)).transpose(1, 2)).transpose(1, 2)
        logits = self.scores(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return hf.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


def test_buffers_that_passes_change():
    model = Normed().eval()
    mp.attach(model, mp.LoRA(targets=("experts.0",)))
    only(model, zoo.batch("gpt2"), "base", "norm.running_mean", "eval mode")


def test_new_tensors_that_are_frozen():
    model = wrapped(fp32("llama"), peft.LoraConfig())
    model.base_model.model.model.layers[1].self_attn.q_proj.lora_A.requires_grad_(False)
    only(model, zoo.batch("llama"), "frozen", "layers.1.self_attn.q_proj.lora_A.default.weight")


def test_a_start_that_is_no_identity():
    model = wrapped(fp32("llama"), peft.LoraConfig(init_lora_weights=False))
    only(model, zoo.batch("llama"), "start", "init_lora_weights")


def test_gradients_and_modes_of_a_run_that_goes_on_are_left_alone():
    model, batch = fp32("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.AdaLoRA(target_rank=2, total_steps=9), seed=0)
    model.train()
    model.transformer.h[0].eval()
    model(**batch).loss.backward()
    kept = [(p, p.grad, p.grad.clone()) for p in tuner.parameters() if p.grad is not None]
    assert kept
    assert examined(model, batch).passed
    assert all(p.grad is grad and torch.equal(grad, value) for p, grad, value in kept)
    assert tuner.own_steps.made == 0


def test_what_cannot_be_examined_is_told_in_one_sentence():
    model, batch = fp32("gpt2"), zoo.batch("gpt2")
    with pytest.raises(ValueError, match="attach a method first"):
        mp.doctor(model, batch)
    mp.attach(model, mp.LoRA())
    with pytest.raises(ValueError, match="labels"):
        mp.doctor(model, {"input_ids": batch["input_ids"]})
    with pytest.raises(ValueError, match="learning_rate"):
        mp.doctor(model, batch, learning_rate=-1)
    with pytest.raises(TypeError, match="needs a model"):
        mp.doctor("gpt2", batch)


def test_the_table_shows_itself():
    model = fp32("gpt2")
    mp.attach(model, mp.LoRA())
    zero_everything(model)
    table = mp.doctor(model, zoo.batch("gpt2"))
    assert "1 finding" in str(table) and "<table>" in table._repr_html_()
    assert not table.passed and len(table.rows) == len(table.findings) == 1
    assert table.header == ("kind", "place", "what is wrong, and what to do")


def test_a_model_that_gives_no_loss_is_told_in_one_sentence():
    class Silent(Mixture):
        def forward(self, input_ids, labels=None, attention_mask=None):
            return hf.modeling_outputs.BaseModelOutput(self.experts[0](self.words(input_ids)))

    model = Silent(1).eval()
    mp.attach(model, mp.LoRA(targets=("experts.0",)))
    with pytest.raises(ValueError, match="gives a loss and logits"):
        mp.doctor(model, zoo.batch("gpt2"))
