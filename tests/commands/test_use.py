"""evaluate, generate, merge, inspect, convert and compare, on small models."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.__main__ import main
from minipeft.commands import bases, compare, generate, inspect, merge, scoring, writers
from minipeft.files import saving as files
from minipeft.tasks.encoding import Encoding
from minipeft.tasks.tasks import Task

FEW = ("--steps", 2, "--batch-size", 4, "--dev-limit", 3)


def test_evaluate_writes_answers_and_judges(cli, run, pairs):
    done = cli("evaluate", run, "--data", pairs, "--limit", 5, "--predictions", "p.jsonl",
               "--require", "overlap=0")  # fmt: skip
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert len(rows) == 5 and set(rows[0]) > {"prediction", "target"}
    assert [row["input"] for row in rows] != ["a a"] * 5 and "chosen at random" in done.out
    worse = cli("evaluate", run, "--data", pairs, "--limit", 5, "--require", "exact=1.1")
    assert worse.code == 1 and "below 1.1" in worse.out
    for words, sentence in [
        (["--require", "x"], "--require needs a score and a number"),
        (["--require", "exact=nan"], "--require needs a score and a number"),
        (["--require", "bleu=1"], "no score 'bleu'"),
        (["--require", "exact>=0.5"], "--require needs a score and a number"),
        (["--kind", "classification"], "was trained for the kind"),
        (["--predictions", "p.xlsx"], "must end in"),
        (["--split", "test"], "--split is for the tasks"),
        (["--limit", "0"], "--limit must be"),
    ]:
        done = cli("evaluate", run, "--data", pairs, *words)
        assert done.code == 2 and sentence in done.err
    assert cli("evaluate", "run/adapter", "--data", pairs, "--limit", 5).code == 0


def test_a_table_for_every_label(cli):
    done = cli("train", "--base", "tiny-encoder", "--data", "tags", *FEW, "--out", "r",
               "--method", "headonly")  # fmt: skip
    assert done.code == 0, done.err
    done = cli("evaluate", "r", "--data", "tags", "--limit", 8)
    assert done.code == 0 and "per label" in done.out and "person" in done.out


def test_what_the_scores_are():
    task = Task("t", "tag", {}, labels=("O", "B-x", "I-x"))
    true = ["B-x I-x O B-x", "O O"]
    said = ["B-x I-x O O", "I-x O"]  # one whole entity of two; one that is not there
    scores = scoring.scores(task, said, true)
    assert scores["f1"] == pytest.approx(2 * 1 / (2 + 2))
    assert scores["accuracy"] == pytest.approx(4 / 6)


def test_the_score_that_decides_stands_first_on_the_command_line():
    for kind, labels, letters, expected in [
        ("generate", None, False, ["overlap", "exact"]),
        ("cloze", None, False, ["accuracy"]),
        ("classify", ("a", "b"), False, ["accuracy", "macro_f1"]),
        ("tag", ("O", "a", "b"), False, ["f1", "accuracy"]),
        ("generate", None, True, ["error_rate", "exact"]),
    ]:
        task = Task("t", kind, {}, labels=labels)
        scores = scoring.scores(task, ["a", "b"], ["a", "a"], letters)
        assert list(scores) == expected
    assert scoring.scores(task, ["ab"], ["ac"], True) == {"error_rate": 0.5, "exact": 0.0}


def test_generate_streams_what_it_returns(cli, run):
    one = cli("generate", run, "a b", "--tokens", 5)
    assert one.code == 0 and one.out.endswith("\n"), one.err
    both = cli("generate", run, "a b", "c d e", "--tokens", 5, "--out", "g.csv")
    assert both.code == 0, both.err
    line = next(line for line in both.out.splitlines() if line.startswith("a b | "))
    assert line == f"a b | {one.out.strip()}"
    assert Path("g.csv").read_text().splitlines()[0] == "input,adapter,output"
    drawn = [cli("generate", run, "a", "--sample", "--seed", 3).out for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_several_adapters_in_one_batch(cli, run, gpt2, tmp_path):
    rows = [("a b", "one"), ("a b", ""), ("c d", "one"), ("c d", "two")]
    lines = "".join(f"{text},{name}\n" for text, name in rows)
    (tmp_path / "p.csv").write_text(f"prompt,who\n{lines}")
    base = ("generate", gpt2, "--data", "p.csv", "--input", "prompt", "--tokens", 4)
    column = ("--adapter-column", "who")
    two = ("--adapter", f"one={run}", "--adapter", f"two={run}/adapter", *column)
    done = cli(*base, *two, "--out", "g.jsonl")
    assert done.code == 0, done.err
    outputs = [json.loads(line)["output"] for line in Path("g.jsonl").read_text().splitlines()]
    alone = cli("generate", run, "a b", "--tokens", 4).out.strip()
    plain = cli("generate", gpt2, "a b", "--tokens", 4).out.strip()
    assert outputs[0] == alone and outputs[1] == plain and alone != plain
    assert outputs[2] == outputs[3] == cli("generate", run, "c d", "--tokens", 4).out.strip()
    for words, sentence in [
        ([*two[:2], *column], "names the adapter 'two'"),
        (["--adapter", "one", *column], "--adapter needs such as"),
        ([*two[:2], *two[:2], *column], "gives the name 'one' twice"),
        (two[:2], "belong together"),
        ([*two[:4], "--adapter-column", "nobody"], "has no column 'nobody'"),
    ]:
        done = cli(*base, *words)
        assert done.code == 2 and sentence in done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tiny-decoder-0.1m"], "Give prompts"),
        (["tiny-decoder-0.1m", " "], "Prompt 1 is empty"),
        (["tiny-encoder", "a"], "cannot write"),
        (["nowhere/at/all", "a"], "There is no folder nowhere"),
        (["tiny-decoder-0.1m", "a", "--sample", "--temperature", "0"], "must be above 0"),
        (["tiny-decoder-0.1m", "a", "--top-k", "5"], "--top-k is about words that are drawn"),
        (["tiny-decoder-0.1m", "a", "--seed", "0"], "--seed is about words that are drawn"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(cli, words, sentence):
    done = cli("generate", *words)
    assert done.code == 2 and sentence in done.err


def test_merge_writes_a_plain_model(cli, run, gpt2):
    from transformers import AutoModelForCausalLM

    done = cli("merge", run, "merged")
    assert done.code == 0, done.err
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in Path("merged").iterdir()
    }
    assert not [p.name for p in Path().iterdir() if p.name.endswith(".part")]
    base = AutoModelForCausalLM.from_pretrained(gpt2).eval()
    mp.load(base, f"{run}/adapter")
    ids = torch.arange(14, 20)[None]
    merged = AutoModelForCausalLM.from_pretrained("merged").eval()
    close(merged(ids).logits, base(ids).logits)
    again = cli("merge", run, "merged")
    assert again.code == 2 and "holds something already" in again.err
    assert cli("merge", "merged", "other").code == 2  # no adapter


def test_a_prefix_cannot_be_merged(cli, gpt2, pairs):
    train = ("train", "--base", gpt2, "--data", pairs, "--kind", "generate", *FEW)
    assert cli(*train, "--method", "prefix", "--length", 2, "--hidden", 4, "--out", "p").code == 0
    done = cli("merge", "p", "merged")
    assert done.code == 2 and "cannot be merged" in done.err and not Path("merged").exists()


def test_inspect_shows_an_adapter_and_a_base(cli, run, gpt2, tmp_path):
    done = cli("inspect", run, "--plot", "s.png")
    assert done.code == 0 and "LoRA" in done.out and "weights" in done.out, done.err
    assert "(checked)" in done.out and "lora_A" in done.out
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    done = cli("inspect", gpt2, "--plot", "s.svg", "--target", "key")
    assert done.code == 0 and "48 x 16" in done.out, done.err  # words
    assert "memory" in done.out and "16 x 16" in done.out
    (tmp_path / "empty").mkdir()
    assert cli("inspect", "empty").code == 2
    assert "must end in" in cli("inspect", gpt2, "--plot", "s.doc").err
    file = Path(run, "adapter/adapter_model.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    assert "damaged" in cli("inspect", run).err


def test_convert_to_peft_and_back(cli, run, gpt2):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert cli("convert", run, "for-peft").code == 0
    ids = torch.arange(14, 20)[None]
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(gpt2), "for-peft")
    ours = AutoModelForCausalLM.from_pretrained(gpt2).eval()
    mp.load(ours, f"{run}/adapter")
    close(theirs.eval()(ids).logits, ours(ids).logits)
    theirs.save_pretrained("from-peft")
    nameless = cli("convert", "from-peft", "ours", "--to", "minipeft")
    assert nameless.code == 2 and "name the base" in nameless.err
    done = cli("convert", "from-peft", "ours", "--to", "minipeft", "--base", gpt2)
    assert done.code == 0 and "a stranger" in done.out, done.err
    assert "(checked)" in cli("inspect", "ours").out


def test_a_prefix_of_ours_becomes_one_of_pefts(cli, gpt2, pairs):
    """The vectors are the same; where PEFT puts them the words stand further back."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    train = ("train", "--base", gpt2, "--data", pairs, "--kind", "generate", *FEW)
    for method in (("prefix", "--hidden", 4), ("ptuningv2",)):
        out = method[0]
        done = cli(*train, "--method", *method, "--length", 2, "--out", out)
        assert done.code == 0, done.err
        done = cli("convert", out, f"{out}-peft")
        assert done.code == 1 and "train with --compatibility peft" in done.out, done.err
        ids = torch.arange(14, 20)[None]
        base = AutoModelForCausalLM.from_pretrained(gpt2)
        theirs = PeftModel.from_pretrained(base, f"{out}-peft").eval()(ids).logits
        ours = AutoModelForCausalLM.from_pretrained(gpt2).eval()
        mp.load(ours, f"{out}-peft")
        torch.testing.assert_close(theirs, ours(ids).logits, atol=1e-6, rtol=0)  # PEFT's float32
        one, other = (files.read(Path(name))[1] for name in (f"{out}/adapter", f"{out}-peft"))
        (one,), (other,) = one.values(), other.values()
        assert torch.equal(one, other)
    layers = ("--method", "prefix", "--length", 2, "--layers", 0, "--out", "l")
    assert cli(*train, *layers).code == 0
    done = cli("convert", "l", "l-peft")
    assert done.code == 2 and "PEFT has no layout for this Prefix" in done.err


def test_an_answer_that_nobody_knows_is_as_long_as_those_of_the_training(cli, gpt2, pairs):
    """A file without answers gets the same ones as a file with them."""
    train = ("train", "--base", gpt2, "--data", pairs, *FEW, "--learning-rate", 0.1)
    new = [json.loads(line)["input"] for line in pairs.read_text().splitlines()][:5]
    Path("new.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in new))
    for kind in ("text-to-text", "cloze"):
        assert cli(*train, "--kind", kind, "--out", kind).code == 0
        done = cli("predict", kind, "--data", "new.jsonl", "--out", "p.jsonl")
        assert done.code == 0, done.err
        said = [json.loads(line)["prediction"] for line in Path("p.jsonl").read_text().splitlines()]
        cli("evaluate", kind, "--data", pairs, "--predictions", "e.jsonl")
        known = [json.loads(line) for line in Path("e.jsonl").read_text().splitlines()]
        assert said == [row["prediction"] for row in known][:5]
        config = json.loads(Path(kind, "config.json").read_text())
        assert config["task"]["longest"] == ([3, 2] if kind == "text-to-text" else [2, 2])


def test_prompts_of_a_file_are_in_the_column_of_the_training(cli, gpt2):
    rows = [{"q": f"{x} of", "c": f"{y} in", "a": f"{x} {y}"} for x in "abcd" for y in "efgh"]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("train", "--base", gpt2, "--data", "d.jsonl", "--kind", "text-to-text", "--input",
               "q,c", "--target", "a", *FEW, "--out", "r")  # fmt: skip
    assert done.code == 0, done.err
    done = cli("generate", "r", "--data", "d.jsonl", "--tokens", 3, "--out", "o.jsonl")
    assert done.code == 0, done.err
    first = json.loads(Path("o.jsonl").read_text().splitlines()[0])
    assert first["input"] == "a of | e in"
    alone = cli("generate", "r", "a of | e in", "--tokens", 3)
    assert alone.code == 0 and alone.out.strip() == first["output"]
    assert "reads pairs of texts (q,c)" in cli("generate", "r", "a of").err


def test_a_mistyped_run_is_told_with_the_one_that_was_meant(cli, run, monkeypatch):
    import transformers

    def ask(name, **options):
        raise OSError(f"{name} is not a name on the Hub. More of it.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", ask)
    done = cli("evaluate", "runn", "--data", "reverse")
    assert done.code == 2 and "on the Hub. Did you mean the folder run?" in done.err
    assert "Did you mean" not in cli("evaluate", "bert-base", "--data", "reverse").err


def test_what_peft_has_no_layout_for(cli, gpt2, pairs):
    train = ("train", "--base", gpt2, "--data", pairs, "--kind", "generate", *FEW)
    assert cli(*train, "--method", "top-layers", "--out", "t").code == 0
    done = cli("convert", "t", "x", "--to", "peft")
    assert done.code == 2 and "PEFT has no layout for TopLayers" in done.err


def test_an_interrupted_grid_goes_on(cli, gpt2, pairs, monkeypatch):
    grid = ("compare", "--base", gpt2, "--data", pairs, "--kind", "generate", *FEW, "--out", "g",
            "--methods", "lora:rank=2", "bitfit", "--seeds", 0, 1, "--test", pairs,
            "--learning-rates", "0.01", "0.1")  # fmt: skip
    one = compare.one

    def stops(*arguments):
        if len(list(Path("g/cells").glob("*.json"))) == 3:
            raise KeyboardInterrupt
        return one(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(compare, "one", stops)
        assert cli(*grid).code == 130
    before = {path: path.stat().st_mtime_ns for path in Path("g/cells").iterdir()}
    assert len(before) == 3
    done = cli(*grid)
    assert done.code == 0 and "8 cells, 3 of them are there" in done.out, done.err
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(Path("g/cells.csv").read_text().splitlines()) == 9
    assert Path("g/compare.png").read_bytes().startswith(b"\x89PNG")
    table = Path("g/table.txt").read_text()
    assert "lora:rank=2" in table and "bitfit" in table and "overlap on test" in table
    moved = pairs.rename(pairs.parent / "moved.jsonl")
    done = cli(*(moved if word == pairs else word for word in grid))
    assert done.code == 0 and "8 cells, 8 of them are there" in done.out, done.err
    moved.rename(pairs)
    others = (("steps", 3, 2), ("max-length", 9, None), ("metric", "bleu", None))
    for name, value, before in (*others, ("pooling", "mean", None)):
        other = cli(*grid, f"--{name}", value)
        said = f"a grid whose {name.replace('-', '_')} is {before}"
        assert other.code == 2 and said in other.err


@pytest.mark.parametrize(
    ("score", "values", "interval"),
    [  # half of the interval of two values: t = 12.706 times half of their distance
        ("accuracy", (0.9, 1.0), "0.315 to 1"),
        ("matthews", (-0.1, 0.1), "-1 to 1"),
        ("mse", (0.1, 0.2), "0 to 0.785"),
        ("error_rate", (1.1, 1.2), "0.515 to 1.79"),
        ("accuracy", (0.5,), "-"),
    ],
)
def test_no_interval_of_a_grid_leaves_what_its_score_can_be(score, values, interval):
    common = {"method": "lora", "learning_rate": 0.1, "trainable": 8, "seconds": 1.0}
    cells = [{**common, "test": {score: value}} for value in values]
    assert compare.row("lora", cells, score, "test")[4] == interval


def test_a_cell_that_fails_is_told_and_the_others_go_on(cli, gpt2, pairs):
    grid = ("compare", "--base", gpt2, "--data", pairs, "--kind", "generate", *FEW)
    done = cli(*grid, "--metric", "blue", "--out", "g")
    assert done.code == 2 and "blue is not a score" in done.err and not Path("g").exists()
    done = cli("compare", "--base", gpt2, "--data", pairs, "--kind", "generate", *FEW, "--out",
               "g", "--methods", "lora:targets=nonsense", "bitfit", "--seeds", 0)  # fmt: skip
    assert done.code == 1 and "nonsense" in done.out and "bitfit" in done.out
    assert cli("compare", "--base", gpt2, "--data", pairs, "--methods", "lola").code == 2


def test_a_cell_gives_the_numbers_of_a_run_alone(cli, gpt2, pairs):
    """The base is the same after every cell, so that their order does not matter."""
    same = ("--base", gpt2, "--data", pairs, "--kind", "generate", *FEW)
    assert cli("compare", *same, "--methods", "bitfit", "lora", "--seeds", 1, "--out", "g",
               "--learning-rates", "0.1", "--seed", 1).code == 0  # fmt: skip
    assert cli("train", *same, "--seed", 1, "--learning-rate", "0.1", "--out", "r").code == 0
    cell = json.loads(Path("g/cells/lora-rate0.1-seed1.json").read_text())
    log = [json.loads(line) for line in Path("r/log.jsonl").read_text().splitlines()]
    assert cell["losses"] == [line["loss"] for line in log if "loss" in line]


@pytest.mark.parametrize(
    "command",
    ["train", "evaluate", "generate", "merge", "inspect", "compare", "convert", "support", "check"],
)
def test_every_command_has_a_help_with_examples(cli, command):
    done = cli(command, "--help")
    assert done.code == 0 and f"python -m minipeft {command}" in done.out
    assert "example" in done.out and "Exit code" in done.out


def test_a_strangers_run_neither_fetches_nor_runs_anything(cli, run, pairs, monkeypatch):
    """Its config.json may name a base and say what it likes: only the user can allow it."""
    path = Path(run, "config.json")
    config = json.loads(path.read_text())
    config["base"]["name"] = config["options"]["base"] = "somebody/something"
    config["options"]["trust_remote_code"] = True
    path.write_text(json.dumps(config))
    Path(run, "result.json").unlink()
    import transformers

    asked = []

    def ask(name, **options):
        asked.append(options)
        raise OSError("not here")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", ask)
    start = ["train", "--start", run, "--data", pairs, "--kind", "text-to-text"]
    for words in (["train", "--resume", run], ["generate", run, "a"], ["inspect", run], start):
        done = cli(*words)
        assert done.code == 2 and "--base somebody/something" in done.err
    assert asked == [{"trust_remote_code": False, "local_files_only": True}] * 4
    cli("generate", run, "a", "--base", "somebody/something", "--trust-remote-code")
    assert asked[-1] == {"trust_remote_code": True, "local_files_only": False}


def test_a_merged_model_keeps_the_labels_of_its_head(cli, gpt2, tmp_path):
    """Also when the file that it is measured on has fewer of them, or others."""
    letters = "a b c d e f".split()
    rows = [
        f"{x} {y}\t{('low', 'mid', 'high')[i % 3]}\n"
        for x in letters
        for i, y in enumerate(letters)
    ]
    (tmp_path / "c.tsv").write_text("input\ttarget\n" + "".join(rows))
    some = [row for row in rows if "low" not in row]
    (tmp_path / "some.tsv").write_text("input\ttarget\n" + "".join(some))
    (tmp_path / "odd.tsv").write_text("input\ttarget\na b\tlow\na b\todd\n")
    kind = ("--kind", "classification")
    for base in (gpt2, "tiny-encoder"):
        shutil.rmtree("r", ignore_errors=True), shutil.rmtree("m", ignore_errors=True)
        train = ("train", "--base", base, "--data", "c.tsv", *kind, *FEW, "--head")
        assert cli(*train, "classification", "--out", "r", "--learning-rate", "0.1").code == 0
        assert cli("merge", "r", "m").code == 0
        one = cli("evaluate", "r", "--data", "some.tsv", "--predictions", "1.csv")
        two = cli("evaluate", "m", "--data", "some.tsv", "--predictions", "2.csv", *kind)
        assert one.code == two.code == 0, one.err + two.err
        assert Path("1.csv").read_text() == Path("2.csv").read_text()
        odd = cli("evaluate", "m", "--data", "odd.tsv", *kind)
        assert odd.code == 2 and "the label 'odd'" in odd.err
    fresh = cli("evaluate", gpt2, "--data", "c.tsv", *kind, "--limit", 5)
    assert fresh.code == 0 and "a random one answers" not in fresh.out  # by its language head
    fresh = cli("evaluate", "tiny-encoder", "--data", "c.tsv", *kind, "--limit", 5)
    assert fresh.code == 0 and "a random one answers" in fresh.out


def test_a_classifiers_adapter_of_pefts_brings_its_head(cli, gpt2, tmp_path):
    """The head, and how many labels it has, come from the adapter, not from the base or a flag."""
    import peft
    from transformers import AutoModelForSequenceClassification as Classifier

    theirs = Classifier.from_pretrained(gpt2, num_labels=3, pad_token_id=0)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True)
    theirs = peft.get_peft_model(theirs, config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    theirs.save_pretrained("adapter")
    done = cli("inspect", "adapter", "--base", gpt2)
    assert done.code == 0 and "classification" in done.out.lower(), done.err
    done = cli("merge", "adapter", "merged", "--base", gpt2)
    assert done.code == 0, done.err
    merged = Classifier.from_pretrained("merged").eval()
    ids = torch.arange(14, 20)[None]
    torch.testing.assert_close(merged(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "target"), [("classification", "{}"), ("tagging", "{0} {0}")])
def test_texts_without_answers_are_labelled(cli, kind, target):
    rows = [(f"{'good' if n % 2 else 'bad'} w{n}", target.format(n % 2)) for n in range(20)]
    Path("d.tsv").write_text("text\tlabel\n" + "".join(f"{x}\t{y}\n" for x, y in rows))
    Path("new.tsv").write_text("text\ngood film\nbad film\n")
    columns = ("--input", "text", "--target", "label")
    done = cli("train", "--base", "tiny-encoder", "--data", "d.tsv", "--kind", kind, *columns,
               *FEW, "--out", "r")  # fmt: skip
    assert done.code == 0, done.err
    done = cli("predict", "r", "--data", "new.tsv", "--out", "out.tsv")
    assert done.code == 0, done.err
    header, *lines = [line.split("\t") for line in Path("out.tsv").read_text().splitlines()]
    assert header == ["input", "prediction"] and [x for x, _ in lines] == ["good film", "bad film"]
    known = {str(y) for _, labels in rows for y in labels.split()}
    assert all(set(said.split()) <= known for _, said in lines)
    done = cli("predict", "r", "good film", "bad film")
    assert done.code == 0 and all(f"{said}" in done.out for _, said in lines)
    done = cli("evaluate", "r", "--data", "new.tsv", "--predictions", "again.tsv")
    assert done.code == 0 and "no column 'label'" in done.out
    assert Path("again.tsv").read_text() == Path("out.tsv").read_text()
    for words, sentence in [
        ((), "Give texts"),
        (("a", "--data", "new.tsv"), "Give texts"),
        ((" ",), "A text is empty"),
        (("a", "--out", "x.xlsx"), "must end in"),
        (("a", "--batch-size", "0"), "must be at least 1"),
        (("--data", "new.tsv", "--input", "no"), "has no 'no'"),
    ]:
        done = cli("predict", "r", *words)
        assert done.code == 2 and sentence in done.err
    assert "let it label texts with predict" in cli("generate", "r", "a").err
    assert "a text that begins with - stands behind --" in cli("predict", "r", "-good").err
    assert cli("predict", "r", "--", "-good").code == 0


def test_an_adapter_without_its_run_knows_its_classes(cli):
    rows = [(f"{'good' if n % 2 else 'bad'} w{n}", "pos" if n % 2 else "neg") for n in range(20)]
    for name, some in (("d.tsv", rows), ("one.tsv", rows[1::2])):
        Path(name).write_text("input\ttarget\n" + "".join(f"{x}\t{y}\n" for x, y in some))
    kind = ("--kind", "classification")
    assert (
        cli("train", "--base", "tiny-encoder", "--data", "d.tsv", *kind, *FEW, "--out", "r").code
        == 0
    )
    assert json.loads(Path("r/adapter/labels.json").read_text()) == ["neg", "pos"]
    base = ("--base", "tiny-encoder")
    assert cli("convert", "r", "c", *base, "--head", "classification", "--labels", 2).code == 0
    shutil.move("r/adapter", "a")
    for folder in ("a", "c"):
        done = cli("evaluate", folder, *base, *kind, "--data", "one.tsv")
        assert done.code == 0 and "pos" in done.out and "neg" in done.out
        done = cli("predict", folder, "good", *base, *kind)
        assert done.code == 0 and ("pos" in done.out or "neg" in done.out)
    Path("a/labels.json").write_text("{")
    done = cli("predict", "a", "good", *base, *kind)
    assert done.code == 2 and "must be a list of names" in done.err


def test_a_file_that_is_read_is_not_written_over(cli, run, pairs):
    """Nor is anything computed whose answers could not be written."""
    before = pairs.read_text()
    Path("link.jsonl").symlink_to(pairs)
    Path("file").write_text("x")
    for out, sentence in [
        ("./pairs.jsonl", "is the file that is read"),
        ("link.jsonl", "is the file that is read"),
        ("file/a.jsonl", "cannot be written"),
        (".jsonl", "must end in"),
    ]:
        for words in (
            ("evaluate", run, "--predictions", out),
            ("predict", run, "--out", out),
            ("generate", run, "--out", out),
        ):
            done = cli(*words, "--data", pairs)
            assert done.code == 2 and sentence in done.err and not done.out
    assert pairs.read_text() == before
    assert cli("predict", run, "a b", "--out", "A.CSV").code == 0 and Path("A.CSV").is_file()


def test_a_text_of_many_lines_is_one_line_of_a_table(cli, run):
    done = cli("predict", run, "a b\nc  d", "a " * 14 + "\n" * 900 + "b")
    assert done.code == 0, done.err
    assert "\na b c d  " in done.out and max(map(len, done.out.splitlines())) < 160


def test_a_classifier_whose_labels_have_names_reads_a_file_with_one_of_them(cli):
    rows = [(f"{'good' if n % 2 else 'bad'} w{n}", "pos" if n % 2 else "neg") for n in range(20)]
    for name, some in (("d.tsv", rows), ("one.tsv", rows[1::2])):
        Path(name).write_text("input\ttarget\n" + "".join(f"{x}\t{y}\n" for x, y in some))
    kind = ("--kind", "classification")
    train = ("train", "--base", "tiny-encoder", "--data", "d.tsv", *kind, *FEW, "--out", "r")
    assert cli(*train).code == 0 and cli("merge", "r", "m").code == 0
    done = cli("evaluate", "m", "--data", "one.tsv", *kind)
    assert done.code == 0 and "neg" in done.out, done.err
    for base in ("tiny-encoder", "tiny-decoder-0.1m"):
        done = cli("evaluate", base, "--data", "one.tsv", *kind)
        assert done.code == 2 and "only the label 'pos'" in done.err


def test_a_merged_classifier_without_names_labels_texts(cli, gpt2):
    import peft
    from transformers import AutoModelForSequenceClassification as Classifier

    theirs = Classifier.from_pretrained(gpt2, num_labels=3, pad_token_id=0)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True)
    peft.get_peft_model(theirs, config).save_pretrained("adapter")
    assert cli("merge", "adapter", "merged", "--base", gpt2).code == 0
    done = cli("predict", "merged", "a b", "--kind", "classification")
    assert done.code == 0 and "LABEL_" in done.out, done.err


@pytest.mark.parametrize(
    "method",
    [
        mp.LoRA(rank=4, alpha=8, ranks={"value": 2}, alphas={"value": 3}),
        mp.LoRA(rank=4, alpha=8, rank_stabilized=True),
        mp.LoRA(rank=2, targets=("qkv", "up")),
        mp.AdaLoRA(init_rank=3, target_rank=2),
        mp.PiSSA(rank=2),
    ],
)
def test_the_updates_that_inspect_draws_are_those_of_the_tuner(tmp_path, method):
    fused = "qkv" in method.targets
    tuner = mp.attach(zoo.build("gpt2" if fused else "bert"), method)
    torch.manual_seed(0)
    for parameter in tuner.parameters():
        parameter.data.normal_()
    tuner.save(tmp_path / "a")
    settings, tensors, _ = files.read(tmp_path / "a")
    updates = inspect.updates(tensors, settings)
    for place, patch in tuner.patches:
        columns = slice(None) if place.columns is None else place.columns
        close(updates[place.path][columns], patch.delta().float(), dtype=torch.float32)


@pytest.mark.parametrize("name", ["tiny-encoder-decoder", "bart", "t5", "mbart"])
def test_classifiers_of_two_stacks_can_be_probed(name):
    """BART and T5 read the last <eos> of a text, and want as many of them in every row."""
    model = zoo.build(name, head="classification")
    base = bases.Base("b", model, None, "encoder-decoder", "classification", tiny=False)
    with torch.no_grad():
        assert model(**merge.probe(base)).logits.shape == (2, zoo.LABELS)


def test_the_numbers_of_a_head_without_names_are_the_labels_of_the_data(cli, gpt2):
    """Of twelve labels "10" is the tenth, not the third, and LABEL_10 likewise."""
    import peft
    from transformers import AutoModelForSequenceClassification as Classifier

    theirs = Classifier.from_pretrained(gpt2, num_labels=12, pad_token_id=0)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], fan_in_fan_out=True)
    theirs = peft.get_peft_model(theirs, config)
    with torch.no_grad():  # whatever is read, the answer is the tenth or the eleventh
        for name, parameter in theirs.named_parameters():
            if "score.modules_to_save" in name:
                parameter.zero_()[10:, 0] = torch.tensor([1.0, -1.0])
            elif "score" not in name:
                parameter.add_(0.1)
    theirs.save_pretrained("adapter")
    kind = ("--kind", "classification")
    assert cli("merge", "adapter", "merged", "--base", gpt2).code == 0
    alone = cli("predict", "merged", "a b", *kind).out.split()[-2]
    assert alone in ("LABEL_10", "LABEL_11")
    tenth = alone.removeprefix("LABEL_")
    for names in (list(map(str, range(12))), [tenth], [f"LABEL_{n}" for n in range(12)]):
        rows = "".join(f"a b\t{name}\n" for name in names)
        Path("d.tsv").write_text("input\ttarget\n" + rows)
        for what in (("adapter", "--base", gpt2), ("merged",)):
            done = cli("evaluate", *what, "--data", "d.tsv", *kind, "--predictions", "p.csv")
            assert done.code == 0 and "note: the labels" not in done.out, done.err
            said = {line.split(",")[-1] for line in Path("p.csv").read_text().splitlines()[1:]}
            assert said == {alone if names[0].startswith("LABEL") else tenth}
    rows = [(f"w{n}", n % 12) for n in range(48)]
    Path("e.tsv").write_text("input\ttarget\n" + "".join(f"{x}\t{y}\n" for x, y in rows))
    train = ("train", "--start", "adapter", "--base", gpt2, "--data", "e.tsv", *FEW, "--out", "s")
    done = cli(*train, "--learning-rate", "1e-9")
    assert done.code == 0, done.err
    labels = json.loads(Path("s/config.json").read_text())["task"]["labels"]
    assert labels == list(map(str, range(12)))
    Path("d.tsv").write_text("input\ttarget\n" + "".join(f"a b\t{x}\n" for x in "abcdefghijkl"))
    for what in (("adapter", "--base", gpt2), ("merged",)):
        done = cli("evaluate", *what, "--data", "d.tsv", *kind)
        assert done.code == 0 and "have numbers and no names: taken in the order a, b" in done.out


@pytest.mark.parametrize("path, answers", [(None, {0: "x"}), ("out.csv", {}), (None, {})])
def test_what_ends_early_without_answers_or_a_file_keeps_nothing(
    tmp_path, monkeypatch, capsys, path, answers
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with writers.keeping(path, writers.PREDICTED, ["a", "b"]) as known:
            known |= answers
            raise KeyboardInterrupt
    assert not [*tmp_path.iterdir()] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory")])
def test_answers_that_were_there_are_kept_when_answering_ends_early(
    cli, run, pairs, monkeypatch, capsys, error
):
    """Shorter texts are answered first, so that the longest may fail after hours."""
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[0]["input"] = "a b c d e f g h"
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ("--data", "d.jsonl", "--batch-size", 16)
    for words, header in (
        (("predict", run, *data, "--out"), ("input", "prediction")),
        (("evaluate", run, *data, "--predictions"), ("input", "target", "prediction")),
        (("generate", run, *data, "--tokens", 2, "--out"), ("input", "adapter", "output")),
    ):
        assert cli(*words, "whole.csv").code == 0
        whole = Path("whole.csv").read_text().splitlines()
        calls, module = [], generate if words[0] == "generate" else Encoding
        name = "write_batch" if words[0] == "generate" else "answers"
        answer = getattr(module, name)

        def stumble(*args, answer=answer, calls=calls):
            calls.append(1)
            if len(calls) == 3:
                raise error
            return answer(*args)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, stumble)
            try:
                code = main([*map(str, words), "out.csv"])
            finally:
                assert not Path("out.csv").exists()
        assert code == (130 if error is KeyboardInterrupt else 2)
        assert "note: the 32 answers so far are in out.part.csv\n" in capsys.readouterr().err
        kept = Path("out.part.csv").read_text().splitlines()
        assert kept[0] == whole[0] == ",".join(header)
        assert len(kept) == 33 and set(kept) < set(whole), words
        if words[0] != "generate":
            assert whole[1] not in kept, "the longest text was not answered"
        Path("out.part.csv").unlink()  # which would stay as it is
