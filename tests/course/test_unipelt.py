"""Lesson 11: changes of h by their formulas, gates held and left out, its tasks and patients."""

import pytest
import torch
from closeness import close

import minipeft as mp
from minipeft.course import runs
from minipeft.course import unipelt as lesson
from minipeft.course.prefix import prefix_share
from minipeft.methods.parts.gates import gates


@pytest.fixture(scope="module")
def tagger():
    """(model, tokenizer, batch) with a tagging head."""
    tags = mp.tasks.load("tags")
    model, tokenizer = runs.base("tiny-encoder", "tagging", len(tags.labels))
    feed = tags.batches("train", tokenizer, "encoder", batch_size=8, head="tagging")
    return model, tokenizer, feed(0)


def test_every_method_is_a_change_of_h():
    pairs = lesson.changes()
    assert set(pairs) == set(lesson.FORMULAS)
    for by_formula, of_package in pairs.values():
        assert of_package.dtype == torch.float64 and of_package.abs().max() > 0.01
        close(by_formula, of_package)
    assert [row[0] for row in lesson.changes_table().rows] == list(lesson.FORMULAS)


def test_tags_move_and_the_first_comes_behind_the_last():
    task = mp.tasks.make("t", "tag", labels=("x", "y", "z"), train=[("a b c", "x y z")])
    assert lesson.moved(task, 2).train[0].target == "z x y"
    assert lesson.moved(task, 3).train[0] == task.train[0]
    tags = mp.tasks.load("tags")
    for split in ("train", "dev", "test", "ood"):
        pairs = zip(tags.examples(split), lesson.moved(tags, 2).examples(split), strict=True)
        for one, other in pairs:
            assert one.input == other.input
            assert sorted(one.target.split()) == sorted(other.target.split())


def test_examples_are_drawn_anew_for_every_seed():
    tags = mp.tasks.load("tags")
    one, again, other = (lesson.drawn(tags, 32, seed) for seed in (0, 0, 1))
    assert one.train == again.train != other.train
    assert len(one.train) == 32 and set(one.train) <= set(tags.train)
    assert one.test == tags.test and one.labels == tags.labels
    assert lesson.drawn(tags, 0, 1).train == tags.train


def test_constant_gates_are_gates_that_are_held(tagger):
    """The same numbers, the same answer, and no gate is trained."""
    model, _, batch = tagger
    logits, trained = [], []
    for method in (mp.UniPELT(), lesson.Fixed(gate=0.3)):
        with runs.attached(model, method, seed=0) as tuner, torch.no_grad():
            # a gate draws its numbers too, so that the parts are drawn alike here
            generator = torch.Generator().manual_seed(0)
            for patch in lesson.gated(tuner):
                for p in patch.inner.parameters():
                    p.copy_(0.2 * torch.randn(p.shape, generator=generator))
            with lesson.held(tuner, 0.3):
                logits.append(model.eval()(**batch).logits)
            values = lesson.gate_values(model, tuner, batch)
            assert len(values) == 3 * model.config.layers
            assert all(v.shape == (len(batch["input_ids"]),) for v in values.values())
            trained.append(sum(p.numel() for p in tuner.parameters()))
            if isinstance(method, lesson.Fixed):
                assert all(torch.allclose(v, torch.tensor(0.3)) for v in values.values())
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    layers, C = model.config.layers, model.config.width
    assert trained[0] - trained[1] == 3 * layers * (C + 1)


def test_a_union_without_gates_has_the_numbers_of_its_parts(tagger):
    model, _, _ = tagger
    counts = []
    for method in (lesson.Fixed(), lesson.without_gates(mp.UniPELT())):
        with runs.attached(model, method, seed=0) as tuner:
            counts.append(sum(p.numel() for p in tuner.parameters()))
    assert counts[0] == counts[1]
    without = lesson.without_gates(mp.UniPELT(length=0))
    assert [type(part) for part in without.methods] == [mp.LoRA, mp.Adapter]
    assert without.methods[0].alpha / without.methods[0].rank == 2


def test_gates_are_put_back_and_a_shut_prefix_still_gets_attention(tagger):
    model, _, batch = tagger
    with runs.attached(model, mp.UniPELT(length=10), seed=0) as tuner:
        before = [p.clone() for gate in gates(tuner).values() for p in gate.parameters()]
        for number in (0.0, 1.0, 0.25):
            with lesson.held(tuner, number):
                values = lesson.gate_values(model, tuner, batch)
                assert all(torch.allclose(v, torch.tensor(number)) for v in values.values())
        with lesson.held(tuner, 0.0, "LoRA"):
            for name, said in lesson.gate_values(model, tuner, batch).items():
                assert (said.max() == 0) == name.startswith("LoRA")
        with lesson.held(tuner, 0.0):
            share = prefix_share(model, tuner, batch)
        after = [p for gate in gates(tuner).values() for p in gate.parameters()]
        assert all(map(torch.equal, before, after))
    assert share.shape == (model.config.layers, model.config.heads) and share.min() > 0.01
    switched = lesson.switched({"a": torch.tensor([0.05, 0.5]), "b": torch.tensor([0.95, 0.11])})
    assert switched == 0.5
    said = {"LoRA 0": torch.tensor([0.2, 0.4]), "LoRA 1": torch.tensor([0.6, 0.8])}
    assert lesson.level(said | {"prefix 0": torch.ones(2)}, "LoRA") == pytest.approx(0.5)


def test_every_patient_shows_its_symptom_and_leaves_the_base_alone(tagger):
    model, _, batch = tagger
    bits = mp.fingerprint(model)
    seen = {fault: lesson.examine(model, batch, who, 8) for who, fault in lesson.PATIENTS.items()}
    assert mp.fingerprint(model) == bits and not hasattr(model, "minipeft")
    assert seen["rounded"]["gates"][0] in (0, 1) and seen["rounded"]["gates"][1] == 1
    low, high = seen["detached"]["gates"]
    assert 0.3 < low < high < 0.7
    for fault, symptoms in seen.items():
        assert (symptoms["gradient"] == 0) == (fault in ("rounded", "detached"))
        assert (symptoms["padding"] > 0.01) == (fault == "padding")
        assert (symptoms["shut"] > 0.01) == (fault == "outside")


def test_gates_as_a_picture():
    from minipeft.course.unipelt_pictures import gates_picture, spread_of, unified_picture

    values = {f"{kind} {layer}": torch.tensor([0.4, 0.6]) for kind in ("LoRA", "adapter", "prefix")
              for layer in (0, 1)}  # fmt: skip
    values["LoRA 1"] = torch.tensor([0.9, 0.9])
    values |= {f"prefix {layer}": torch.tensor([0.0, 0.2]) for layer in (0, 1)}  # low in all layers
    of_input, of_layers = spread_of(values)
    assert of_input == pytest.approx(0.2 * 5 / 6) and of_layers == pytest.approx(0.4 / 3)
    for tasks in (["task"], ["task", "other"]):
        figure = gates_picture({task: [values, values] for task in tasks}, "a caption")
        assert figure.axes[0].get_ylim() == pytest.approx((-0.05, 1.05))
        assert [axes.get_ylabel() for axes in figure.axes] == ["gate g", ""][: len(tasks)]
    assert [axes.get_title() for axes in unified_picture().axes][0] == "prefix"
