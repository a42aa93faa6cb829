"""What rows share is run once: same loss, same gradients, and only where that is true."""

import subprocess
import sys

import pytest
import torch
import zoo
from closeness import LOSS, close

import minipeft as mp
from minipeft.routing import wrap
from minipeft.training import loss as training
from minipeft.training.savings import shared_prompt
from minipeft.training.savings.shared_prompt import fits, shared_columns, shared_loss

DECODERS = ("tiny-decoder", "gpt2", "llama", "qwen2", "opt", "gpt_neox")


def unpadded(name, question=0):
    batch = zoo.batch(name)
    batch["input_ids"][-1, -2:], batch["attention_mask"][-1, -2:] = 7, 1
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, :question] = -100
    return batch


def both(model, batch):
    """(shared loss, its gradients), (plain loss, its gradients)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    out = []
    batch = wrap(model, batch)
    for loss in (shared_loss(model, batch), model(**batch).loss):
        out.append((loss, torch.autograd.grad(loss, parameters)))
    return out


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "method, question",
    [
        (mp.PromptTuning(length=4, scale=0.2), 0),
        (mp.PTuning(template=("P", 9, "P", "{x}", 11, "{mask}"), encoder="mlp"), 3),
    ],
    ids=["prompt", "template"],
)
def test_the_same_loss_and_the_same_gradients(name, method, question):
    model, batch = zoo.build(name).train(), unpadded(name, question)
    mp.attach(model, method, seed=0)
    assert fits(model)
    (loss, gradients), (plain, expected) = both(model, batch)
    close(loss, plain, dtype=torch.float32, roundings=LOSS)
    for ours, theirs in zip(gradients, expected, strict=True):
        close(ours, theirs, dtype=None if name in zoo.TINY else torch.float32)  # rotations: fp32
        assert theirs.abs().max() > 0


def test_equal_in_double_precision_too():
    model, batch = zoo.build("tiny-decoder").double().train(), unpadded("tiny-decoder")
    mp.attach(model, mp.PromptTuning(length=4), seed=0)
    (loss, gradients), (plain, expected) = both(model, batch)
    close(gradients[0], expected[0])
    close(loss, plain, dtype=torch.float32, roundings=LOSS)


def test_a_shared_first_token_is_shared_as_well():
    model, batch = zoo.build("tiny-decoder"), unpadded("tiny-decoder", question=1)
    batch["input_ids"][:, 0] = 1
    mp.attach(model, mp.PromptTuning(length=3, position="after-bos"), seed=0)
    assert shared_columns(model, wrap(model, batch)) == 4
    (loss, _), (plain, _) = both(model, batch)
    close(loss, plain, dtype=torch.float32, roundings=LOSS)


def test_train_chooses_it_and_ends_with_the_same_numbers(monkeypatch):
    seen, results = [], []
    for on in (True, False):
        model, batch = zoo.build("tiny-decoder"), unpadded("tiny-decoder")
        tuner = mp.attach(model, mp.PromptTuning(length=4, scale=0.1), seed=0)

        def choose(model, batch, on=on):
            loss = shared_loss(model, batch) if on else None
            seen.append(loss is not None)
            return loss

        monkeypatch.setattr(training, "shared_loss", choose)
        history = mp.train(model, [batch], 5, 1e-2, progress=False)
        results.append((history.losses, tuner.parameters()[0].detach()))
    assert seen == [True] * 5 + [False] * 5
    close(results[0][0], results[1][0], dtype=torch.float32, roundings=LOSS)
    close(results[0][1], results[1][1])


def test_the_shared_tokens_really_run_once():
    model, batch = zoo.build("tiny-decoder"), unpadded("tiny-decoder")
    mp.attach(model, mp.PromptTuning(length=4), seed=0)
    sizes = []
    hook = model.blocks[0].register_forward_pre_hook(
        lambda _, args: sizes.append(args[0].shape[:2])
    )
    head = model.head.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[:2]))
    shared_loss(model, wrap(model, batch))
    hook.remove(), head.remove()
    assert [tuple(size) for size in sizes] == [(1, 4), (1, 1), (3, 7), (3, 6)]


def test_it_saves_work():
    """20 of 28 columns are shared by four rows: far fewer products of matrices."""
    from torch.utils.flop_counter import FlopCounterMode

    model, counts = zoo.build("tiny-decoder"), []
    batch = zoo.batch("tiny-decoder", rows=4, tokens=8)
    batch["input_ids"][-1, -2:] = 7
    batch = {"input_ids": batch["input_ids"], "labels": batch["input_ids"]}
    mp.attach(model, mp.PromptTuning(length=20), seed=0)
    for run in (lambda: shared_loss(model, wrap(model, batch)), lambda: model(**batch).loss):
        with FlopCounterMode(display=False) as counter:
            run().backward()
        counts.append(counter.get_total_flops())
    columns = (20 + 4 * 8) / (4 * 28)
    assert counts[0] / counts[1] == pytest.approx(columns, abs=0.1)


def test_a_gpu_shares_only_what_spares_many_tokens(monkeypatch):
    """Two passes launch twice as many kernels: benchmarks/results/shared_prompt_cuda.md."""
    model, batch = zoo.build("tiny-decoder"), unpadded("tiny-decoder")  # 3 rows
    mp.attach(model, mp.PromptTuning(length=4), seed=0)
    asked, wrapped = [], wrap(model, batch)
    rule = shared_prompt.pays

    def as_on_a_gpu(device, spared):
        asked.append((device, spared))
        return rule("cuda", spared)

    monkeypatch.setattr(shared_prompt, "pays", as_on_a_gpu)
    assert shared_columns(model, wrapped) == 0 and shared_loss(model, wrapped) is None
    assert asked[0] == ("cpu", 2 * 4)
    monkeypatch.setattr(shared_prompt, "WORTH", 8)
    assert shared_columns(model, wrapped) == 4


@pytest.mark.parametrize(
    "why",
    ["padding", "one row", "dropout", "checkpointing", "end", "two tuners", "encoder", "class"],
)
def test_where_it_does_not_apply_the_plain_way_is_taken(why):
    name, head = ("tiny-encoder" if why == "encoder" else "tiny-decoder"), "language"
    head = "classification" if why == "class" else "language"
    model = zoo.build(name, head, dropout=0.1 if why == "dropout" else 0.0).train()
    batch = unpadded(name) if head == "language" else zoo.batch(name, head)
    if why == "padding":
        batch = zoo.batch(name)
    if why == "one row":
        batch = {key: value[:1] for key, value in batch.items()}
        batch["labels"][:, :-1] = -100
    model.gradient_checkpointing = why == "checkpointing"
    position = "end" if why == "end" else None
    if why == "end":
        batch["labels"][:, :3] = -100
    mp.attach(model, mp.PromptTuning(length=2, position=position), seed=0)
    if why == "two tuners":
        mp.attach(model, mp.LoRA(rank=1), name="lora", seed=0)
    assert shared_loss(model, wrap(model, batch)) is None
    assert torch.isfinite(model(**batch).loss)


def test_layers_that_keep_a_state_have_no_past_to_share():
    """A convolution's state is not the keys and values of every token: the plain way, no error."""
    hf = pytest.importorskip("transformers")
    sizes = dict(vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=2, num_key_value_heads=2)
    config = hf.Lfm2Config(**sizes, layer_types=["conv", "full_attention"])
    model, batch = hf.Lfm2ForCausalLM(config).train(), unpadded("llama")
    family = mp.Family("lfm2", "layers", words="embed_tokens")
    mp.attach(model, mp.PromptTuning(length=4), family=family, seed=0)
    assert fits(model)
    assert shared_loss(model, wrap(model, batch)) is None and not fits(model)
    expected = model(**batch).loss.item()
    losses = mp.train(model, [batch], 1, 1e-2, progress=False).losses
    assert losses == pytest.approx([expected], rel=1e-5)


def test_a_loss_of_two_parts_is_taken_whole():
    """Mixtures of experts may be asked to balance their experts as well."""
    model, batch = zoo.build("mixtral").train(), unpadded("mixtral")
    mp.attach(model, mp.PromptTuning(length=4), seed=0)
    assert fits(model)
    model.config.output_router_logits = True
    assert not fits(model)
    plain = model(**batch).loss
    close(training.loss_of(model, batch), plain)


@pytest.mark.parametrize("name", ["Bart", "MBart", "Marian", "Pegasus"])
@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.PromptTuning(length=3)])
def test_a_loss_that_does_not_shift_the_labels(name, method):
    """The decoder by itself takes labels that stand at the place that answers."""
    hf = pytest.importorskip("transformers")
    config = getattr(hf, f"{name}Config")(
        vocab_size=48, d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32,
        max_position_embeddings=32, pad_token_id=0, decoder_start_token_id=2, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model, batch = getattr(hf, f"{name}ForCausalLM")(config), unpadded("gpt2")
    assert not torch.equal(batch["labels"][:, 1:], batch["labels"][:, :-1])
    mp.attach(model, method, seed=0)
    for question in (0, 4):
        batch["labels"][:, :question] = -100
        plain = model(**wrap(model, batch)).loss
        close(training.loss_of(model, batch), plain)


def test_the_loss_is_looked_at_without_a_word():
    """transformers logs that it does not know the loss of a GPT-2 when it is asked for it."""
    code = """if True:
        import transformers as hf
        from minipeft.training.savings.usual_loss import has_usual_loss
        model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2))
        assert has_usual_loss(model)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loss_type" not in done.stderr, done.stderr


def test_a_loss_of_ones_own_is_taken():
    model, batch = zoo.build("llama"), unpadded("llama", 4)
    mp.attach(model, mp.PromptTuning(length=3), seed=0)
    assert fits(model)

    def doubled(logits, labels, vocab_size, **kwargs):
        return 2 * usual(logits, labels, vocab_size, **kwargs)

    usual, plain = model.loss_function, model(**batch).loss
    model.loss_function = doubled
    assert not fits(model)
    close(training.loss_of(model, batch), 2 * plain)
