"""Tasks: what a model is shown, what counts as an answer, and files of the user."""

import json
import math

import pytest
import tiny_models
import torch
import zoo

import minipeft as mp
import tiny_transformer as tt
from minipeft.model.kind import head_of, kind_of
from minipeft.tasks import scoring
from minipeft.tasks.encoding import Encoding, Example
from minipeft.tasks.heads import head_for
from minipeft.tasks.tasks import Task, load, make, names, read

WORDS = "a b c d e f g h x y yes no left . = > other person place".split()
PAIRS = [("a b =>", "b a ."), ("c =>", "c ."), ("d e f =>", "f e d ."), ("g a =>", "a g .")]


def tokenizer(ends: bool = False) -> tt.WordTokenizer:
    return tt.WordTokenizer(WORDS, ends=ends)


def model(layout: str, head: str = "language", labels: int = 3, **numbers):
    size = {"vocab_size": len(tokenizer()), "width": 32, "layers": 2, "heads": 2}
    return tiny_models.fresh(layout, head, labels, **size | numbers)


def ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


PAD, BOS, EOS, MASK = 0, 1, 2, 4


# -- what a model is shown


def test_a_decoder_is_asked_for_the_target_only():
    task = make("m", "generate", train=PAIRS[:2])
    batch = Encoding(task, tokenizer(), "decoder").batch(task.train)
    first = [BOS, *ids("a b =>"), *ids("b a ."), EOS]
    second = [BOS, *ids("c =>"), *ids("c ."), EOS]
    assert batch["input_ids"].tolist() == [first, second + [PAD] * 2]
    assert batch["attention_mask"].tolist() == [[1] * 9, [1] * 7 + [0] * 2]
    assert batch["labels"].tolist() == [
        [-100] * 5 + ids("b a .") + [EOS],
        [-100] * 4 + ids("c .") + [EOS] + [-100] * 2,
    ]


def test_an_encoder_decoder_has_source_and_target():
    task = make("m", "generate", train=PAIRS[:2])
    batch = Encoding(task, tokenizer(ends=True), "encoder-decoder").batch(task.train)
    assert batch["input_ids"].tolist()[1] == [BOS, *ids("c =>"), EOS, PAD]
    assert batch["labels"].tolist() == [[*ids("b a ."), EOS], [*ids("c ."), EOS, -100]]


def test_an_encoder_is_asked_at_the_mask():
    task = make("m", "cloze", train=[("a", "x"), ("b c", "y")])
    batch = Encoding(task, tokenizer(ends=True), "encoder").batch(task.train)
    first, second = batch["input_ids"].tolist()
    assert first == [BOS, *ids("a"), MASK, EOS, PAD] and second == [BOS, *ids("b c"), MASK, EOS]
    first, second = batch["labels"].tolist()
    assert first == [-100, -100, *ids("x"), -100, -100]
    assert second == [-100, -100, -100, *ids("y"), -100]


def test_a_text_may_have_its_own_mask():
    task = make("m", "cloze", train=[("a <mask> b", "x")])
    encoding = Encoding(task, tokenizer(ends=True), "encoder")
    batch = encoding.batch(task.train)
    assert batch["input_ids"].tolist() == [[BOS, *ids("a"), MASK, *ids("b"), EOS]]
    assert batch["labels"].tolist() == [[-100, -100, *ids("x"), -100, -100]]
    assert len(encoding.answers(model("bert"), ["a <mask> b", "c"])) == 2
    with pytest.raises(ValueError, match="has 2 mask tokens"):
        encoding.masked("<mask> <mask>")


def test_one_word_answers_end_without_eos():
    task = make("m", "cloze", train=[("a", "x")])
    batch = Encoding(task, tokenizer(), "decoder").batch(task.train)
    assert batch["input_ids"].tolist() == [[BOS, *ids("a x")]]


USUAL = {  # kind of task -> head of a decoder, of an encoder, and of an encoder-decoder
    "generate": ("language", None, "language"),  # an encoder cannot write
    "cloze": ("language", "language", "language"),
    "classify": ("language", "classification", "language"),
    "tag": ("tagging", "tagging", "tagging"),
    "regress": ("classification", "classification", "classification"),
}
POSSIBLE = {  # heads that may be asked for by name
    "generate": {"language"},
    "cloze": {"language"},
    "classify": {"language", "classification"},
    "tag": {"tagging"},
    "regress": {"classification"},
}


@pytest.mark.parametrize("kind", USUAL)
def test_which_head_answers_a_task(kind):
    task = Task("t", kind, {}, labels=("a", "b") if kind in ("classify", "tag") else None)
    for model_kind, usual in zip(
        ("decoder", "encoder", "encoder-decoder"), USUAL[kind], strict=True
    ):
        for head in (None, "language", "classification", "tagging"):
            if usual and (head is None or head in POSSIBLE[kind]):
                assert head_for(task, model_kind, head) == (head or usual)
            else:
                with pytest.raises(ValueError, match="Task 't'|task t |An encoder cannot write"):
                    head_for(task, model_kind, head)


def test_heads_get_classes_and_tags():
    task = make("m", "classify", train=[("a b", "yes"), ("c", "no"), ("d", "yes")])
    assert task.labels == ("yes", "no")
    batch = Encoding(task, tokenizer(ends=True), "encoder").batch(task.train)
    assert batch["labels"].tolist() == [0, 1, 0]
    task = make("m", "tag", train=[("a b", "person other")], labels=["other", "person"])
    batch = Encoding(task, tokenizer(ends=True), "encoder").batch(task.train)
    assert batch["input_ids"].tolist() == [[BOS, *ids("a b"), EOS]]
    assert batch["labels"].tolist() == [[-100, 1, 0, -100]]
    batch = Encoding(task, tokenizer(), "decoder").batch(task.train)
    assert batch["labels"].tolist() == [[-100, 1, 0]]


def test_a_tag_goes_to_the_first_piece_of_its_word():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "anna", "ate", "pan", "##cake"]
    inner = tokenizers.BertWordPieceTokenizer({word: i for i, word in enumerate(words)})
    pieces = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip
    task = make("m", "tag", train=[("anna ate pancake", "p o f"), ("anna", "p")], labels="opf")
    batch = Encoding(task, pieces, "encoder").batch(task.train)
    assert batch["input_ids"].tolist() == [[2, 4, 5, 6, 7, 3], [2, 4, 3, 0, 0, 0]]
    o, p, f = 0, 1, 2
    assert batch["labels"].tolist() == [[-100, p, o, f, -100, -100], [-100, p] + [-100] * 4]


@pytest.mark.parametrize(
    ("template", "before", "behind"),
    [("$A </s>", [], [1]), ("</s> $A", [1], []), ("<s> $A </s>", [0], [1])],  # T5, OPT, BART
)
def test_special_tokens_of_tagged_words_stand_as_around_a_text(template, before, behind):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "anna": 3, "ate": 4}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    task = make("m", "tag", train=[("anna ate", "p o")], labels="op")
    batch = Encoding(task, words, "encoder").batch(task.train)
    assert batch["input_ids"].tolist() == [words("anna ate")["input_ids"]]
    assert batch["input_ids"].tolist() == [[*before, 3, 4, *behind]]
    nothing = -100
    assert batch["labels"].tolist() == [[nothing] * len(before) + [1, 0] + [nothing] * len(behind)]


def test_labels_that_a_language_head_cannot_tell_apart_are_told(recwarn):
    task = make("m", "classify", train=[("a", "unseen"), ("b", "unknown")])  # both are <unk>
    with pytest.warns(UserWarning, match="'unseen' and 'unknown' of task 'm' are the same tokens"):
        task.batches("train", tokenizer())
    with pytest.warns(UserWarning, match="are the same tokens"):
        task.predict(model("gpt2"), tokenizer(), ["a"])
    first = make("m", "classify", train=[("a", "yes left"), ("b", "yes no")])
    with pytest.warns(UserWarning, match="begin with the same token"):
        Encoding(first, tokenizer(ends=True), "encoder", "language")
    Encoding(first, tokenizer(), "decoder")  # it reads whole labels
    Encoding(task, tokenizer(ends=True), "encoder")  # a classification head has its classes
    assert not recwarn.list


# -- batches


def test_batches_are_a_function_of_seed_and_step():
    rows = [(f"{a} {b}", b) for a in "abcdefgh" for b in "abcd"]
    task = make("m", "cloze", train=rows)

    def texts(batch):
        return [tokenizer().decode(row) for row in batch["input_ids"]]

    one = task.batches("train", tokenizer(), batch_size=5, seed=1, epochs=2)
    assert len(one) == 14 == len(list(one))
    epochs = [
        [text for step in range(7 * e, 7 * e + 7) for text in texts(one(step))] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(f"{a} {b}" for a, b in rows)
    assert epochs[0] != epochs[1]
    assert [texts(b) for b in one] == [texts(one(step)) for step in range(14)]
    other = task.batches("train", tokenizer(), batch_size=5, seed=2)
    assert texts(other(0)) != texts(one(0))
    with pytest.raises(TypeError, match="steps= or epochs="):
        len(other)
    few = task.batches("train", tokenizer(), batch_size=5, seed=1, steps=3, limit=4)
    assert len(list(few)) == 3 and {t for b in few for t in texts(b)} == {
        f"{a} {b}" for a, b in rows[:4]
    }


# -- scores


def fit(net, task, words, kind, steps=100, rate=5e-3):
    batches = task.batches("train", words, kind, batch_size=8)
    mp.train(net, batches, steps=steps, learning_rate=rate, progress=False)
    return net


@pytest.mark.parametrize(("layout", "kind"), [("gpt2", "decoder"), ("bart", "encoder-decoder")])
def test_a_model_that_has_learned_by_heart_scores_one(layout, kind):
    words, net = tokenizer(ends=kind != "decoder"), model(layout)
    task = make("m", "generate", train=PAIRS, test=PAIRS)
    assert task.score(net, words)["exact"] < 0.5
    fit(net, task, words, kind)
    assert task.score(net, words) == {"exact": 1.0, "overlap": 1.0}
    assert task.predict(net, words, ["d e f =>"]) == ["f e d ."]
    wrong = make("m", "generate", test=[PAIRS[0], ("c =>", "d .")])
    assert wrong.score(net, words)["exact"] == 0.5


def test_cloze_and_classes_by_mask_and_head():
    words = tokenizer(ends=True)
    cloze = make("m", "cloze", train=[("a", "x"), ("b", "y")], test=[("a", "x"), ("b", "x")])
    assert cloze.score(fit(model("bert"), cloze, words, "encoder"), words)["accuracy"] == 0.5
    rows = [("a b", "yes"), ("b a", "no"), ("c d", "yes"), ("d c", "no")]
    classes = make("m", "classify", train=rows, test=rows)
    net = fit(model("bert", "classification", 2), classes, words, "encoder")
    assert classes.score(net, words)["accuracy"] == 1
    rows = [("a b", "other person"), ("b a", "place other")]
    tags = make("m", "tag", train=rows, labels=["other", "person", "place"])
    net = fit(model("bert", "tagging", 3), tags, words, "encoder")
    assert tags.predict(net, words, ["b a", "a b"]) == ["place other", "other person"]
    assert tags.score(net, words, "train") == {"accuracy": 1.0, "f1": 1.0}


def test_entities_of_several_words_and_labels_in_any_order():
    task = make("m", "tag", labels=["B-x", "I-x", "O"], test=[("a b c d", "B-x I-x O B-x")])
    assert scoring.scores(task, ["B-x I-x O O"], ["B-x I-x O B-x"])["f1"] == 2 * 1 / (1 + 2)
    task = make("m", "tag", labels=["x", "other"], test=[("a b", "x other")])
    assert scoring.scores(task, ["other other"], ["x other"])["f1"] == 0
    task = make("m", "tag", labels=["ADJ", "NOUN"], test=[("a b", "ADJ NOUN")])
    assert scoring.scores(task, ["NOUN NOUN"], ["ADJ NOUN"])["f1"] == 0.5  # no tag is left out
    task = make("m", "classify", labels=["A", "a"], test=[("b", "a")])
    assert scoring.scores(task, ["A"], ["a"]) == {"accuracy": 0}


@pytest.mark.parametrize("kind", ["generate", "cloze", "likelier", "classify", "tag", "written"])
def test_under_route_every_input_is_answered_by_its_own_tuner(kind):
    layout = {"generate": "gpt2", "likelier": "gpt2", "written": "bart"}.get(kind, "bert")
    head = {"classify": "classification", "tag": "tagging"}.get(kind, "language")
    net = tiny_models.scramble(model(layout, head), size=0.3)
    words = tokenizer(ends=layout != "gpt2")
    inputs = ["a b c d e", "a", "b a", "c a b", "d", "e f g h", "f b"]
    rows = [(text, "x y no" if kind in ("generate", "written") else "x") for text in inputs]
    if kind == "tag":
        rows = [(text, " ".join(["x"] * len(text.split()))) for text in inputs]
    task = make(
        "m",
        {"likelier": "classify", "written": "generate"}.get(kind, kind),
        labels=["x", "y", "no"] if kind in ("likelier", "classify", "tag") else None,
        test=rows,
    )
    methods = {
        "short": mp.PromptTuning(length=2),
        "long": mp.PromptTuning(length=5),
        "low-rank": mp.LoRA(rank=2),
    }
    alone = {None: task.predict(net, words, inputs)}
    for number, (name, method) in enumerate(methods.items()):
        tuner = mp.attach(net, method, name)
        zoo.shake(tuner, 1.0, seed=number)
        alone[name] = task.predict(net, words, inputs)
        tuner.disable()
    for name in methods:
        mp.tuners(net)[name].enable()
    names = ["short", "long", None, "low-rank", "long", "short", None]
    with mp.route(net, names):
        mixed = task.predict(net, words, inputs, batch_size=3)
        score = task.score(net, words)
        with pytest.raises(ValueError, match="route.. names 7 rows, but there are 2 inputs"):
            task.predict(net, words, inputs[:2])
    assert mixed == [alone[name][i] for i, name in enumerate(names)]
    assert len(set(map(tuple, alone.values()))) > 2  # the tuners do answer differently
    assert score == scoring.scores(task, mixed, [target for _, target in rows])


def test_the_likelier_label_is_chosen_among_the_labels_only():
    words, net = tokenizer(), tiny_models.scramble(model("gpt2"), size=0.3)
    task = make("m", "classify", labels=["yes", "no left"], test=[("a b c", "yes")])
    with torch.no_grad():

        def score(label):
            prompt, target = words.encode("a b c"), ids(label)
            logits = net(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
            return sum(logits[len(prompt) - 1 + i, word].item() for i, word in enumerate(target))

    best = max(task.labels, key=score)
    assert task.predict(net, words, ["a b c"]) == [best]
    assert not math.isclose(score("yes"), score("no left"), abs_tol=1e-3)


def test_padding_does_not_change_an_answer():
    words, net = tokenizer(), tiny_models.scramble(model("gpt2"), size=0.3)
    task = make("m", "generate", test=PAIRS)
    inputs = [text for text, _ in PAIRS]
    assert task.predict(net, words, inputs) == [task.predict(net, words, [t])[0] for t in inputs]


def test_transformers_models_and_tokenizers_give_the_same(tmp_path):
    transformers = pytest.importorskip("transformers")
    net = tiny_models.scramble(model("gpt2"), size=0.3)
    tt.save(net, tokenizer(), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    task = make("m", "generate", test=PAIRS)
    ours = Encoding(task, tokenizer(), "decoder").batch(task.test)
    for key, value in Encoding(task, words, "decoder").batch(task.test).items():
        assert torch.equal(value, ours[key]), key
    inputs = [text for text, _ in PAIRS]
    assert task.predict(theirs, words, inputs) == task.predict(net, tokenizer(), inputs)
    assert kind_of(theirs) == "decoder" and head_of(theirs) == "language"


def test_scoring_leaves_the_mode_and_the_random_numbers_alone():
    net = model("gpt2").train()
    state = torch.get_rng_state()
    make("m", "generate", test=PAIRS).score(net, tokenizer())
    assert net.training and torch.equal(state, torch.get_rng_state())


# -- files


def test_every_task_of_the_project_loads():
    assert {"capital", "reverse", "reverse-rotate", "review-label", "restaurant"} <= set(names())
    for name in names():
        task = load(name)
        assert task.family in ("latent", "novel") and task.name == name
        assert len(task.train) >= 80 and len(task.dev) >= 20 and len(task.test) >= 50
        assert all(isinstance(example, Example) and example.target for example in task.ood)
    assert len(load("capital").details["unused_wordings"]) >= 8


def test_the_folder_can_be_named_and_its_absence_is_told(tmp_path, monkeypatch):
    folder = tmp_path / "tasks" / "mine"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text('{"kind": "generate"}')
    (folder / "test.jsonl").write_text(json.dumps({"input": "a", "target": "b"}) + "\n")
    assert load(folder).test == (Example("a", "b"),)
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    assert names() == ["mine"] and load("mine").name == "mine"
    with pytest.raises(FileNotFoundError, match="'yours'; choose of mine"):
        load("yours")
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="MINIPEFT_DATA"):
        names()


def test_files_of_the_user(tmp_path):
    wanted = (Example('a "b"', "x"), Example("c, d", "y"))
    (tmp_path / "a.tsv").write_text('sentence\tlabel\na "b"\tx\nc, d\ty\n')
    (tmp_path / "a.csv").write_text('sentence,label\n"a ""b""",x\n"c, d",y\n')
    rows = [{"sentence": e.input, "label": e.target} for e in wanted]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for ending in ("tsv", "csv", "jsonl"):
        assert read(tmp_path / f"a.{ending}", input="sentence", target="label") == wanted
    with pytest.raises(ValueError, match="line 2, has no 'input'"):
        read(tmp_path / "a.csv")
    (tmp_path / "b.jsonl").write_text('{"input": "a", "target": "b"}\n{"input": ')
    with pytest.raises(ValueError, match="line 2"):
        read(tmp_path / "b.jsonl")
    with pytest.raises(FileNotFoundError, match="give a .jsonl"):
        read(tmp_path / "c.jsonl")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="convert it"):
        read(tmp_path / "a.txt")


def test_what_does_not_fit_together_is_refused():
    task = make("m", "generate", train=PAIRS)
    for problem, call in [
        ("no split 'test'", lambda: task.examples("test")),
        ("cannot write", lambda: task.batches("train", tokenizer(), "encoder")),
        ("has no classes", lambda: task.batches("train", tokenizer(), head="classification")),
        ("tagging head and kind 'tag'", lambda: task.batches("train", tokenizer(), head="tagging")),
        ("model_kind is", lambda: task.batches("train", tokenizer(), "gpt")),
        ("no examples", lambda: make("m", "generate", train=[]).batches("train", tokenizer())),
        ("kind is one of", lambda: make("m", "guess")),
        ("needs labels", lambda: make("m", "tag")),
        ("Splits are", lambda: make("m", "generate", validation=PAIRS)),
    ]:
        with pytest.raises(ValueError, match=problem):
            call()
    tags = make("m", "tag", train=[("a b", "person")], labels=["other", "person"])
    with pytest.raises(ValueError, match="one tag per word"):
        tags.batches("train", tokenizer(), "encoder")(0)
    classes = make("m", "classify", train=[("a", "maybe")], labels=["yes", "no"])
    with pytest.raises(ValueError, match="'maybe' is no label"):
        classes.batches("train", tokenizer(), "encoder")(0)


def test_a_task_of_dicts():
    rows = [{"input": "fine soup", "target": "good"}, {"input": "cold soup", "target": 0}]
    task = mp.tasks.make("mine", "classify", train=rows)
    assert [(e.input, e.target) for e in task.train] == [("fine soup", "good"), ("cold soup", "0")]
    assert task.labels == ("good", "0")
    with pytest.raises(ValueError, match="columns 'text', 'label', but needs 'input' and 'target'"):
        mp.tasks.make("mine", "classify", train=[{"text": "a", "label": "b"}])
    for odd in ("ab", ("a",), 3):
        with pytest.raises(ValueError, match="An example is"):
            mp.tasks.make("mine", "classify", train=[odd])


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "8", True, [8]])
def test_impossible_sizes_of_batches_are_refused(wrong):
    task = mp.tasks.make("t", "generate", train=[("a", "b")])
    for name in ("batch_size", "steps", "epochs"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
            task.batches("train", None, **{name: wrong})
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1"):
        task.batches("train", None, limit=wrong)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        task.predict(model("gpt2"), tokenizer(), ["a"], batch_size=wrong)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"labels": ["a"]}'])
def test_a_folder_whose_description_is_none_is_told(tmp_path, content):
    (tmp_path / "task.json").write_text(content)
    with pytest.raises(ValueError, match="must be a JSON object that says at least"):
        mp.tasks.load(tmp_path)
