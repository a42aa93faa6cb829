"""Runs that go on: a finished one with more steps, and one that begins with an adapter."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

import minipeft as mp
import tiny_transformer as tt
from minipeft.commands import cards, fitting, longer, runs, train
from minipeft.files import saving

FEW = ("--steps", 3, "--batch-size", 4, "--dev-limit", 6, "--validate-every", 1)
BASE = ("train", "--base", "tiny-decoder-0.1m", "--data", "reverse")


def result_of(folder):
    return json.loads(Path(folder, "result.json").read_text())


def losses_of(folder):
    log = [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in log if "loss" in line]


def same_tensors(one, other):
    one, other = saving.read(Path(one))[1], saving.read(Path(other))[1]
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "method",
    [
        ("lora", "--dropout", "0.1"),
        ("prefix", "--length", 2, "--hidden", 4),
        ("adalora",),
        ("fullfinetuning",),  # changes the base itself
        ("toplayers", "--count", 1),
    ],
)
def test_a_finished_run_is_made_longer(cli, method):
    done = cli(*BASE, *FEW, "--method", *method, "--out", "r", "--learning-rate", 1e-2)
    assert done.code == 0, done.err
    first = losses_of("r")
    assert "--steps 6" in cli("train", "--resume", "r").out  # finished: what to say
    again = cli("train", "--resume", "r", "--steps", 3)
    assert again.code == 2 and "has 3 steps already" in again.err
    done = cli("train", "--resume", "r", "--steps", 8)
    assert done.code == 0 and "steps 4 to 8" in done.out, done.err
    assert len(losses_of("r")) == 8 and losses_of("r")[:3] == first
    assert not Path("r/earlier.json").exists() and not Path("r/checkpoint").exists()
    config = json.loads(Path("r/config.json").read_text())
    assert config["options"]["steps"] == 8 and "8 steps of 4" in Path("r/README.md").read_text()
    done = cli("train", "--resume", "r", "--steps", 9)
    assert done.code == 0 and len(losses_of("r")) == 9, done.err


def test_a_run_that_cannot_be_made_longer_stays_finished(cli, tmp_path):
    tt.save(*tt.load("tiny-decoder-0.1m"), tmp_path / "base")
    words = ("train", "--base", "base", *BASE[3:], *FEW, "--out", "r")
    assert cli(*words).code == 0
    before = {path.name: path.read_bytes() for path in Path("r").iterdir() if path.is_file()}
    Path("base").rename("elsewhere")
    done = cli("train", "--resume", "r", "--steps", 5)
    assert done.code == 2 and "which is not there: put it back" in done.err
    after = {path.name: path.read_bytes() for path in Path("r").iterdir() if path.is_file()}
    assert after == before
    Path("elsewhere").rename("base")
    assert cli("train", "--resume", "r", "--steps", 5).code == 0
    assert len(losses_of("r")) == 5


def test_the_batches_go_on_and_the_best_weights_of_both_parts_are_kept(cli, monkeypatch):
    seen = []
    fit = train.mp.train

    def spy(model, batches, steps, *others, **settings):
        seen.append([batches(number)["input_ids"] for number in range(steps)])
        return fit(model, batches, steps, *others, **settings)

    monkeypatch.setattr(train.mp, "train", spy)
    assert cli(*BASE, *FEW, "--out", "r", "--learning-rate", 1e-2).code == 0
    best = result_of("r")
    before = saving.read(Path("r/adapter"))[1]
    path = Path("r/result.json")  # as if no later weights could be better
    path.write_text(json.dumps({**best, "best_step": 2}))
    log = Path("r/log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in log]
    for line in log:
        if line.get("validation", {}).get("step") == 2:
            line["validation"]["overlap"] = 2.0
    Path("r/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert cli("train", "--resume", "r", "--steps", 5).code == 0
    assert result_of("r")["best_step"] == 2 and result_of("r")["dev"]["overlap"] == 2.0
    after = saving.read(Path("r/adapter"))[1]
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert cli(*BASE, "--steps", 5, *FEW[2:], "--out", "whole").code == 0
    whole = seen[2]
    assert all(torch.equal(a, b) for a, b in zip(whole, seen[0] + seen[1], strict=True))


def test_a_run_that_is_made_longer_and_killed_goes_on_to_the_same_bits(cli, stopping_after):
    for name in ("whole", "stopped"):
        assert cli(*BASE, *FEW, "--checkpoint-every", 1, "--out", name).code == 0
    assert cli("train", "--resume", "whole", "--steps", 7).code == 0
    with stopping_after(5):
        done = cli("train", "--resume", "stopped", "--steps", 7)
        assert done.code == 130 and "--resume stopped" in done.err
    again = cli("train", "--resume", "stopped", "--steps", 9)
    assert again.code == 2 and "is not finished" in again.err
    assert cli("evaluate", "stopped", "--data", "reverse", "--limit", 2).code == 0  # as before
    assert cli("train", "--resume", "stopped").code == 0
    assert same_tensors("whole/adapter", "stopped/adapter")
    assert Path("whole/log.jsonl").read_text() == Path("stopped/log.jsonl").read_text()


def test_a_run_begins_with_an_adapter(cli):
    rows = [(f"{('good', 'bad')[n % 2]} w{n}", ("pos", "neg")[n % 2]) for n in range(30)]
    for name, some in (("a.csv", rows), ("b.csv", [row for row in rows if "7" not in row[0]])):
        Path(name).write_text("text,label\n" + "".join(f"{x},{y}\n" for x, y in some))
    columns = ("--input", "text", "--target", "label", "--kind", "classification")
    done = cli("train", "--base", "tiny-encoder", "--data", "a.csv", *columns, *FEW, "--out", "a",
               "--method", "ia3", "--learning-rate", 0.05)  # fmt: skip
    assert done.code == 0, done.err
    for start in ("a", "a/adapter"):
        done = cli("train", "--start", start, "--data", "b.csv", "--out", f"b-{len(start)}",
                   *FEW, "--learning-rate", 1e-12)  # fmt: skip
        assert done.code == 0, done.err
        config = json.loads(Path(f"b-{len(start)}/config.json").read_text())
        assert config["method"]["name"] == "IA3" and config["task"]["labels"] == ["neg", "pos"]
        one, other = (saving.read(Path(x, "adapter"))[1] for x in ("a", f"b-{len(start)}"))
        assert one.keys() == other.keys()  # such a rate moves nothing: it began where a ended
        assert all(torch.allclose(one[key], other[key], atol=1e-9) for key in one)
    for words, sentence in [
        (("--start", "a", "--method", "lora"), "leave --method and its settings away"),
        (("--start", "nowhere"), "holds no adapter to begin with"),
        (("--start", "a", "--base", "tiny-decoder"), "trained on another base"),
    ]:
        done = cli("train", "--data", "b.csv", *FEW, *words)
        assert done.code == 2 and sentence in done.err
    Path("c.csv").write_text("text,label\n" + "a,neg\nb,new\n" * 9)
    done = cli("train", "--start", "a", "--data", "c.csv", *FEW)
    assert done.code == 2 and "'new', which the adapter of --start does not know" in done.err
    done = cli("train", "--start", "a", "--data", "b.csv", *FEW, "--find-rate", "--out", "f")
    assert done.code == 0 and "this one" in done.out, done.err


def test_the_commands_of_a_card_run(cli, tmp_path):
    """From another folder, too; a path with a space in it."""
    place = tmp_path / "a place"
    place.mkdir()
    (place / "d.csv").write_text("text,label\n" + "good w,1\nbad w,0\nfine x,1\ndull x,0\n" * 5)
    os.chdir(place)
    columns = ("--input", "text", "--target=label", "--kind", "classification")
    done = cli("train", "--base", "tiny-encoder", "--data", "d.csv", *columns, *FEW, "--out=r")
    assert done.code == 0, done.err
    assert cli("train", "--resume", "r", "--steps", 5).code == 0
    os.chdir(tmp_path)
    card = (place / "r" / "README.md").read_text().partition("## Again")[2]
    lines = [line.strip() for line in card.splitlines() if line.startswith("    python")]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "minipeft"]
        done = cli(*words[3:])
        assert done.code == 0, done.err
    assert same_tensors(place / "r" / "adapter", f"{place}/r-again/adapter")


def test_a_damaged_log_is_told(tmp_path):
    (tmp_path / runs.RESULT).write_text('{"best_step": 2, "seconds": 1}')
    (tmp_path / runs.LOG).write_text('{"validation": {}}')
    with pytest.raises(ValueError, match="log.jsonl or result.json is damaged"):
        longer.history_of(tmp_path)


def test_the_home_folder(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d.csv").write_text("input,target\n" + "good w,1\nbad w,0\n" * 9)
    done = cli("train", "--base", "tiny-encoder", "--data", "~/d.csv", "--kind", "classification",
               *FEW, "--out", "~/r")  # fmt: skip
    assert done.code == 0 and (tmp_path / "r" / "adapter").is_dir(), done.err
    assert cli("evaluate", "~/r", "--data=~/d.csv", "--predictions", "~/p.csv").code == 0
    assert (tmp_path / "p.csv").is_file() and not Path("~").exists()
    model, tokenizer = tt.load("tiny-encoder", "classification", 2)
    tuner = mp.load(model, "~/r/adapter")
    tuner.save("~/copy")
    tt.save(tt.load("tiny-decoder-0.1m")[0], None, "~/m")
    tt.load("~/m")
    assert (tmp_path / "copy").is_dir() and not Path("~").exists()


def test_what_is_wrong_is_told_before_rates_are_tried(cli):
    Path("d.csv").write_text("input,target\n" + "good w,1\nbad w,0\n" * 9 + "long " * 900 + ",1\n")
    done = cli("train", "--base", "tiny-encoder", "--data", "d.csv", "--kind", "classification",
               *FEW, "--find-rate", "--out", "r")  # fmt: skip
    assert done.code == 2 and "positions" in done.err and "steps at each rate" not in done.out
    assert not Path("r").exists()


def test_ctrl_c_at_any_later_moment_says_how_to_go_on(cli, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    assert cli(*BASE, *FEW, "--out", "whole").code == 0
    for number, (where, name) in enumerate(
        [(fitting, "fit"), (fitting, "finish"), (cards, "card")]
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, stop)
            done = cli(*BASE, *FEW, "--out", f"r{number}")
            assert done.code == 130 and f"--resume r{number}" in done.err
        assert cli("train", "--resume", f"r{number}").code == 0
        assert same_tensors("whole/adapter", f"r{number}/adapter")


def test_a_run_whose_base_and_data_were_moved_goes_on(cli, gpt2, pairs, stopping_after):
    shutil.copytree(gpt2, "old")
    how = ("--data", pairs, "--kind", "text-to-text", *FEW, "--rank", 2, "--targets", "qkv")
    words = ("train", "--base", "old", *how, "--checkpoint-every", 1, "--out")
    assert cli(*words, "whole").code == 0
    with stopping_after(2):
        assert cli(*words, "stopped").code == 130
    os.rename("old", "new place")
    before = Path("stopped/config.json").read_text()
    for command in (("--resume", "stopped"), ("--start", "whole", "--data", pairs)):
        done = cli("train", *command)
        assert done.code == 2 and "name the folder where it is now, --base FOLDER" in done.err
    shutil.copytree("new place", "other")
    model = zoo.build("gpt2", seed=1)
    model.save_pretrained("other")
    done = cli("train", "--resume", "stopped", "--base", "other")
    assert done.code == 2 and "other weights than the base that this run began with" in done.err
    assert Path("stopped/config.json").read_text() == before
    os.rename(pairs, "other.jsonl")
    Path("wrong.jsonl").write_text(Path("other.jsonl").read_text() + "\n")
    words = ("train", "--resume", "stopped", "--base", "new place")
    for more_words, sentence in (
        ((), "is not what this run began with: put that file back, say where it is now (--data"),
        (("--data", "wrong.jsonl"), "wrong.jsonl is not what this run began with"),
        (("--data", "other.jsonl", "--dev", "other.jsonl"), "leave --dev away"),
        (("--data", "other.jsonl", "--rank", 4), "leave --rank away"),
    ):
        done = cli(*words, *more_words)
        assert done.code == 2 and sentence in done.err, done.err
        assert Path("stopped/config.json").read_text() == before
    done = cli(*words, "--data", "other.jsonl")
    assert done.code == 0, done.err
    assert same_tensors("whole/adapter", "stopped/adapter")
    assert Path("whole/log.jsonl").read_text() == Path("stopped/log.jsonl").read_text()
    config = json.loads(Path("stopped/config.json").read_text())
    assert config["base"]["name"] == str(Path("new place").resolve())
    assert config["options"]["data"] == config["data"]["files"][1]["name"]
    assert config["options"]["data"] == str(Path("other.jsonl").resolve())
    command = shlex.split(config["command"])
    assert command.count("--base") == command.count("--data") == 1
    done = cli("evaluate", "stopped", "--data", "other.jsonl", "--limit", 2)
    assert done.code == 0, done.err  # it knows the place of its base
    assert cli(*shlex.split(config["command"])[3:]).code == 0
    assert same_tensors("whole/adapter", "stopped-again/adapter")
    now = ("--base", "new place", "--data", "other.jsonl")
    assert cli("train", "--resume", "whole", "--steps", 5, *now).code == 0
    assert len(losses_of("whole")) == 5


def test_a_run_goes_on_with_the_names_of_the_project(cli, stopping_after):
    """Which are no folders; and not with another task than its own."""
    names = ("--base", "tiny-decoder-0.1m", "--data", "reverse")
    words = ("train", *names, *FEW, "--checkpoint-every", 1, "--out")
    assert cli(*words, "whole").code == 0
    with stopping_after(2):
        assert cli(*words, "stopped").code == 130
    done = cli("train", "--resume", "stopped", "--data", "copy")
    assert done.code == 2 and "copy is not what this run began with" in done.err
    done = cli("train", "--resume", "stopped", *names)
    assert done.code == 0, done.err
    assert same_tensors("whole/adapter", "stopped/adapter")
    config = json.loads(Path("stopped/config.json").read_text())
    assert (config["options"]["base"], config["options"]["data"]) == (names[1], names[3])


def test_a_base_whose_weights_have_changed_is_told_from_another_base(cli, gpt2, pairs):
    shutil.copytree(gpt2, "old")
    how = ("--data", pairs, "--kind", "text-to-text", *FEW)
    assert cli("train", "--base", "old", *how, "--out", "r").code == 0
    zoo.build("gpt2", seed=1).save_pretrained("old")
    shutil.copytree("old", "other")
    done = cli("train", "--resume", "r", "--steps", 9)
    assert done.code == 2 and "old has other weights than when this run began: put" in done.err
    done = cli("train", "--resume", "r", "--steps", 9, "--base", "other")
    assert done.code == 2 and "other has other weights than the base that this run" in done.err


def test_a_run_whose_adapter_of_the_start_was_moved_goes_on(cli, stopping_after):
    columns = ("--kind", "classification", "--base", "tiny-encoder", "--head", "classification")
    Path("d.csv").write_text("input,target\n" + "good w,no\nbad w,yes\nfine x,no\n" * 9)
    data = ("--data", "d.csv", *FEW)
    for name, seed in (("first", 0), ("other", 1)):
        done = cli("train", *columns, *data, "--seed", seed, "--rank", 2, "--out", name)
        assert done.code == 0, done.err
    words = ("train", "--start", "first", *data, "--checkpoint-every", 1, "--out")
    assert cli(*words, "whole").code == 0
    for name in ("stopped", "with adapter"):
        with stopping_after(2):
            assert cli(*words, name).code == 130
    os.rename("first", "new place")
    shutil.copytree("new place/adapter", "alone")
    before = Path("stopped/config.json").read_text()
    for name, file, old, new in (
        ("scaled", "adapter_config.json", '"lora_alpha": 16', '"lora_alpha": 8'),
        ("renamed", "labels.json", '["no", "yes"]', '["yes", "no"]'),
    ):
        path = Path(shutil.copytree("alone", name), file)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    for start, sentence in (
        ((), "is not what this run began with: put that adapter back, or say where it is now"),
        (("--start", "other"), "is not what this run began with: put that adapter back"),
        (("--start", "nowhere"), "holds no adapter to begin with"),
        (("--start", "scaled"), "scaled does not match its content hash"),
        (("--start", "renamed"), "renamed has other settings, or other labels, than when this run"),
    ):
        done = cli("train", "--resume", "stopped", *start)
        assert done.code == 2 and sentence in done.err, (start, done.err, done.out)
        assert Path("stopped/config.json").read_text() == before
    done = cli("train", "--resume", "other", "--start", "alone", "--steps", 5)
    assert done.code == 2 and "did not begin with an adapter: leave --start away" in done.err
    for name, start in (("stopped", "new place"), ("with adapter", "alone")):
        done = cli("train", "--resume", name, "--start", start)
        assert done.code == 0, done.err
        assert same_tensors("whole/adapter", f"{name}/adapter")
        assert Path("whole/log.jsonl").read_text() == Path(f"{name}/log.jsonl").read_text()
    config = json.loads(Path("stopped/config.json").read_text())
    assert config["options"]["start"] == str(Path("new place/adapter").resolve())
    assert cli(*shlex.split(config["command"])[3:]).code == 0
    assert same_tensors("whole/adapter", "stopped-again/adapter")
    done = cli("train", "--resume", "whole", "--steps", 5, "--start", "new place")
    assert done.code == 0 and len(losses_of("whole")) == 5, done.err


def test_an_adapter_of_pefts_must_have_the_settings_of_before(cli, gpt2, pairs, stopping_after):
    """No hash of its files tells that one has changed, as ours has."""
    how = ("--data", pairs, "--kind", "text-to-text", *FEW)
    done = cli("train", "--base", gpt2, *how, "--rank", 2, "--targets", "qkv", "--out", "first")
    assert done.code == 0 and cli("convert", "first", "theirs", "--to", "peft").code == 0
    tensors = Path("theirs/adapter_model.safetensors")
    save_file(load_file(tensors), tensors, {"format": "pt"})  # as PEFT writes it
    with stopping_after(2):
        done = cli("train", "--start", "theirs", "--base", gpt2, *how, "--checkpoint-every", 1,
                   "--out", "r")  # fmt: skip
        assert done.code == 130, done.err
    shutil.copytree("theirs", "same")
    path = Path("theirs/adapter_config.json")
    assert '"lora_alpha": 16' in path.read_text()
    path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": 8'))
    done = cli("train", "--resume", "r")
    assert done.code == 2 and "theirs has other settings, or other labels, than when" in done.err
    assert cli("train", "--resume", "r", "--start", "same").code == 0


def test_a_grid_whose_base_was_moved_goes_on(cli, gpt2, pairs):
    shutil.copytree(gpt2, "old")
    grid = ("compare", "--data", pairs, "--kind", "generate", *FEW, "--out", "g", "--methods",
            "lora:rank=2", "--learning-rates", "0.01", "--seeds", 0)  # fmt: skip
    assert cli(*grid, "--base", "old").code == 0
    os.rename("old", "new place")
    for base in ("new place", Path("new place").resolve()):
        done = cli(*grid, "--base", base)
        assert done.code == 0 and "1 cells, 1 of them are there" in done.out, done.err
    done = cli(*grid, 1, "--base", "new place")
    assert done.code == 0 and "2 cells, 1 of them are there" in done.out, done.err
    shutil.copytree("new place", "old")
    zoo.build("gpt2", seed=1).save_pretrained("old")
    before = Path("g/cells.csv").read_text()
    done = cli(*grid, 1, 2, "--base", "old")  # the name of before, with other weights
    assert done.code == 2 and "old has other weights than the base of the grid in g" in done.err
    assert Path("g/cells.csv").read_text() == before
    older = json.loads(Path("g/grid.json").read_text())
    del older["base fingerprint"]  # as a grid of before has none
    Path("g/grid.json").write_text(json.dumps(older))
    assert cli(*grid, "--base", "old").code == 0
    done = cli(*grid, "--base", "new place")
    assert done.code == 2 and "a grid whose base is old, here it is new place" in done.err


def test_every_command_finds_a_base_that_was_moved(cli, run, gpt2, pairs):
    config = json.loads(Path(run, "config.json").read_text())
    config["base"]["name"] = config["options"]["base"] = "/no/longer/there"
    Path(run, "config.json").write_text(json.dumps(config))
    other = zoo.build("gpt2", seed=1)
    shutil.copytree(gpt2, "other")
    other.save_pretrained("other")
    for words in (
        ("evaluate", run, "--data", pairs, "--limit", 2),
        ("predict", run, "a b"),
        ("generate", run, "a b", "--tokens", 2),
        ("merge", run, "merged"),
        ("convert", run, "converted"),
        ("inspect", run),
        ("doctor", run),
    ):
        done = cli(*words)
        assert done.code == 2 and "name the folder where it is now, --base FOLDER" in done.err
        done = cli(*words, "--base", "other")
        assert done.code == 2 and "was trained on another base" in done.err
        done = cli(*words, "--base", gpt2)
        assert done.code in ((0, 1) if words[0] == "doctor" else (0,)), done.err
