"""The exercises of lesson 16: right and wrong answers, and what each wrong one is told."""

from __future__ import annotations

import diagnoses
import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks
from minipeft.checks.exercises.folder_patients import HINTS
from minipeft.course import checkpoints, checkpoints_patients, runs
from minipeft.course.checkpoints import pack_prefix
from minipeft.course.checkpoints_patients import CAUSES, FOLDERS


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- pack_prefix -----------------------------------------------------------------------------------


def by_formula(keys, values):
    """Number [t, ((2 layer + kv) H + h) D + d], one at a time."""
    L, H, P, D = keys.shape
    rows = []
    for t in range(P):
        numbers = []
        for layer in range(L):
            for pair in (keys, values):
                for h in range(H):
                    numbers += [pair[layer, h, t, d] for d in range(D)]
        rows.append(torch.stack(numbers))
    return torch.stack(rows)


def by_cat(keys, values):
    P = keys.shape[2]
    parts = []
    for key, value in zip(keys, values, strict=True):  # (H, P, D)
        parts += [key.transpose(0, 1).reshape(P, -1), value.transpose(0, 1).reshape(P, -1)]
    return torch.cat(parts, dim=1)


def by_einsum(keys, values):
    return torch.einsum("vlhpd->plvhd", torch.stack([keys, values])).reshape(keys.shape[2], -1)


def by_moved_axis(keys, values):
    both = torch.cat([keys.unsqueeze(1), values.unsqueeze(1)], dim=1).movedim(-2, 0)
    return both.contiguous().view(len(both), -1)


def by_filling(keys, values):
    L, H, P, D = keys.shape
    table = keys.new_empty(P, L, 2, H, D)
    table[:, :, 0], table[:, :, 1] = keys.permute(2, 0, 1, 3), values.permute(2, 0, 1, 3)
    return table.view(P, -1)


def by_heads_of_both(keys, values):
    return torch.cat([keys, values], dim=1).permute(2, 0, 1, 3).flatten(1)  # 2 H heads a layer


@pytest.mark.parametrize(
    "right",
    [pack_prefix, by_formula, by_cat, by_einsum, by_moved_axis, by_filling, by_heads_of_both],
)
def test_every_way_to_pack_passes(right, capsys):
    checks.pack_prefix(right)
    assert "✓" in capsys.readouterr().out


def stacked(keys, values, order):
    return torch.stack([keys, values], dim=1).permute(*order)  # of (L, 2, H, P, D)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda k, v: torch.stack([k, v], 1).reshape(k.shape[2], -1), "as they lie"),
        (lambda k, v: torch.stack([k, v]).reshape(k.shape[2], -1), "as they lie"),
        (lambda k, v: pack_prefix(v, k), "values stand before keys"),
        (lambda k, v: stacked(k, v, (3, 1, 0, 2, 4)).flatten(1), "all keys stand before"),
        (lambda k, v: stacked(k, v, (3, 0, 2, 1, 4)).flatten(1), "before key and value"),
        (lambda k, v: stacked(k, v, (3, 2, 0, 1, 4)).flatten(1), "before the layers"),
        (lambda k, v: stacked(k, v, (3, 0, 2, 4, 1)).flatten(1), "number by number"),
        (lambda k, v: stacked(k, v, (3, 0, 1, 4, 2)).flatten(1), "lie apart"),
        (lambda k, v: pack_prefix(k, v).T, "is turned"),
        (lambda k, v: stacked(k, v, (3, 0, 1, 2, 4)), "axes are still there"),
        (lambda k, v: pack_prefix(k, v).flatten(), "one long row"),
        (lambda k, v: k.permute(2, 0, 1, 3).flatten(1), "the values are missing"),
        (lambda k, v: pack_prefix(k, k), "where the values should"),
        (lambda k, v: pack_prefix(k.flip(0), v.flip(0)), "reverse order"),
        (lambda k, v: pack_prefix(k, v).detach(), "cut off from the graph"),
        (lambda k, v: torch.stack([k, v], 1).transpose(0, 3).flatten(1), "change seats"),
        (lambda k, v: stacked(k, v, (3, 2, 1, 0, 4)).flatten(1), "of one head"),
        (lambda k, v: torch.cat([x.reshape(k.shape[2], -1) for x in (k, v)], 1), "each read off"),
        (lambda k, v: torch.cat([k, v], -1).permute(2, 0, 1, 3).flatten(1), "before key and"),
        (lambda k, v: torch.cat([k, v], 2).permute(2, 0, 1, 3).flatten(1), "has shape (14, 30)"),
        (
            lambda k, v: torch.cat(
                [torch.cat(pair).flatten(1) for pair in zip(k, v, strict=True)], 1
            ),
            "has shape (4, 105)",
        ),
        (lambda k, v: pack_prefix(k.half(), v.half()).to(k.dtype), "rounded to float16"),
        (lambda k, v: 2 * pack_prefix(k, v) - pack_prefix(k, v).detach(), "2 times as large"),
        (lambda k, v: 2 * pack_prefix(k, v), ""),
        (lambda k, v: None, "is a return missing"),
    ],
)
def test_a_wrong_way_to_pack_is_told_its_mistake(wrong, words):
    refused(checks.pack_prefix, wrong, words)


def test_it_is_the_table_that_the_library_writes(tmp_path):
    model, _ = tt.load("tiny-decoder-0.1m")
    tuner = mp.attach(model, mp.Prefix(3, hidden=None, compatibility="peft"), seed=0)
    tuner.save(tmp_path)
    table = mp.tuners(model)["default"].named_tensors()
    keys, values = checkpoints.memory_of(tuner, model.config.width)
    settings, shapes = checkpoints.contents(tmp_path)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    assert torch.equal(pack_prefix(keys, values), stored) and table
    assert shapes["prompt_embeddings"] == tuple(stored.shape)
    assert settings["num_virtual_tokens"] == 3


# -- checkpoint_shapes -----------------------------------------------------------------------------


def test_the_shapes_are_those_of_a_llama():
    """Counted in a small Llama with the same widths, heads and 30 layers cut to one."""
    hf = pytest.importorskip("transformers")
    numbers = dict(num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=1)
    sizes = dict(vocab_size=16, hidden_size=576, intermediate_size=16)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**numbers, **sizes)).eval()
    right = checks.checkpoint_shapes.right
    with runs.attached(model, mp.LoRA(rank=8, targets=("value",))) as tuner:
        ((_, patch),) = tuner.patches
        assert (tuple(patch.A.shape), tuple(patch.B.shape)) == (right["A"], right["B"])
    with runs.attached(model, mp.Prefix(10, hidden=None)) as tuner:
        keys, _ = checkpoints.memory_of(tuner, 576)
        assert tuple(keys.shape) == right["keys"]
        assert right["table"] == (10, tuner.report().stored // 10 * 30)


@pytest.mark.parametrize("form", [tuple, list, torch.Size, torch.tensor])
def test_the_right_shapes_in_any_form(form):
    right = checks.checkpoint_shapes.right
    checks.checkpoint_shapes({key: form(shape) for key, shape in right.items()})


@pytest.mark.parametrize(("answer", "words"), checks.checkpoint_shapes.wrong)
def test_a_wrong_shape_is_told_where_it_comes_from(answer, words):
    refused(checks.checkpoint_shapes, checks.checkpoint_shapes.right | answer, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"keys": 1920}, "should be a shape"),
        ({"table": (10, 11521)}, "another size"),
        ({"A": (8, 576, 1)}, "2 axes"),
        ({"B": None}, "should be a shape"),
    ],
)
def test_other_shapes_are_refused_in_words(answer, words):
    refused(checks.checkpoint_shapes, checks.checkpoint_shapes.right | answer, words)


# -- folder_patients -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-decoder-0.1m", "tiny-decoder-0.4m"])
def test_every_folder_shows_its_fault(name):
    model, tokenizer = tt.load(name)
    before = mp.fingerprint(model)
    batch = runs.rows_of(mp.tasks.load("reverse"), "dev", tokenizer, model, rows=4)
    seen = {
        cause: checkpoints_patients.examine(model, batch, who) for who, cause in FOLDERS.items()
    }
    assert mp.fingerprint(model) == before and not mp.tuners(model)
    assert set(seen) == set(CAUSES)
    assert {c for c, s in seen.items() if s["taken"] < s["in file"]} == {"names"}
    assert {c for c, s in seen.items() if s["change"] == 0} == {"names", "early"}
    assert {c for c, s in seen.items() if abs(s["change"] - 1) < 1e-6} == {"healthy", "base"}
    assert seen["scale"]["change"] == pytest.approx(
        checkpoints_patients.RANK / checkpoints_patients.ALPHA
    )
    assert {c for c, s in seen.items() if s["author"]} == {"healthy"}
    assert {c for c, s in seen.items() if s["bare"]} == {"names", "early"}
    assert {c for c, s in seen.items() if not s["base"]} == {"base"}


def test_the_library_refuses_what_it_can_see():
    model, _ = tt.load("tiny-decoder-0.1m")
    says = {cause: checkpoints_patients.library_says(model, cause) for cause in CAUSES}
    assert "no linear map of this model" in says["names"] and "another base" in says["base"]
    assert says["healthy"] == says["early"] == says["scale"] == "opened"


@pytest.mark.parametrize("form", [str, str.upper, lambda cause: f" {cause}. "])
def test_the_right_diagnosis_in_any_form(form):
    checks.folder_patients({who: form(cause) for who, cause in FOLDERS.items()})


@pytest.mark.parametrize(("who", "cause"), HINTS)
def test_every_wrong_cause_is_answered_by_what_can_be_seen(who, cause):
    refused(checks.folder_patients, {**FOLDERS, who: cause}, HINTS[who, cause])


def test_there_is_a_hint_for_every_wrong_cause():
    diagnoses.assert_complete(FOLDERS, HINTS, CAUSES)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("names", "should be a dict"),
        ({"A": "early"}, "has no"),
        (FOLDERS | {"A": "slow"}, "should be one of"),
        (None, "is a return missing"),
    ],
)
def test_other_answers_are_refused_in_words(answer, words):
    refused(checks.folder_patients, answer, words)
