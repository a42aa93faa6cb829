"""Files: what was saved comes back, and whatever is damaged, unsafe or foreign is refused."""

import json
import os
import pickle
import random
import shutil

import pytest
import torch
import zoo
from closeness import close
from safetensors.torch import load_file, save_file

import minipeft as mp
from minipeft.commands import options
from minipeft.files.saving import method_class, read, read_tensors
from minipeft.model.fingerprint import identity, same_base

METHODS = {
    "lora": mp.LoRA(rank=2, alpha=4, dropout=0.1),
    "stabilized": mp.LoRA(rank=3, targets=("query", "down"), rank_stabilized=True),
    "ranks": mp.LoRA(rank=2, targets=("query", "value", "up"), ranks={"value": 3, "up": 1}),
    "layers": mp.LoRA(rank=2, targets=("output",), layers=(1,)),
    "whole": mp.LoRA(rank=2, targets=("qkv", "output"), alphas={"qkv": 5}),
    "full": mp.FullFineTuning(),
    "top": mp.TopLayers(1),
    "head": mp.HeadOnly(),
}
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "bert", "t5", "glm4", *zoo.TINY])
@pytest.mark.parametrize("method", METHODS)
def test_round_trip(tmp_path, name, method):
    head = "classification" if name in ("bert", "tiny-encoder") else "language"
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    tuner = mp.attach(model, METHODS[method], name="a", seed=0)
    zoo.shake(tuner)
    expected, report = zoo.logits(model, batch), tuner.report()
    tuner.save(tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a")) == [CONFIG, TENSORS]
    tuner.detach()
    tuner = mp.load(model, tmp_path / "a", name="b")
    # parts of unequal scale are stored with their ratio folded into B: one rounding
    if method == "ranks":
        close(zoo.logits(model, batch), expected)
    else:
        assert torch.equal(zoo.logits(model, batch), expected)
    assert tuner.method == METHODS[method]
    again = tuner.report()
    assert (again.trainable, again.head, again.stored) == (
        *(report.trainable, report.head, report.stored),
    )
    assert all(p.requires_grad for p in tuner.parameters())
    mp.train(model, [batch], 1, progress=False)  # and it can be trained on


@pytest.mark.parametrize("kind", [mp.Prefix, mp.PTuningV2, mp.PromptTuning, mp.PTuning])
def test_a_setting_is_understood_by_its_name_in_version_0_1(kind):
    new, old = kind(length=3, compatibility="peft"), kind(length=3, layout="peft")
    assert old == new and old.layout == "peft" and "layout" not in old.settings()
    assert kind.from_settings({"length": 3, "layout": "peft"}, None) == new
    assert kind.from_settings(new.settings(), None) == new
    assert options.from_text(f"{kind.__name__}:length=3;layout=peft") == new
    for flag in ("--layout", "--compatibility"):
        parser = options.Parser()
        options.add_flags(parser, kind)
        assert options.settings(parser.parse_args([flag, "peft"])) == {"compatibility": "peft"}
    with pytest.raises(TypeError, match="old name of compatibility"):
        kind(length=3, layout="peft", compatibility="peft")


def test_a_combined_is_together_in_version_0_1():
    assert mp.Together is mp.Combined and method_class("Together") is mp.Combined


def test_a_second_load_needs_another_name(tmp_path):
    model = zoo.build("gpt2")
    mp.attach(model, mp.LoRA(), name="a").save(tmp_path)
    with pytest.raises(ValueError, match="already has a tuner named 'a'"):
        mp.load(model, tmp_path, name="a")
    mp.load(model, tmp_path, name="b")
    assert list(mp.tuners(model)) == ["a", "b"]


def test_merged_and_disabled_tuners_save_the_same(tmp_path):
    for method in (mp.LoRA(), mp.FullFineTuning()):
        model = zoo.build("gpt2")
        tuner = mp.attach(model, method, seed=0)
        zoo.shake(tuner)
        tuner.save(tmp_path / "enabled")
        tuner.disable().save(tmp_path / "disabled")
        tuner.enable().merge().save(tmp_path / "merged")
        kept = [
            (metadata, {key: tensor.tolist() for key, tensor in tensors.items()})
            for metadata, tensors in (
                read_tensors(tmp_path / state / TENSORS)
                for state in ("enabled", "disabled", "merged")
            )
        ]
        assert kept[0] == kept[1] == kept[2]


# ---- refused ----


@pytest.fixture
def saved(tmp_path):
    model = zoo.build("gpt2")
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("qkv", "up")), seed=0)
    zoo.shake(tuner)
    tuner.save(tmp_path / "x")
    tuner.detach()
    return model, tmp_path / "x"


def refused(model, folder, sentence, error=ValueError, **options):
    modules = list(model.modules())
    with pytest.raises(error, match=sentence) as caught:
        mp.load(model, folder, **options)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text, "one sentence"
    assert mp.tuners(model) == {} and list(model.modules()) == modules
    assert all(p.requires_grad for p in model.parameters())


def stranger(folder, change=None, settings=None, metadata=None):
    """The folder as if another library had written it: no metadata of ours, tensors changed."""
    tensors = load_file(folder / TENSORS)
    if change:
        tensors = change(tensors)
    save_file(tensors, folder / TENSORS, metadata=metadata or {"format": "pt"})
    config = json.loads((folder / CONFIG).read_text()) | (settings or {})
    (folder / CONFIG).write_text(json.dumps(config))


def test_missing_files(saved, tmp_path):
    model, folder = saved
    refused(model, tmp_path / "nowhere", "no folder", FileNotFoundError)
    os.rename(folder / TENSORS, folder / "away")
    refused(model, folder, f"has no {TENSORS}", FileNotFoundError)
    os.unlink(folder / CONFIG)
    refused(model, folder, f"has no {CONFIG}", FileNotFoundError)


def test_pickles_are_never_opened(saved):
    model, folder = saved

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(folder / "exploded"),)

    os.unlink(folder / TENSORS)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(model, folder, "is a pickle, which can run any program")
    os.rename(folder / "adapter_model.bin", folder / TENSORS)  # under a name that looks safe
    refused(model, folder, "is not a whole safetensors file")
    assert not (folder / "exploded").exists()


def test_truncated_files(saved):
    model, folder = saved
    whole = (folder / TENSORS).read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / TENSORS).write_bytes(whole[:length])
        refused(model, folder, "is not a whole safetensors file")
    (folder / TENSORS).write_bytes(whole)
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text[: len(text) // 2])
    refused(model, folder, "is not JSON")


@pytest.mark.parametrize("file", [TENSORS, CONFIG])
def test_any_flipped_bit_is_seen(saved, file):
    model, folder = saved
    whole = (folder / file).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    if file == TENSORS:  # many bits of the header, some of the numbers
        bits = [rng.randrange(8 * header) for _ in range(250)]
        bits += [rng.randrange(8 * header, 8 * len(whole)) for _ in range(50)]
    else:
        bits = [rng.randrange(8 * len(whole)) for _ in range(250)]
    provenance = [b"base_model_name", b"auto_mapping", b"inference_mode", b"revision", b"task_type"]
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (folder / file).write_bytes(damaged)
        try:
            mp.load(model, folder).detach()
        except ValueError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
        except FileNotFoundError:
            raise AssertionError("a flipped bit is no missing file") from None
        else:  # where a file comes from may be edited: it decides nothing
            line = whole[whole.rfind(b"\n", 0, bit // 8) : whole.find(b"\n", bit // 8)]
            assert file == CONFIG and any(word in line for word in provenance), line


def test_a_changed_setting_is_seen(saved):
    model, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"lora_alpha": 17}))
    refused(model, folder, "does not match its content hash")
    (folder / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "elsewhere"}))
    mp.load(model, folder)


def test_tensors_of_one_file_with_the_settings_of_another(saved, tmp_path):
    model, folder = saved
    mp.attach(model, mp.LoRA(rank=2, alpha=3, targets=("qkv", "up"))).save(tmp_path / "y")
    mp.tuners(model)["default"].detach()
    shutil.copy(tmp_path / "y" / CONFIG, folder / CONFIG)
    refused(model, folder, "does not match its content hash")


def test_a_newer_form_and_unknown_methods(saved, monkeypatch):
    model, folder = saved
    import minipeft.files.saving as files

    tuner = mp.load(model, folder)
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT_VERSION", 2)
        tuner.save(folder)
    tuner.detach()
    refused(model, folder, "written by a newer minipeft")
    stranger(folder, settings={"peft_type": "OFT"})
    refused(model, folder, "holds a OFT tuner, a method that this version does not know")
    stranger(folder, settings={"peft_type": "MINIPEFT"})
    refused(model, folder, "no method that minipeft knows")
    stranger(folder, settings={"peft_type": None})
    refused(model, folder, "does not name a peft_type")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(use_dora=True), "is a DoRA by its settings, but .* has no lora_magnitude_vector"),
        (
            dict(use_dora=True, init_lora_weights="pissa"),
            "use_dora=True and init_lora_weights='pissa', each of which is known alone",
        ),
        (dict(use_qalora=True), "use_qalora=True, which groups the inputs"),
        (dict(bias="some"), "bias='some', which PEFT does not know"),
        (
            dict(bias="all", lora_bias=True),
            "lora_bias=True and bias='all', each of which is known alone",
        ),
        (dict(layer_replication=[[0, 2]]), "builds a deeper model out of .* open it with PEFT"),
        (dict(setting_of_2031=[1]), r"setting_of_2031=\[1\]"),
        (dict(init_lora_weights="pissa_niter_4"), "changes the base"),
        (dict(rank_pattern={"c_fc": 5}), "has rank 2 in the tensors, but .* says 5"),
        (dict(rank_pattern={"(": 5}), "broken pattern"),
        (dict(r="2"), "r='2'"),
        (dict(lora_alpha=0), "alpha must be a positive number"),
        (dict(lora_dropout=2.0), "dropout must be"),
        (dict(lora_dropout="much"), "dropout must be at least 0 and below 1, not 'much'"),
        (dict(alpha_pattern={"c_fc": "x"}), "alpha must be a positive number, not 'x'"),
        (dict(rank_pattern=[1]), "are no dict"),
    ],
)
def test_a_strangers_settings(saved, settings, sentence):
    model, folder = saved
    stranger(folder, settings=settings)
    refused(model, folder, sentence)


KEY = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"


def put(key, value):
    return lambda tensors: {**tensors, key: value}


@pytest.mark.parametrize(
    "change, sentence",
    [
        (put(KEY, torch.zeros(2, 17)), r"maps 16 features to 48, but the file has A \(2, 17\)"),
        (put(KEY, torch.zeros(3, 16)), "belongs to another base"),
        (put(KEY, torch.zeros(2)), "belongs to another base"),
        (put(KEY, torch.full((2, 16), torch.nan)), "not finite"),
        (put(KEY, torch.full((2, 16), -torch.inf)), "not finite"),
        (put(KEY, torch.zeros(2, 16, dtype=torch.int64)), "holds torch.int64"),
        (lambda t: {k: v for k, v in t.items() if k != KEY}, "has no meaning or no partner"),
        (lambda t: {}, "is not a plain LoRA"),
        (put("other.weight", torch.zeros(1)), "none of PEFT's LoRA names"),
        (put("base_model.model.nowhere.weight", torch.zeros(1)), "nowhere, which is not there"),
        (put(KEY.replace("h.0", "h.9"), torch.zeros(2, 16)), "no partner"),
        (put(KEY.replace("lora_A", "lora_magnitude"), torch.zeros(2)), "not a plain LoRA"),
        (
            lambda t: {k.replace("h.1", "h.7"): v for k, v in t.items()},
            "adapts transformer.h.7.attn.c_attn, which is no linear map of this model",
        ),
        (
            put("base_model.model.lm_head.weight", torch.zeros(5, 16)),
            r"lm_head.weight has shape \(5, 16\) in the file but \(48, 16\)",
        ),
    ],
)
def test_a_strangers_tensors(saved, change, sentence):
    model, folder = saved
    stranger(folder, change)
    refused(model, folder, sentence)


def test_a_strangers_good_file_is_opened(saved):
    model, folder = saved
    batch = zoo.batch("gpt2")
    expected = zoo.logits(model, batch)
    tuner = mp.load(model, folder)
    ours = zoo.logits(model, batch)
    tuner.detach()
    stranger(folder, metadata={"format": "pt", "written": "elsewhere"})
    mp.load(model, folder)
    assert torch.equal(zoo.logits(model, batch), ours) and not torch.equal(ours, expected)


def test_a_layout_of_ours_without_what_we_wrote_about_it(tmp_path):
    model = zoo.build("gpt2")
    tuner = mp.attach(model, mp.Adapter(bottleneck=2))
    tuner.save(tmp_path / "a")
    tuner.detach()
    stranger(tmp_path / "a")
    refused(model, tmp_path / "a", "have lost what was written beside them")
    with pytest.raises(ValueError, match="have lost what was written beside them"):
        read(tmp_path / "a")  # all that the command line looks at


def test_another_base_is_refused(saved):
    model, folder = saved
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight[3, 5] += 1e-6
    refused(model, folder, "trained on another base")
    mp.load(model, folder, any_base=True)
    refused(zoo.build("gpt2", seed=1), folder, "trained on another base")
    refused(zoo.build("gpt2", layers=3), folder, "trained on another base")
    refused(zoo.build("bert"), folder, "trained on another base")
    refused(zoo.build("bert"), folder, "no linear map|belongs to|matches nothing", any_base=True)


def test_a_trained_or_merged_base_is_still_the_same_base(saved, tmp_path):
    model, folder = saved
    before = identity(model)
    full = mp.attach(model, mp.FullFineTuning(), name="full")
    zoo.shake(full)
    lora = mp.attach(model, mp.LoRA(targets="up"), name="lora", seed=0)
    zoo.shake(lora)
    lora.save(tmp_path / "unmerged")
    assert identity(model) == before
    full.disable()
    assert identity(model) == before
    lora.merge()
    assert identity(model) == before
    mp.load(model, folder, name="other")


def test_a_base_in_half_precision_is_recognised(saved):
    model, folder = saved
    known = identity(model)
    assert same_base(model, known)
    half = zoo.build("gpt2").half()
    brain = zoo.build("gpt2").bfloat16()
    mp.load(half, folder), mp.load(brain, folder)
    assert same_base(zoo.build("gpt2").bfloat16().float(), identity(zoo.build("gpt2").bfloat16()))
    refused(zoo.build("gpt2", seed=1).bfloat16(), folder, "trained on another base")


def test_a_random_task_head_does_not_make_another_base(tmp_path):
    model, batch = zoo.build("gpt2", "classification"), zoo.batch("gpt2", "classification")
    tuner = mp.attach(model, mp.LoRA(), seed=0)
    zoo.shake(tuner)
    tuner.save(tmp_path)
    expected = zoo.logits(model, batch)
    tuner.detach()
    torch.nn.init.normal_(model.score.weight)
    mp.load(model, tmp_path)
    assert torch.equal(zoo.logits(model, batch), expected)


def test_fingerprint_sees_one_bit_and_looks_through_doors():
    model = zoo.build("gpt2")
    before = mp.fingerprint(model)
    tuner = mp.attach(model, mp.LoRA(), seed=0)
    zoo.shake(tuner)
    assert mp.fingerprint(model) == before
    tuner.merge()
    assert mp.fingerprint(model) != before
    tuner.detach()
    assert mp.fingerprint(model) == before
    weight = model.transformer.ln_f.bias.data
    weight.view(torch.int32)[3] ^= 1
    assert mp.fingerprint(model) != before
    weight.view(torch.int32)[3] ^= 1
    assert mp.fingerprint(model.bfloat16()) != before


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    model, folder = saved
    import tiny_transformer.files as writing

    old = (folder / TENSORS).read_bytes()
    tuner = mp.load(model, folder)
    zoo.shake(tuner)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "tensors_as_bytes", fail)
        with pytest.raises(OSError, match="disk full"):
            tuner.save(folder)
    assert (folder / TENSORS).read_bytes() == old
    assert sorted(os.listdir(folder)) == [CONFIG, TENSORS]


@pytest.mark.parametrize(
    ("name", "head", "target"),
    [
        ("tiny-decoder", "language", "head.words"),
        ("tiny-encoder", "classification", "head.pooler"),
        ("roberta", "classification", "classifier.dense"),
        ("llama", "classification", "score"),
    ],
)
def test_an_adapter_on_a_map_of_the_head_is_no_head(name, head, target, tmp_path):
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    tuner = mp.attach(model, mp.LoRA(rank=3, targets=(target,)), head=False)
    zoo.shake(tuner)
    tuner.save(tmp_path)
    again = zoo.build(name, head)
    mp.load(again, tmp_path)
    close(zoo.logits(again, batch), zoo.logits(model, batch))
