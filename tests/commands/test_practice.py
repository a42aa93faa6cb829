"""What practitioners bring: numbers, pairs of texts, long texts, scores by name."""

import csv
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import zoo
from tiny_models import fresh

import minipeft as mp
import tiny_transformer as tt
from minipeft.commands import bases, data, find_rate, scoring, shortening, train
from minipeft.tasks.encoding import Encoding, Example, join
from minipeft.tasks.pronunciation import Alphabet
from minipeft.tasks.tasks import Task

FEW = ("--steps", 2, "--batch-size", 4, "--dev-limit", 6)


@pytest.fixture
def scored(tmp_path):
    """Texts with a number each."""
    rows = [f"{'good ' * (i % 4)}zzqx,{i % 4 + 0.5}" for i in range(40)]
    path = tmp_path / "scored.csv"
    path.write_text("text,score\n" + "\n".join(rows))
    return path


@pytest.fixture
def premises(tmp_path):
    """Pairs of texts with a label each."""
    path = tmp_path / "premises.jsonl"
    rows = [{"a": f"the {x}", "b": f"is {y}", "label": "yes" if x == y else "no"}
            for x in ("cat", "dog", "sun") for y in ("cat", "dog", "sun")]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    return path


def test_a_regression_from_training_to_prediction(cli, scored):
    how = ("--input", "text", "--target", "score", "--kind", "regression")
    done = cli("train", "--base", "tiny-encoder", "--data", scored, *how, *FEW, "--out", "r",
               "--metric", "spearman")  # fmt: skip
    assert done.code == 0, done.err
    assert "\ntargets: " in done.out and "dev: spearman" in done.out
    done = cli("evaluate", "r", "--data", scored, "--metric", "pearson")
    assert done.code == 0 and "mse" in done.out, done.err
    assert cli("evaluate", "r", "--data", scored, "--require", "mse=1e-9").code == 1
    done = cli("predict", "r", "a good zzqx")
    assert done.code == 0, done.err
    float(done.out.split("good zzqx")[1].split()[0])
    done = cli("predict", "r/adapter", "a good zzqx", "--base", "tiny-encoder")
    assert done.code == 0, done.err  # a head of one number says what it is
    done = cli("train", "--base", "tiny-encoder", "--data", scored, "--input", "score",
               "--target", "text", "--kind", "regression", *FEW)  # fmt: skip
    assert done.code == 2 and "not a number" in done.err


def test_two_columns_of_text(cli, premises):
    how = ("--input", "a,b", "--target", "label", "--kind", "classification")
    done = cli("train", "--base", "tiny-encoder", "--data", premises, *how, *FEW, "--out", "r",
               "--metric", "matthews", "--limit", 20)  # fmt: skip
    assert done.code == 0, done.err
    assert "labels: no" in done.out and "20 examples to train on" in done.out
    done = cli("evaluate", "r", "--data", premises, "--predictions", "p.jsonl")
    assert done.code == 0, done.err
    with open("p.jsonl") as file:
        assert json.loads(file.readline())["input"] == "the cat | is cat"
    assert "| is" in cli("predict", "r", "--data", premises).out
    for words, sentence in [
        (["--metric", "bleu"], "does not fit"),
        (["--metric", "f_one"], "not a score that is known"),
        (["--limit", 0], "--limit must be"),
        (["--input", "a,c"], "no 'c'"),
    ]:
        rest = how[2 * (words[0] in how) :]
        done = cli("train", "--base", "tiny-encoder", "--data", premises, *rest, *FEW, *words)
        assert done.code == 2 and sentence in done.err, done.err


def test_inputs_are_shortened_to_so_many_tokens():
    _, tokenizer = tt.load("tiny-decoder-0.4m")
    base = bases.Base("b", fresh("bert"), tokenizer, "encoder", "classification", tiny=True)
    rows = [("the cat sat in the sun", "x"), (join("the cat sat in", "the"), "y"), ("a" * 90, "x")]
    task = mp.tasks.make("t", "classify", train=[*rows, ("cat", "y")])
    short, count = data.shortened(task, base, 5)
    assert count == 2 and short.train[3].input == "cat"  # one unknown word is one token
    assert short.train[0].input == "the cat sat in"  # and <bos>
    assert len(tokenizer(short.train[1].input)["input_ids"]) <= 5
    with pytest.raises(ValueError, match="too few"):
        data.shortened(task, base, 1)
    tags = mp.tasks.make("t", "tag", train=[("the cat sat in the sun", "a b a a a b")])
    tagger = bases.Base("b", fresh("bert"), tokenizer, "encoder", "tagging", tiny=True)
    assert data.shortened(tags, tagger, 5)[0].train[0] == ("the cat sat in", "a b a a")


class Bytes:
    """A tokenizer of single bytes: four tokens for a sign such as this one, 𐍈."""

    pad_token_id = eos_token_id = 0
    sep_token_id = None

    def __call__(self, text, add_special_tokens=True, return_tensors=None):
        return {"input_ids": [*text.encode(), *([0] if add_special_tokens else [])]}


def test_a_sign_may_be_several_tokens():
    base = bases.Base("b", fresh("gpt2"), Bytes(), "decoder", "language", tiny=True)
    task = mp.tasks.make("t", "generate", train=[("𐍈 𐍈 𐍈 𐍈 𐍈 𐍈", "x"), ("a b c", "x")])
    short, count = data.shortened(task, base, 24)
    assert count == 1 and short.train[1].input == "a b c"
    assert short.train[0].input == "𐍈 𐍈 𐍈 𐍈"  # 19 bytes, one more is 24 and the end


def sized(layout, tokenizer, head="language"):
    """A base that knows 96 positions."""
    kind = {"gpt2": "decoder", "bert": "encoder"}[layout]
    return bases.Base("b", fresh(layout, head, positions=96), tokenizer, kind, head, tiny=True)


@pytest.mark.parametrize(
    ("layout", "kind", "words", "target", "fits"),
    [
        ("gpt2", "generate", 1, "cat " * 93, True),  # <bos>, the word, the answer, <eos>
        ("gpt2", "generate", 1, "cat " * 94, False),
        ("bert", "cloze", 93, "cat", True),  # <bos> and <eos>, and <mask>
        ("bert", "cloze", 94, "cat", False),
    ],
)
def test_what_the_model_is_shown_must_fit_with_answer_and_mask(layout, kind, words, target, fits):
    tokenizer = tt.WordTokenizer(["cat"], ends=layout == "bert")
    task = mp.tasks.make("t", kind, train=[(" ".join(["cat"] * words), target.strip())])
    base = sized(layout, tokenizer)
    tokens = Encoding(task, tokenizer, base.kind).batch(task.train)["input_ids"].shape[1]
    assert (tokens <= 96) == fits
    if fits:
        return data.check_fits(task, base)
    with pytest.raises(ValueError, match="has 97 tokens, but the model knows 96 positions"):
        data.check_fits(task, base)


def test_every_label_must_fit_that_a_language_head_chooses_among():
    tokenizer = tt.WordTokenizer(["cat", "dog"])
    label = " ".join(["dog"] * 95)
    task = mp.tasks.make("t", "classify", train=[("cat", "cat")], labels=["cat", label])
    with pytest.raises(ValueError, match="has 97 tokens, but the model knows 96"):
        data.check_fits(task, sized("gpt2", tokenizer))


@pytest.mark.parametrize("size", [16, 5, 40])
def test_epochs_are_times_through_the_examples(size):
    """As many steps as the library's own batches have."""
    _, tokenizer = tt.load("tiny-decoder-0.1m")
    task = mp.tasks.make("t", "generate", train=[(f"{n}", "x") for n in range(33)])
    batches = task.batches("train", tokenizer, batch_size=size, epochs=3)
    given = SimpleNamespace(epochs=3.0, steps=None, batch_size=size, accumulate=1)
    assert train.steps_of(given, task) == len(batches)
    given.accumulate = 2  # the last step may begin a fourth time
    assert 2 * train.steps_of(given, task) - len(batches) in (0, 1)


def test_a_folder_of_data_has_a_hash(tmp_path):
    (tmp_path / "task.json").write_text('{"kind": "generate"}')
    (tmp_path / "train.jsonl").write_text('{"input": "a", "target": "b"}')
    before = data.digest(str(tmp_path))
    (tmp_path / "cache-1.arrow").write_bytes(b"")  # what Dataset.map leaves is none of the data
    assert before and data.digest(str(tmp_path)) == before
    (tmp_path / "train.jsonl").write_text('{"input": "a", "target": "c"}')
    assert data.digest(str(tmp_path)) not in (before, None)
    assert data.digest("reverse") is None


def test_spaces_around_a_pronunciation_are_no_sign_of_it():
    letters = bases.Letters(Alphabet("____abc", "____xyzO"))
    letters.borrow(["xy ", " Qz"])
    assert letters.alphabet.borrowed == {"Q": "O"}
    assert letters.target("xQ ") == [1, 4, 7, 2]


def test_what_is_in_both_splits_and_unknown_words_are_told(cli, scored):
    done = cli("train", "--base", "tiny-encoder", "--data", scored, "--dev", scored, "--kind",
               "text-to-text", "--input", "text", "--target", "score", *FEW)  # fmt: skip
    assert done.code == 2  # an encoder cannot write
    done = cli("train", "--base", "tiny-decoder", "--data", scored, "--dev", scored, "--kind",
               "text-to-text", "--input", "text", "--target", "score", *FEW)  # fmt: skip
    assert "inputs of dev (100%) are in train" in done.out, done.err
    assert "of the tokens of train are unknown" in done.out


def test_one_answer_for_everything_is_told():
    task = mp.tasks.make("t", "classify", train=[("a", "x"), ("b", "y")])
    note = scoring.note_of_one_answer(task, ["x"] * 4, ["x", "x", "x", "y"])
    assert "every answer is 'x', which is right for 75%" in note and "another learning rate" in note
    assert scoring.note_of_one_answer(task, ["x", "y"], ["y", "x"]) is None


def test_rates_are_tried_and_the_best_one_is_trained_with(cli, scored):
    how = ("--input", "text", "--target", "score", "--kind", "regression", "--steps", 30)
    done = cli("train", "--base", "tiny-encoder", "--data", scored, *how, "--out", "r",
               "--learning-rate", 1e-5, "--find-rate", "--dev-limit", 6)  # fmt: skip
    assert done.code == 0, done.err
    (chosen,) = [line for line in done.out.splitlines() if "this one" in line]
    rate = float(chosen.split()[0])
    assert rate > 1e-4  # the grid around 1e-5 was extended beyond its edge
    assert "rates.png" in {path.name for path in Path("r").iterdir()}
    config = json.loads(Path("r", "config.json").read_text())
    assert config["options"]["learning_rate"] == rate and not config["options"]["find_rate"]


@pytest.mark.parametrize(
    ("losses", "always", "rate", "expected"),
    [
        ([2.0] * 30, [None], 1e-4, "from 2 to 2: try --learning-rate 0.001"),
        ([1.0] * 15 + [3.0] * 15, [None], 1e-1, "from 1 to 3: try --learning-rate 0.01"),
        ([2.0] * 30, ["x"], 1e-2, "try --learning-rate 0.001"),
        ([2.0] * 15 + [1.0] * 15, ["x", "x"], 1e-3, "dev is 'x': try --learning-rate 0.01"),
        ([2.0] * 15 + [1.0] * 15, ["x", None], 1e-3, None),
        ([2.0] * 5, ["x"], 1e-3, None),
    ],
)
def test_a_run_that_learnt_nothing_says_which_rate_to_try(losses, always, rate, expected):
    notes = find_rate.advice(losses, always, rate, default=1e-3)
    assert (not notes) if expected is None else expected in notes[0]


def test_a_score_of_nothing_is_told_though_the_loss_has_moved():
    """Entities are rare: a tagger may get better for long before it finds one."""
    losses = [2.0] * 15 + [1.0] * 15
    (note,) = find_rate.advice(losses, [None, "O"], 1e-3, 1e-3, ("f1", 0.0))
    assert "every answer on dev is 'O', and the best f1 on dev is 0: train longer, try" in note
    (note,) = find_rate.advice([2.0] * 30, [None], 1e-3, 1e-3, ("matthews", -0.1))
    assert "the best matthews on dev is -0.1: try --learning-rate 0.01" in note
    assert not find_rate.advice(losses, [None, "O"], 1e-3, 1e-3, ("f1", 0.2))
    assert not find_rate.advice(losses, [None, None], 1e-3, 1e-3, ("error_rate", 0.0))


def test_every_method_has_a_rate_and_the_command_line_trains_with_it(cli, scored):
    how = ("--input", "text", "--target", "score", "--kind", "regression")
    done = cli("train", "--base", "tiny-encoder", "--data", scored, *how, *FEW, "--method",
               "prompttuning", "--length", 2, "--out", "r")  # fmt: skip
    assert done.code == 0, done.err
    config = json.loads(Path("r", "config.json").read_text())
    assert config["options"]["learning_rate"] == mp.PromptTuning.default_rate


def test_a_prefix_through_an_mlp_is_trained_with_smaller_steps(cli, scored):
    """hidden features move a row of keys and values together: MiniLM stays at chance from 1e-3."""
    assert mp.Prefix().rate() == mp.PTuningV2(reparameterize="mlp").rate() == 3e-4
    assert mp.Prefix(hidden=None).rate() == mp.PTuningV2().rate() == 3e-2
    how = ("--input", "text", "--target", "score", "--kind", "regression")
    done = cli("train", "--base", "tiny-encoder", "--data", scored, *how, *FEW, "--method",
               "prefix", "--out", "r")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(Path("r", "config.json").read_text())["options"]["learning_rate"] == 3e-4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lora",), "learning rate 0.001 (of the head 0.01),"),
        (("lora", "--head-rate", 0.002), "learning rate 0.001 (of the head 0.002),"),
        (("prompttuning", "--length", 2), "learning rate 0.02 (of the head 0.02),"),
        (("headonly", "--learning-rate", 0.001), "learning rate 0.001,"),
    ],
)
def test_a_head_of_random_numbers_learns_faster_than_a_rate_for_a_trained_base(
    cli, scored, words, said
):
    how = ("--input", "text", "--target", "score", "--kind", "regression")
    done = cli("train", "--base", "tiny-encoder", "--data", scored, *how, *FEW, "--out", "r",
               "--method", *words)  # fmt: skip
    assert done.code == 0, done.err
    assert said in Path("r", "README.md").read_text()
    done = cli("train", "--base", "tiny-encoder", "--data", scored, *how, *FEW, "--start", "r",
               "--out", "again")  # fmt: skip
    assert done.code == 0, done.err
    assert "(of the head" not in Path("again", "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "wrong", "right"),
    [("LoRA", "r", "rank"), ("LoRA", "lora_alpha", "alpha"), ("Prefix", "lenght", "length"),
     ("PTuningV2", "num_virtual_tokens", "length"), ("IA3", "target_modules", "targets")],
)  # fmt: skip
def test_a_setting_by_another_name_is_refused_with_the_right_one(method, wrong, right):
    with pytest.raises(TypeError, match=f"no setting '{wrong}': did you mean {right}="):
        getattr(mp, method)(**{wrong: 1})
    with pytest.raises(TypeError, match="it has targets, feedforward, layers"):
        mp.IA3(colour="red")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "--lr", "1e-3"), "did you mean --learning-rate by --lr?"),
        (("train", "--epochss=3"), "did you mean --epochs by --epochss?"),
        (("train", "--r", "4"), "did you mean --rank by --r?"),
        (("trian",), "did you mean train?"),
        (("train", "--method", "prefix", "--rank", "4"), "arguments: --rank 4 (see"),
    ],
)
def test_a_flag_by_another_name_is_refused_with_the_right_one(cli, words, sentence):
    done = cli(*words)
    assert done.code == 2 and sentence in done.err


def test_a_sample_is_drawn_by_the_seed_in_the_order_of_the_file():
    rows = tuple(Example(str(number), "x") for number in range(100))
    drawn = [int(e.input) for e in data.drawn(rows, 20, "0/train", "--limit")]
    assert len(set(drawn)) == 20 and drawn == sorted(drawn) and drawn != list(range(20))
    assert max(drawn) > 50 > min(drawn)
    assert [int(e.input) for e in data.drawn(rows, 20, "0/train", "--limit")] == drawn
    assert [int(e.input) for e in data.drawn(rows, 20, "1/train", "--limit")] != drawn
    assert data.drawn(rows, None, "0", "--limit") == data.drawn(rows, 100, "0", "--limit") == rows


def table(name, rows):
    Path(name).write_text("input,target\n" + "".join(f"{x},{y}\n" for x, y in rows))
    return name


def trained(cli, kind, *words):
    return cli("train", "--base", "tiny-encoder", "--kind", kind, *FEW, *words)


def test_spaces_around_labels_are_no_part_of_them(cli):
    rows = [(f"w{n} film", ("good", "good ", "bad")[n % 3]) for n in range(30)]
    done = trained(cli, "classification", "--data", table("a.csv", rows), "--out", "r")
    assert done.code == 0 and "labels: good 19 (70%), bad 8 (30%)\n" in done.out, done.out
    assert json.loads(Path("r/config.json").read_text())["task"]["labels"] == ["bad", "good"]
    done = cli("evaluate", "r", "--data", table("b.csv", [("w1 film", " good ")]))
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("kind", "targets", "sentence"),
    [
        ("classification", ("1", "1.0", "0"), "labels '1' and '1.0' are one label"),
        ("classification", ("good", "nan"), "the label 'nan', which says that there is none"),
        ("regression", ("1.5", "nan"), "example 2, has the target 'nan', which is not a number"),
        ("regression", ("1.5", '"2,5"'), "in every row, such as 1234.5: a point"),
        ("regression", ("1.5", '"1.234,5"'), "such as 1234.5: a point before the decimals"),
        ("classification", ("good", "#N/A"), "the label '#N/A', which says that there is none"),
        ("regression", ("1.5", "-inf"), "example 2, has the target '-inf'"),
    ],
)
def test_labels_and_numbers_that_are_none_are_refused(cli, kind, targets, sentence):
    rows = [(f"w{n} film", targets[n % len(targets)]) for n in range(30)]
    done = trained(cli, kind, "--data", table("a.csv", rows))
    assert done.code == 2 and sentence in done.err
    assert not Path("runs").exists()


def test_labels_are_those_of_the_whole_file_whatever_is_drawn(cli):
    """A label that a small sample has not, or that is in the held-out part only, is no mistake."""
    rows = [(f"w{n} film", f"label{n}") for n in range(30)]
    done = trained(cli, "classification", "--data", table("a.csv", rows), "--limit", 5)
    assert done.code == 0, done.err
    assert "note: 25 of 30 labels have no example to train on (" in done.out
    dev = ("--dev", table("d.csv", [("w film", "other")]))
    done = trained(cli, "classification", "--data", "a.csv", *dev)
    assert done.code == 2 and "d.csv, example 1, has the label 'other'" in done.err


@pytest.mark.parametrize("first", ["-w{} film", "it's w{}\nfilm"])
def test_the_commands_to_try_next_run(cli, first):
    """As a shell reads them, whatever the first text begins with."""
    rows = [(first.format(n), n % 2) for n in range(20)]
    Path("d.jsonl").write_text(
        "".join(json.dumps({"input": x, "target": y}) + "\n" for x, y in rows)
    )
    done = trained(cli, "classification", "--data", "d.jsonl", "--out", "r")
    lines = [line for line in done.out.splitlines() if line.startswith("  python -m minipeft ")]
    assert [line.split()[3] for line in lines] == ["evaluate", "predict", "inspect"]
    for line in lines:
        again = cli(*shlex.split(line.replace("OTHER_FILE", "d.jsonl"))[3:])
        assert again.code == 0, again.err


def test_several_labels_of_one_text_are_no_label(cli):
    """They were joined by a space, and learnt as a label of their own."""
    rows = [{"input": f"w{n} film", "target": ["a", "b"][: n % 2 + 1]} for n in range(20)]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = trained(cli, "classification", "--data", "d.jsonl")
    assert done.code == 2 and "d.jsonl, line 2, has a list in 'target'" in done.err
    assert trained(cli, "tagging", "--data", "d.jsonl").code == 2  # two words and one tag
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::2]))
    assert "only 'a'" in trained(cli, "classification", "--data", "d.jsonl").err  # a list of one


def test_a_table_of_many_labels_ends(cli):
    labels = tuple(f"label{n}" for n in range(150))
    task = Task("t", "classify", {}, labels=labels)
    table = str(scoring.label_table(task, labels, labels))
    assert "label0 " in table and table.count("\n") < 110
    assert "and 50 labels with as few examples, or fewer" in table


def test_what_the_labels_and_scores_may_not_be_is_told(cli):
    rows = [(f"w{n} film", ("good", "None", "bad")[n % 3]) for n in range(30)]
    done = trained(cli, "classification", "--data", table("a.csv", rows))
    assert "note: 'None' is learnt as a label like others" in done.out
    done = trained(cli, "regression", "--data", table("b.csv", [(x, 2) for x, _ in rows]))
    assert "note: all targets are the same number" in done.out
    for tag, words in (("B-PER", False), ("PER-B", True), ("1", True)):
        tagged = [(f"w{n} film", f"O {tag}") for n in range(30)]
        done = trained(cli, "tagging", "--data", table("c.csv", tagged))
        assert done.code == 0 and ("note: f1 counts single words" in done.out) == words


def test_labels_that_differ_in_capital_letters_are_told(cli):
    rows = [(f"w{n} film", ("good", "Good", "bad")[n % 3]) for n in range(30)]
    done = trained(cli, "classification", "--data", table("a.csv", rows))
    assert "note: the labels 'Good' and 'good' differ in capital letters only" in done.out


def test_a_grid_is_chosen_and_shown_by_the_metric(cli):
    rows = [(f"{('good', 'bad')[n % 2]} w{n}", n % 2) for n in range(30)]
    grid = ("compare", "--base", "tiny-encoder", "--kind", "classification", *FEW, "--seeds", 0)
    done = cli(*grid, "--data", table("a.csv", rows), "--methods", "bitfit", "--metric", "matthews")
    assert done.code == 0 and "matthews on dev, rates chosen" in done.out, done.err + done.out


def test_the_best_weights_have_the_lowest_error_where_lower_is_better(cli, scored):
    how = (
        "--input",
        "text",
        "--target",
        "score",
        "--kind",
        "regression",
        "--metric",
        "mse,pearson",
    )
    done = cli("train", "--base", "tiny-encoder", "--data", scored, *how, "--steps", 8, "--out",
               "r", "--validate-every", 1, "--learning-rate", 0.05)  # fmt: skip
    assert done.code == 0, done.err
    log = [json.loads(line) for line in Path("r/log.jsonl").read_text().splitlines()]
    errors = [line["validation"]["mse"] for line in log if "validation" in line]
    result = json.loads(Path("r/result.json").read_text())
    assert errors[result["best_step"] - 1] == min(errors) == result["dev"]["mse"]
    assert min(errors) < max(errors) and list(result["dev"])[:2] == ["mse", "pearson"]


def test_a_sample_of_texts_keeps_the_references_of_an_input_together():
    rows = tuple(Example(f"input {n // 8}", f"target {n}") for n in range(80))
    drawn = data.drawn_whole(rows, 30, "0", "--dev-limit")
    assert len(drawn) == 24 and len({e.input for e in drawn}) == 3
    assert data.drawn_whole(rows[::8], 5, "0", "x") == data.drawn(rows[::8], 5, "0", "x")
    assert len(data.drawn_whole(rows, 5, "0", "x")) == 5
    with pytest.raises(ValueError, match="--dev-limit must be at least 1"):
        data.drawn_whole(rows, 0, "0", "--dev-limit")


@pytest.mark.parametrize(
    ("texts", "cut", "expected"),
    [
        (["the unfunny film", "unfunny"], 3, ["the unfunny film", "unfunny"]),  # a word stays whole
        (["the  unfunny film", "a"], 2, ["the unfunny", "a"]),
        (["ACGT" * 20, "TTGA"], 3, ["ACG", "TTG"]),  # no text has a space
        (["unbelievable", "fine"], 5, ["unbelievable", "fine"]),  # these are words
        (["这部电影很好看", "the film 很好看"], 3, ["这部电", "the film 很"]),
        ([join("a b c d", "e f g")], 2, [join("a b", "e f")]),
    ],
)
def test_longer_texts_are_cut_by_words_or_by_signs(texts, cut, expected):
    rows = tuple(Example(text, "same number of words") for text in texts)
    short = shortening.to_words(rows, cut, tagged=False)
    assert [e.input for e in short] == expected
    assert {e.target for e in short} == {"same number of words"}  # only tags are cut alike


def test_a_long_text_in_which_no_word_fits_is_cut_by_signs():
    def fits(text):
        return len(text.split()) + len(text) // 10 <= 5

    assert shortening.until(fits, Example("x" * 90 + " y", "l"), tagged=False).input == "x" * 49
    assert fits(shortening.until(fits, Example("好" * 70 + " 好", "l"), tagged=False).input)


def test_a_prediction_reads_texts_as_they_were_read_in_training(cli, premises):
    """Shortened alike, in pairs, with the columns that had been named."""
    rows = [(f"{'good' if n % 2 else 'bad'} w{n}", n % 2) for n in range(20)]
    Path("d.csv").write_text("".join(f"{x},{y}\n" for x, y in rows))
    how = ("--columns", "text,label", "--input", "text", "--target", "label", "--cut", 2)
    done = trained(cli, "classification", "--data", "d.csv", *how, "--out", "r")
    assert done.code == 0, done.err
    done = cli("predict", "r", "good " * 900)
    assert done.code == 0 and "1 texts had more words than --cut" in done.out, done.err
    assert cli("predict", "r", "--data", "d.csv").code == 0
    Path("e.jsonl").write_text('{"text": "good w", "label": 1}\n')
    assert cli("evaluate", "r", "--data", "e.jsonl").code == 0
    how = ("--input", "a,b", "--target", "label", "--out", "p")
    assert trained(cli, "classification", "--data", premises, *how).code == 0
    done = cli("predict", "p", "the cat | is dog", "the cat | is cat")
    assert done.code == 0 and "the cat | is dog" in done.out, done.err
    done = cli("predict", "p", "the cat", "is dog")
    assert done.code == 2 and "reads pairs of texts (a,b)" in done.err
    Path("new.csv").write_text("a,b\nthe cat,is dog\n")
    done = cli("evaluate", "p", "--data", "new.csv", "--predictions", "out.jsonl")
    assert done.code == 0 and json.loads(Path("out.jsonl").read_text())["input"].count("|") == 1


def test_two_columns_with_a_space_between_their_names(cli, premises):
    how = ("--input", "a, b", "--target", "label", "--out", "p")
    done = trained(cli, "classification", "--data", premises, *how)
    assert done.code == 0, done.err
    assert "| is" in cli("predict", "p", "--data", premises).out


def test_inputs_that_have_several_answers_are_told(cli):
    rows = [("a film", n % 2) for n in range(6)] + [(f"w{n} film", n % 2) for n in range(20)]
    done = trained(cli, "classification", "--data", table("a.csv", rows), "--dev-share", 0.05)
    said = "note: 1 inputs are in train with different answers each."
    assert done.code == 0 and said in done.out, done.out


def test_a_model_that_fetch_has_fetched_is_a_base_by_its_name(cli, bert, texts, monkeypatch):
    assets = Path("assets/checkpoints")
    assets.mkdir(parents=True)
    (assets / "all-minilm-l6-v2").symlink_to(bert)
    monkeypatch.setenv("MINIPEFT_ASSETS", str(Path("assets").resolve()))
    monkeypatch.delenv("MINIPEFT_REAL", raising=False)
    how = ("--base", "minilm", "--data", texts, "--kind", "classification", *FEW)
    done = cli("train", *how, "--out", "r")
    assert done.code == 0, done.err
    assert json.loads(Path("r/config.json").read_text())["base"]["name"] == str(bert)
    assert cli("inspect", "minilm").code == 0
    assert cli("compare", *how, "--methods", "bitfit", "--seeds", 0, "--out", "g").code == 0
    monkeypatch.setenv("MINIPEFT_REAL", "0")
    done = cli("train", *how)
    assert done.code == 2 and "python -m minipeft fetch minilm does it" in done.err


def test_a_tag_that_is_none_of_entities_is_told_once(cli, recwarn):
    rows = [("Oslo is Rome now", "B-place O -place O") for _ in range(20)]
    how = ("--data", table("a.csv", [(f"w{n} {x}", f"O {y}") for n, (x, y) in enumerate(rows)]))
    done = trained(cli, "tagging", *how, "--metric", "entity_f1")
    assert done.code == 0, done.err
    assert "note: beside tags such as B-x and I-x there is '-place'" in done.out
    assert not [warning for warning in recwarn if "NE tag" in str(warning.message)]


def test_the_limits_of_evaluate_and_doctor_hold_without_answers_too(cli):
    rows = [(f"{'good' if n % 2 else 'bad'} w{n}", n % 2) for n in range(20)]
    data_file = table("d.csv", rows)
    done = trained(cli, "classification", "--data", data_file, "--out", "r")
    assert done.code == 0, done.err
    Path("long.csv").write_text("input\n" + "".join(f"text {n}{' good' * 900}\n" for n in range(9)))
    how = ("evaluate", "r", "--data", "long.csv", "--predictions", "out.jsonl", "--limit", 4)
    assert "positions" in cli(*how).err
    done = cli(*how, "--max-length", 12)
    assert done.code == 0 and "4 inputs were longer than --max-length" in done.out, done.err
    answered = [json.loads(line)["input"] for line in Path("out.jsonl").read_text().splitlines()]
    drawn = data.drawn([f"text {n} " for n in range(9)], 4, "limit", "--limit")
    assert all(map(str.startswith, answered, drawn)) and len(answered) == 4
    Path("long.csv").write_text("input,target\n" + f"text{' good' * 900},1\nother,0\n")
    done = cli("doctor", "r", "--data", "long.csv")
    assert done.code == 2 and "positions" in done.err
    assert cli("doctor", "r", "--data", "long.csv", "--max-length", 12).code in (0, 1)


def test_answers_that_no_mask_holds_are_told(cli):
    rows = [(f"the cat {n}", ("sun", "the moon")[n % 2]) for n in range(20)]
    done = trained(cli, "cloze", "--data", table("a.csv", rows))
    assert done.code == 0 and "0% of the targets are more than one token" in done.out, done.err
    done = trained(cli, "cloze", "--data", table("a.csv", rows[::2] * 2))
    assert done.code == 0 and "more than one token" not in done.out


def test_numbers_that_are_given_as_classes_are_told(cli):
    rows = [(f"w{n} film", n % 20) for n in range(40)]
    done = trained(cli, "classification", "--data", table("a.csv", [(x, y / 10) for x, y in rows]))
    said = "note: the 20 labels are numbers with decimals, each learnt as a class of its own"
    assert done.code == 0 and said in done.out and "--kind regression" in done.out, done.err
    whole = table("b.csv", rows)
    assert "numbers with decimals" not in trained(cli, "classification", "--data", whole).out
    many = table("c.csv", [(f"w{n} film", n / 10) for n in range(1100)])
    done = trained(cli, "classification", "--data", many)
    assert done.code == 2 and "are no classes" in done.err and "--kind regression?" in done.err
    assert trained(cli, "regression", "--data", many).code == 0


def test_a_word_with_a_space_inside_is_one_word(cli, bert):
    """As in transformers, whose tokenizers take words one by one."""
    hf = pytest.importorskip("transformers")
    words, tags = ["we", "see", "he w1", "or", "w2"], ["O", "O", "B-x", "O", "B-y"]
    rows = [{"input": words, "target": tags}, {"input": words[1:], "target": tags[1:]}] * 8
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = mp.tasks.make("t", "tag", train="d.jsonl")
    tokenizer = hf.AutoTokenizer.from_pretrained(bert)
    ids, kinds = Encoding(task, tokenizer, "encoder").tagged(*task.train[0])
    theirs = tokenizer(words, is_split_into_words=True)
    assert ids == theirs["input_ids"]
    of_word = theirs.word_ids()
    firsts = [w is not None and w not in of_word[:n] for n, w in enumerate(of_word)]
    known = [task.labels.index(tag) for tag in tags]
    assert kinds == [known[w] if first else -100 for w, first in zip(of_word, firsts, strict=True)]
    how = ("--data", "d.jsonl", "--kind", "tagging", *FEW, "--out", "r")
    assert cli("train", "--base", bert, *how).code == 0
    assert cli("predict", "r", "--data", "d.jsonl", "--out", "out.jsonl").code == 0
    said = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert said[0]["input"] == "we see he␣w1 or w2"
    assert [len(each["prediction"].split()) for each in said[:2]] == [5, 4]
    done = cli("evaluate", "r", "--data", "d.jsonl", "--predictions", "again.jsonl")
    assert done.code == 0, done.err
    again = [json.loads(line) for line in Path("again.jsonl").read_text().splitlines()]
    assert [a["prediction"] for a in again] == [s["prediction"] for s in said]


def test_a_list_of_texts_to_be_classified_keeps_its_spaces(cli, bert):
    rows = [{"input": ["we see", "he w1 it"], "target": n % 2} for n in range(20)]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (example, *_) = data.read("d.jsonl", kind="classify")
    assert example.input == "we see he w1 it"


@pytest.mark.parametrize("printed", [json.dumps, str], ids=["json", "python"])
@pytest.mark.parametrize("kinds", [["B-x", "O", "O"], [1, 0, 0]], ids=["names", "numbers"])
def test_lists_of_words_in_a_table_are_words(cli, tmp_path, printed, kinds):
    """As pandas writes them into a .csv file: "['a', ..." was learnt as a word."""
    words = ["New York", "isn't", 'a "b"']
    rows = [{"tokens": printed([*words[n:], *words[:n]]), "tags": printed(kinds)} for n in range(3)]
    with Path("t.csv").open("w", newline="") as file:
        lines = csv.DictWriter(file, ["tokens", "tags"])
        lines.writeheader()
        lines.writerows(rows * 4)
    read = data.read("t.csv", "tokens", "tags", kind="tag")
    assert read[1] == Example('isn\'t a␣"b" New␣York', " ".join(map(str, kinds)))
    assert data.read("t.csv", "tokens", "tags", kind="classify")[0].input == rows[0]["tokens"]
    how = ("--kind", "tagging", "--input", "tokens", "--target", "tags", "--steps", 1)
    done = cli("train", "--base", "tiny-encoder", "--data", "t.csv", *how, "--out", "r")
    assert done.code == 0, done.err
    Path("t.csv").write_text("tokens\n" + '"[""a"", ""b""]"\n[ 1 ]\n')
    assert cli("predict", "r", "--data", "t.csv", "--out", "p.csv").code == 0
    answers = Path("p.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in answers] == ["a b", "[ 1 ]"]
    assert [len(line.partition(",")[2].split()) for line in answers] == [2, 3]


@pytest.mark.parametrize(
    ("tokens", "tags"), [("['a' 'b']", "['O' 'O']"), ("['a', 'b']", "O O"), ("['a', b']", "[0, 0]")]
)
def test_lists_of_words_that_cannot_be_read_are_refused(cli, tokens, tags):
    """['a' 'b'], as numpy prints a list, is ['ab'] for Python."""
    Path("t.csv").write_text(f'tokens,tags\n"{tokens}","{tags}"\n')
    with pytest.raises(ValueError, match="row 1, has a list of words that is no JSON"):
        data.read("t.csv", "tokens", "tags", kind="tag")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data", "a.csv", "--data", "b.csv"), "--data is given twice"),
        (("--input", "a", "--input=b"), "--input is given twice"),
        (("--method", "lora", "--method", "prefix"), "--method is given twice"),
        (("--data", "a.csv", "--data", "a.csv"), None),
        (("--steps", 3, "--steps", 4), None),
    ],
)
def test_a_flag_of_which_only_the_last_would_count_is_refused(cli, words, sentence):
    """Of two files of data, one was trained on."""
    for name in "ab":
        Path(f"{name}.csv").write_text("a,b,target\n" + "good w,x,1\nbad w,y,0\n" * 9)
    base = ("--base", "tiny-encoder", "--kind", "classification", "--out", "r")
    rest = {"--data": ("--input", "a"), "--input": ("--data", "a.csv")}
    rest = rest.get(words[0], ("--data", "a.csv", "--input", "a"))
    done = cli("train", *base, *rest, *words, *(FEW[2:] if "--steps" in words else FEW))
    assert done.code == (2 if sentence else 0) and (sentence or "") in done.err, done.err
    grid = ("compare", "--base", "tiny-decoder", "--data", "reverse", "--seeds", 0, "--seeds", 1)
    done = cli(*grid)
    assert done.code == 2 and "--seeds is given twice, but only one would count" in done.err
    done = cli(*grid[:-2], "--methods", "lora:rank=2;rank=4")
    assert done.code == 2 and "gives rank twice" in done.err


@pytest.mark.parametrize("flags", [("a", "a"), ("a,b", "b"), ("a,a", "b")])
def test_a_column_is_not_question_and_answer_at_once(cli, flags):
    Path("a.csv").write_text("a,b\n" + "good w,x\nbad w,y\n" * 9)
    done = cli("train", "--base", "tiny-encoder", "--kind", "classification", "--data", "a.csv",
               "--input", flags[0], "--target", flags[1], *FEW)  # fmt: skip
    assert done.code == 2 and "name a column twice" in done.err


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_header_that_the_training_had_not_is_a_header(cli, ending):
    """Which was refused with a flag to leave away that nobody had given."""
    sign = "," if ending == ".csv" else "\t"
    rows = "".join(f"a w{n}{sign}{n % 2}\n" for n in range(20))
    for name, header in (("train", ""), ("test", f"text{sign}label\n"), ("one", "")):
        Path(f"{name}{ending}").write_text(header + (rows if name != "one" else f"a b{sign}1\n"))
    how = ("--kind", "classification", "--input", "text", "--target", "label", "--columns",
           "text,label", *FEW)  # fmt: skip
    assert cli("train", "--base", "tiny-encoder", "--data", f"train{ending}", *how, "--out",
               "r").code == 0  # fmt: skip
    for name, count in (("test", 20), ("train", 20), ("one", 1)):
        done = cli("evaluate", "r", "--data", name + ending)
        assert done.code == 0 and f"{count} examples" in done.out, done.err
        done = cli("predict", "r", "--data", name + ending, "--out", "p.csv")
        assert done.code == 0 and len(Path("p.csv").read_text().splitlines()) == count + 1


@pytest.mark.parametrize(
    ("kind", "base", "how"),
    [
        ("classification", "tiny-encoder", "so train a smaller --length"),
        ("text-to-text", "tiny-decoder", "so shorten its answer, or train a smaller --length"),
    ],
)
def test_a_prompt_that_is_longer_than_the_model_is_told(cli, kind, base, how):
    """Of every text it was said that its answer was too long."""
    Path("d.csv").write_text("input,target\n" + "good w,1\nbad w,0\n" * 9)
    done = cli("train", "--base", base, "--data", "d.csv", "--kind", kind, *FEW, "--method",
               "prompttuning", "--length", 2000)  # fmt: skip
    assert done.code == 2 and f"the 2000 tokens of the method leave too few, {how}" in done.err


@pytest.mark.parametrize(("numbered", "every"), [(False, True), (False, False), (True, True)])
def test_the_labels_of_a_base_with_a_head_keep_their_places(cli, numbered, every):
    """Those of the data were sorted, so that a trained head began with its classes mixed up."""
    hf = pytest.importorskip("transformers")
    names = [f"LABEL_{n}" for n in range(12)] if numbered else ["z", "b", "y", "a"]
    torch.manual_seed(0)
    sizes = dict(vocab_size=zoo.WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    sizes |= dict(intermediate_size=16, max_position_embeddings=40, pad_token_id=0)
    model = hf.BertForSequenceClassification(
        hf.BertConfig(**sizes, id2label=dict(enumerate(names)), label2id=dict.fromkeys(names, 0))
    )
    for weight in (p for p in model.parameters() if p.dim() == 2):
        torch.nn.init.normal_(weight)
    model.save_pretrained("base")
    tt.WordTokenizer([f"w{n}" for n in range(zoo.WORDS - 14)]).save("base", 32)
    texts = [f"w{n} w{3 * n}" for n in range(20)]
    assert cli("predict", "base", *texts, "--kind", "classification", "--out", "p.csv").code == 0
    said = [line.partition(",")[2] for line in Path("p.csv").read_text().splitlines()[1:]]
    said = [name.removeprefix("LABEL_") for name in said]
    assert len(set(said)) > 2
    lacking = {name.removeprefix("LABEL_") for name in names} - set(said)
    rows = [*zip(texts, said, strict=True)]
    if every:
        rows += [(f"lone {name}", name) for name in lacking]
    else:  # a label of the base is not in the data
        rows = [row for row in rows if row[1] != said[0]] * 2
    Path("d.csv").write_text("input,target\n" + "".join(f"{x},{y}\n" for x, y in rows))
    Path("t.csv").write_text("input,target\n" + "".join(f"{x},{y}\n" for x, y in rows[:20]))
    how = ("--kind", "classification", "--base", "base", "--data", "d.csv", "--dev", "t.csv",
           "--steps", 1, "--head-rate", 1e-9)  # fmt: skip
    done = cli("train", *how, "--learning-rate", 1e-9, "--targets", "query", "--out", "r")
    assert done.code == 0 and "dev: accuracy 1.0000" in done.out, done.out
    assert "accuracy  1\n" in cli("evaluate", "r", "--data", "t.csv").out
    done = cli("compare", *how, "--test", "t.csv", "--learning-rates", 1e-9, "--methods",
               "lora:targets=query", "--seeds", 0, "--out", "g")  # fmt: skip
    assert json.loads(next(Path("g/cells").iterdir()).read_text())["test"]["accuracy"] == 1.0
    if not numbered:
        assert json.loads(Path("r/config.json").read_text())["task"]["labels"] == names
