"""Lesson 13's measurements: bytes predicted and measured, layers run again, four bits."""

from __future__ import annotations

import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft.course import four_bits, memory, runs
from minipeft.methods.parts.quantization import Quantized

WAYS = {
    "full": mp.FullFineTuning(),
    "LoRA": mp.LoRA(rank=8),
    "LoRA on all maps": mp.LoRA(rank=8, targets=("all-linear",)),
}


def decoder(width=32, heads=4, layers=3, vocab=50):
    numbers = dict(vocab_size=vocab, width=width, heads=heads, layers=layers, positions=64)
    return tt.Decoder(tt.TransformerConfig.gpt2(**numbers, dropout=0.0)).eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("width", "heads", "layers"), [(32, 4, 3), (48, 2, 1)])
def test_activations_are_predicted_to_the_byte(way, width, heads, layers):
    model = decoder(width, heads, layers)
    for rows, tokens in ((1, 7), (3, 16)):
        seen = memory.footprint(model, WAYS[way], rows, tokens)
        assert seen.activations == memory.activations(model.config, way, rows, tokens)


def test_the_other_heaps_are_predicted_to_the_byte_and_the_peak_nearly():
    model = decoder(vocab=600)
    before = mp.fingerprint(model)
    for way, method in WAYS.items():
        seen = memory.footprint(model, method, 8, 32)
        with runs.attached(model, method, seed=0):
            guess = memory.predicted(model, way, 8, 32)
        for part in ("weights", "gradients", "adam", "activations"):
            assert guess[part] == vars(seen)[part]
        assert abs(guess["peak"] / seen.peak - 1) < 0.02
    assert mp.fingerprint(model) == before and not model.gradient_checkpointing


def test_the_allocator_sees_a_tensor_come_and_go():
    def step():
        with memory.record_function("forward"):
            x = torch.ones(1000)
        with memory.record_function("backward"):
            x = x.neg()
        with memory.record_function("optimizer"):
            del x

    with memory.recorded() as record:
        step()
    levels = memory.levels(record)
    assert levels["forward"][-1] == 4000
    assert max(levels["backward"]) == 8000 and levels["backward"][-1] == 4000
    assert levels["optimizer"][-1] == 0


def test_where_the_peak_lies_in_words():
    levels = {"forward": [1, 2], "backward": [9, 3, *[1] * 20], "optimizer": []}
    seen = memory.Footprint(10, 0, 5, 0, levels)
    assert seen.peak == 24 and seen.summit == "at the beginning of the backward pass"


def test_layers_that_run_again_keep_less():
    model = decoder(layers=4)
    plain, again = (memory.footprint(model, WAYS["LoRA"], 8, 32, again=a) for a in (False, True))
    assert again.activations < plain.activations / 2 and again.peak < plain.peak


def test_mixed_precision_is_sixteen_bytes_for_every_number():
    model = decoder().bfloat16()
    N = sum(p.numel() for p in model.parameters())
    batch = memory.random_batch(model.config, 2, 8)
    full = memory.mixed_precision(model, WAYS["full"], batch)
    del full["activations"]
    assert list(full.values()) == [2 * N, 2 * N, 4 * N, 8 * N]
    with runs.attached(model, WAYS["LoRA"], seed=0) as tuner:
        n = tuner.report().trainable
    lora = memory.mixed_precision(model, WAYS["LoRA"], batch)
    del lora["activations"]
    assert sum(lora.values()) == 2 * N + 16 * n
    assert all(p.grad is None for p in model.parameters())


def test_each_of_the_five_runs_shows_its_fault():
    table = memory.runs_of_one_step()
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    plain = rows["without"]
    of = {cause: rows[name] for name, cause in memory.CHECKPOINTED.items()}
    peak, behind = "MB at the peak", "MB behind the forward"
    calls, missing = "calls of the first layer", "tensors without a gradient"
    assert len({row["loss"] for row in rows.values()}) == 1
    assert float(of["healthy"][peak]) < float(plain[peak]) / 2 and of["healthy"][calls] == 2
    assert float(of["one piece"][peak]) >= float(plain[peak]) and of["one piece"][calls] == 2
    assert float(of["one piece"][behind]) < float(of["healthy"][behind])
    assert of["reentrant"][missing] == "16 of 18" and of["reentrant"][calls] == 1
    assert of["random"]["gradients off by"] != "0 %" and of["random"][calls] == 2
    assert {k: v for k, v in of["unread"].items() if k != "run"} == {
        k: v for k, v in plain.items() if k != "run"
    }
    fine = [cause for cause, row in of.items() if row["gradients off by"] == "0 %"]
    assert sorted(fine) == ["healthy", "one piece", "reentrant", "unread"]


def test_the_large_ledger_follows_from_the_sizes():
    transformers = pytest.importorskip("transformers")
    numbers = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=3)
    config = transformers.LlamaConfig(**numbers, num_attention_heads=4, num_key_value_heads=2)
    table = memory.large_ledger(config, rows=4, tokens=8, rank=2)
    rows = {row[0]: row[1:] for row in table.rows}
    assert len(rows) == 6 and rows["numbers in training"][1] == rows["numbers in training"][2]
    assert rows["weights, frozen and new"][0] == f"{2 * parameters(config) / 1e6:,.1f} MB"


def parameters(config):
    import transformers

    return sum(p.numel() for p in transformers.LlamaForCausalLM(config).parameters())


# -- four bits -------------------------------------------------------------------------------------


def test_the_error_is_relative_and_nf4_is_best_on_normal_numbers():
    normal, uniform = four_bits.drawn("normal", 0), four_bits.drawn("uniform", 0)
    errors = {kind: four_bits.relative_error(normal, kind) for kind in four_bits.NAMES}
    assert min(errors, key=errors.get) == "nf4"
    assert four_bits.relative_error(1000 * normal, "nf4") == pytest.approx(errors["nf4"], rel=1e-3)
    even = {kind: four_bits.relative_error(uniform, kind) for kind in four_bits.NAMES}
    assert min(even, key=even.get) == "int4"


def test_a_file_has_the_bits_of_the_formula(tmp_path):
    weights = {f"{i}": torch.randn(512, 512) for i in range(4)}
    assert four_bits.file_bits(weights, tmp_path, double=False) == pytest.approx(4.5, abs=0.01)
    formula = 4 + 8 / 64 + 32 / (64 * 256)
    assert four_bits.file_bits(weights, tmp_path) == pytest.approx(formula, abs=0.01)


def test_maps_of_blocks_and_their_scaled_weights():
    model = decoder(layers=2)
    weights = four_bits.block_maps(model)
    assert len(weights) == 12 and all(path.startswith("blocks.") for path in weights)
    scaled = four_bits.scaled(list(weights.values()))
    assert scaled.abs().max() == 1 and scaled.abs().view(-1, 64).amax(dim=1).min() == 1


def test_weights_are_rounded_for_the_moment_only():
    model = decoder(layers=1)
    before = mp.fingerprint(model)
    W = model.blocks[0].feed_forward.up.weight
    right = Quantized(W).weight()
    assert four_bits.rounded(
        model, lambda w: Quantized(w).weight(), lambda: bool((right == W).all())
    )
    assert mp.fingerprint(model) == before

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        four_bits.rounded(model, torch.zeros_like, fails)
    assert mp.fingerprint(model) == before


def test_a_tuned_model_and_its_fates():
    pair, task = runs.base("tiny-decoder-0.1m"), mp.tasks.load("reverse")
    before = mp.fingerprint(pair[0])
    result = four_bits.tuned(pair, mp.QLoRA(rank=2), task, 1e-2, 2, 0, rows=6)
    assert set(result) == {"dev", "test", "original", "merged", "bf16", "again"}
    result = four_bits.tuned(pair, mp.LoRA(rank=2), task, 1e-2, 2, 0, rows=6)
    assert "original" not in result
    assert mp.fingerprint(pair[0]) == before


def test_losses_of_pieces_are_those_of_the_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    numbers = dict(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    model = LlamaForCausalLM(LlamaConfig(**numbers, num_attention_heads=2)).eval()
    ids = torch.randint(40, (5, 9))
    losses = four_bits.piece_losses(model, ids, at_once=2)
    for row, loss in zip(ids, losses, strict=True):
        assert model(input_ids=row[None], labels=row[None]).loss.item() == pytest.approx(loss)
    assert four_bits.perplexity([0.0, 0.0]) == 1
    before = mp.fingerprint(model)
    results = four_bits.in_four_bits(model, ["nf4"], ids)["nf4"]
    assert results["losses"] != losses and mp.fingerprint(model) == before
    quantized = [Quantized(w) for w in four_bits.block_maps(model).values()]
    assert results["bytes"] == sum(q.stored_bytes() for q in quantized)


def test_texts_are_there_and_cut_into_pieces():
    class Letters:
        def __call__(self, text, return_tensors):
            return {"input_ids": torch.tensor([[ord(letter) for letter in text]])}

    for text in four_bits.texts().values():
        assert len(text) > 4000
        ids = four_bits.pieces(Letters(), text, 10)
        assert ids.shape == (10, 96) and ids[1, 0] == ord(text[96])


def test_ratios_of_time_are_positive():
    assert all(ratio > 0 for ratio in four_bits.slower(1, 2, 16, 32))
