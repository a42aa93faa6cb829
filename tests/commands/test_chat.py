"""Conversations and the files of other trainers on the command line."""

import csv
import json

import chatting
import pytest
import torch

from minipeft.commands import cards, data, forms, shortening
from minipeft.tasks import chat
from minipeft.tasks.encoding import Example

pytest.importorskip("transformers")

CITIES = [("France", "Paris"), ("Japan", "東京"), ("Peru", "Lima"), ("Cuba", "Havana"),
          ("Egypt", "Cairo"), ("Chile", "Santiago")]  # fmt: skip
PAIRS = [(f"Capital of {country}?", city) for country, city in CITIES]
FEW = ("--steps", 2, "--batch-size", 2, "--dev-limit", 2, "--rank", 2)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("system", [None, "", "You are\n a “pirate”."])
def test_what_a_card_says_of_conversations_is_one_line(system):
    said = cards.details_of({"kind": "generate", "labels": None, "chat": {"system": system}})
    words = ', the system says "You are a “pirate”."' if system else ""
    assert said == f", conversations by the chat template of the base{words}"


@pytest.mark.parametrize("row, expected", [
    ({"prompt": "a"}, (("prompt",), "completion", True)),
    ({"prompt": "a", "completion": "b", "input": "c"}, (("prompt",), "completion", True)),
    ({"prompt": "a", "input": "c"}, (("input",), "target", False)),
    ({"prompt": "a", "input": "c", "target": "b"}, (("input",), "target", False)),
    ({"instruction": "a", "input": "c"}, (("instruction",), "output", True)),
    ({"messages": None, "prompt": "a"}, (("prompt",), "completion", True)),
    ({"other": "a"}, (("input",), "target", False)),
])  # fmt: skip
def test_which_columns_are_known(row, expected):
    """With or without answers; a prompt beside an input is another's."""
    assert forms.columns_of("d.jsonl", row, None, None, None) == expected
    assert forms.columns_of("d.jsonl", row, None, None, "generate") == expected
    assert forms.columns_of("d.jsonl", row, None, None, "tag") == (("input",), "target", False)


@pytest.mark.parametrize("around", ["{}", " \n{} ", "{}x", "x{}"])
def test_messages_that_a_table_holds_as_json_are_a_conversation(around):
    text = around.format(json.dumps(exchange("a", "b")))
    assert chat.is_chat(forms.listed(text)) == ("x" not in around)
    if "x" in around:
        assert forms.listed(text) == text
    else:
        assert chat.messages_of(forms.listed(text)) == exchange("a", "b")


def exchange(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


SYSTEM = {"role": "system", "content": "Be a pirate."}
FORMS = {
    "messages": [{"messages": exchange(*pair), "id": 7} for pair in PAIRS],
    "parts": [{"messages": [m | {"content": [{"type": "text", "text": m["content"]}]}
                            for m in exchange(*pair)]} for pair in PAIRS],
    "text": [{"messages": json.dumps(exchange(*pair))} for pair in PAIRS],
    "sharegpt": [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
                 for q, a in PAIRS],
    "unanswered": [{"messages": [*exchange(q, a), {"role": "user", "content": "Thanks"}]}
                   for q, a in PAIRS],
    "messages of two": [{"prompt": exchange(q, a)[:1], "completion": exchange(q, a)[1:]}
                        for q, a in PAIRS],
}  # fmt: skip
PLAIN = {
    "completion": [{"prompt": q, "completion": a} for q, a in PAIRS],
    "alpaca": [{"instruction": q, "input": "", "output": a} for q, a in PAIRS],
    "instruction": [{"instruction": q, "output": a} for q, a in PAIRS],
}


@pytest.fixture(scope="session")
def talker(tmp_path_factory):
    """A base whose tokenizer has a chat template."""
    return chatting.base(tmp_path_factory.mktemp("bases") / "talker", chatting.tokenizer())


@pytest.fixture
def asked(monkeypatch):
    """The ids of every prompt that a model was asked with, without padding."""
    import minipeft as mp
    from minipeft.tasks import encoding

    prompts, plain = [], mp.generate

    def noted(model, input_ids, attention_mask=None, **how):
        prompts.extend(row[row != 0].tolist() for row in input_ids)
        return plain(model, input_ids, attention_mask, **how)

    monkeypatch.setattr(mp, "generate", noted)
    monkeypatch.setattr(encoding, "generate", noted)
    return prompts


def template(messages, ask=True):
    made = chatting.tokenizer()
    return made.apply_chat_template(messages, add_generation_prompt=ask)["input_ids"]


def examples(path, wrapping=forms.AS_THEY_ARE):
    return data.read(str(path), kind="generate", wrapping=wrapping)


@pytest.mark.parametrize("name", [*FORMS, *PLAIN])
def test_every_form_is_the_same_conversation(tmp_path, name):
    path = write(tmp_path / "file.jsonl", (FORMS | PLAIN)[name])
    wrapping = forms.Wrapping(chat=name in PLAIN)
    assert examples(path, wrapping) == tuple(Example(chat.question(q), a) for q, a in PAIRS)
    text = path.read_text(encoding="utf-8")
    text = "".join(json.dumps(json.loads(line), ensure_ascii=False) + "\n"
                   for line in text.splitlines())  # fmt: skip
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert len(examples(path, wrapping)) == len(PAIRS)
    if name in PLAIN:
        assert examples(path) == tuple(Example(q, a) for q, a in PAIRS)


def test_what_stands_beside_the_question_is_not_lost(tmp_path):
    rows = [{"instruction": "Turn round.", "input": q, "output": a} for q, a in PAIRS]
    path = write(tmp_path / "alpaca.jsonl", rows)
    assert examples(path)[0] == (f"Turn round.\n\n{PAIRS[0][0]}", PAIRS[0][1])
    with_system = [row | {"system": SYSTEM["content"]} for row in PLAIN["completion"]]
    path = write(tmp_path / "system.jsonl", with_system)
    assert examples(path)[0].input == chat.written([SYSTEM, exchange(*PAIRS[0])[0]])
    before = exchange("Hi", "Hello")
    prompted = [{"prompt": [*before, *exchange(q, a)[:1]], "completion": exchange(q, a)[1:]}
                for q, a in PAIRS]  # fmt: skip
    text, answer = examples(write(tmp_path / "prompted.jsonl", prompted))[0]
    made = chatting.tokenizer()
    ids, labels = chat.encode(made, text, answer)
    assert made.decode([label for label in labels if label >= 0]) == "Paris<|im_end|>"
    assert ids == template([*before, *exchange(*PAIRS[0])], ask=False)


def test_columns_of_nothing_are_left_out(tmp_path):
    nothing = {"history": None, "tools": None, "functions": [], "system": None}
    path = write(tmp_path / "file.jsonl", [row | nothing for row in PLAIN["instruction"]])
    assert examples(path) == tuple(Example(q, a) for q, a in PAIRS)


def test_a_question_without_its_answer_is_the_same_question(cli, talker, tmp_path, asked):
    """Of Alpaca's columns the instruction was left out where no answer stood beside it."""
    rows = [{"instruction": "Turn round.", "input": q} for q, _ in PAIRS]
    path = write(tmp_path / "t.jsonl", [row | {"output": "a"} for row in rows])
    done = cli("train", "--base", talker, "--data", path, "--kind", "text-to-text", "--out", "run",
               *FEW)  # fmt: skip
    assert done.code == 0, done.err
    asked.clear()
    done = cli("generate", "run", "--data", write(tmp_path / "q.jsonl", rows), "--tokens", 2)
    assert done.code == 0, done.err
    made = chatting.tokenizer()
    assert asked == [made.encode(f"Turn round.\n\n{q}") for q, _ in PAIRS]


def test_a_run_of_conversations_is_examined_as_it_was_trained(cli, talker, tmp_path, monkeypatch):
    """On a task of the project as well."""
    import minipeft as mp

    path = write(tmp_path / "c.jsonl", [{"messages": [SYSTEM, *exchange(*pair)]} for pair in PAIRS])
    assert cli("train", "--base", talker, "--data", path, "--out", "run", *FEW).code == 0
    batches, examine = [], mp.doctor
    monkeypatch.setattr(mp, "doctor", lambda m, batch, *how: batches.append(batch) or examine(
        m, batch, *how))  # fmt: skip
    start = template([SYSTEM], ask=False)
    for words in (("--data", path), ("--data", "reverse"), ("Hello there",), ()):
        assert cli("doctor", "run", *words).code in (0, 1)
        assert batches[-1]["input_ids"][0, : len(start)].tolist() == start, words


LONG_SYSTEM = chatting.CHATML.replace("Be kind.", "Be kind. " * 60)


@pytest.mark.parametrize(
    ("written", "positions", "beyond", "fits"),
    [(chatting.CHATML, 128, 0, True), (chatting.CHATML, 128, 1, False),
     (LONG_SYSTEM, 512, 1, False)],
)  # fmt: skip
def test_what_the_template_writes_counts_where_positions_end(
    cli, tmp_path, written, positions, beyond, fits
):
    """Before a question, and behind an answer, where the row is longer than what is learnt."""
    made = chatting.tokenizer(written)
    base = chatting.base(tmp_path / "base", made, positions, learnt_positions=True)
    around = len(made.apply_chat_template(exchange("", "b"))["input_ids"])
    count = max(1, positions - around + beyond)
    rows = [{"messages": exchange(sign * count, "b")} for sign in "abcdef"]
    done = cli("train", "--base", base, "--data", write(tmp_path / "c.jsonl", rows), *FEW)
    assert (done.code == 0) == fits, done.err
    assert fits or f"tokens, but the model knows {positions} positions" in done.err, done.err


def test_conversations_of_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(FORMS["messages"]), tmp_path / "file.parquet")
    assert examples(tmp_path / "file.parquet")[1] == (chat.question(PAIRS[1][0]), PAIRS[1][1])


def table(path, rows):
    """Rows of text as the file that the path's ending names."""
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        write(path, rows)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            sign = "," if path.suffix == ".csv" else "\t"
            how = dict(quoting=csv.QUOTE_NONE, quotechar=None) if sign == "\t" else {}
            lines = csv.DictWriter(file, rows[0], delimiter=sign, lineterminator="\n", **how)
            lines.writeheader()
            lines.writerows(rows)
    return path


@pytest.mark.parametrize("printed", [json.dumps, str], ids=["json", "python"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_messages_in_a_cell_are_a_conversation_in_any_column(
    cli, talker, tmp_path, ending, printed
):
    """As JSON, and as pandas writes a column of lists into a .csv file."""
    rows = [{"n": str(n), "talk": printed([SYSTEM, *exchange(*pair)])}
            for n, pair in enumerate(PAIRS)]  # fmt: skip
    expected = tuple(Example(chat.written([SYSTEM, exchange(*p)[0]]), p[1]) for p in PAIRS)
    path = table(tmp_path / f"talk.{ending}", rows)
    assert data.read(str(path), input="talk", kind="generate") == expected
    two = [{"ask": printed([SYSTEM, exchange(*pair)[0]]), "say": printed(exchange(*pair)[1:])}
           for pair in PAIRS]  # fmt: skip
    two = table(tmp_path / f"two.{ending}", two)
    assert data.read(str(two), input="ask", target="say", kind="generate") == expected
    done = cli("train", "--base", talker, "--data", path, "--input", "talk", "--out", "r", *FEW)
    assert done.code == 0, done.err
    for words in (("evaluate", "r"), ("predict", "r"), ("generate", "r", "--tokens", 2)):
        assert cli(*words, "--data", path).code == 0, words
    plain = table(tmp_path / f"plain.{ending}", [*rows, {"n": "9", "talk": "Hello"}])
    done = cli("train", "--base", talker, "--data", plain, "--input", "talk", *FEW)
    assert done.code == 2 and "row 7: 'talk' must be a list of messages" in done.err


@pytest.mark.parametrize("cell", ['[{"event": "open"}, {"event": "shut"}]', "[{1, 2}]", "[{ a"])
def test_a_text_that_is_no_message_stays_a_text(cli, tmp_path, cell):
    rows = [{"log": cell + " " * n, "kind": "ab"[n % 2]} for n in range(8)]
    path = table(tmp_path / "log.csv", rows)
    read = data.read(str(path), input="log", target="kind", kind="generate")
    assert read == tuple(Example(row["log"], row["kind"]) for row in rows)
    done = cli("train", "--base", "tiny-decoder", "--data", path, "--input", "log", "--target",
               "kind", *FEW)  # fmt: skip
    assert done.code == 2 and "Say what the data asks for: --kind" in done.err


REFUSED = {
    "chosen": ([{"prompt": "a", "chosen": "b", "rejected": "c"}], "--input prompt --target chosen"),
    "whole": (
        [{"chosen": exchange("a", "b"), "rejected": exchange("a", "c")}],
        "give --input chosen --kind text-to-text.",
    ),
    "question": ([{"messages": exchange("a", "b")[:1]}], "row 1: the conversation lacks an answer"),
    "answer": ([{"messages": exchange("a", "b")[1:]}], "lacks a question"),
    "empty": ([{"messages": exchange("a", "")}], "message 2, of the assistant has no text"),
    "none": ([{"messages": []}], "nothing in 'messages'"),
    "words": ([{"messages": "Hello"}], "must be a list of messages"),
    "tools": ([{"messages": exchange("a", "b"), "tools": [{"name": "f"}]}], "'tools'"),
    "functions": ([{"messages": exchange("a", "b"), "functions": {"name": "f"}}], "'functions'"),
    "sentence": ([{"messages": json.dumps([*exchange("a", "b"), "c"])}], "message 3, has no role"),
    "history": ([{"instruction": "a", "output": "b", "history": [["c", "d"]]}], "'history'"),
    "references": ([{"input": "a", "target": ["b c", "d"]}], "'target' is a list of texts"),
    "texts": ([{"input": ["b c", "d"], "target": "a"}], "'input' is a list of texts"),
    "mixed": (
        [{"prompt": "a", "completion": exchange("a", "b")}],
        "begins with what the user says",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_read_wrongly_is_refused(cli, talker, tmp_path, name):
    rows, sentence = REFUSED[name]
    path = write(tmp_path / "file.jsonl", rows * 3)
    done = cli("train", "--base", talker, "--data", path, "--kind", "text-to-text", *FEW)
    assert done.code == 2 and sentence in done.err, done.err


def preferences():
    """Files of chosen and rejected answers, a row of each pair: name -> rows."""
    texts = [(q, a, "x") for q, a in PAIRS]
    chats = [(q, exchange(q, a), exchange(q, "x")) for q, a in PAIRS]
    return {
        "texts": [{"prompt": q, "chosen": c, "rejected": r} for q, c, r in texts],
        "question": [{"question": q, "chosen": c, "rejected": r} for q, c, r in texts],
        "whole": [{"chosen": c, "rejected": r} for _, c, r in chats],
        "prompt and whole": [{"prompt": q, "chosen": c, "rejected": r} for q, c, r in chats],
        "prompt and answer": [
            {"prompt": c[:1], "chosen": c[1:], "rejected": r[1:]} for _, c, r in chats
        ],
        "text and answer": [{"prompt": q, "chosen": c[1:], "rejected": r[1:]} for q, c, r in chats],
        "liked": [{"prompt": q, "completion": c, "label": True} for q, c, _ in texts],
    }


@pytest.mark.parametrize("name", preferences())
def test_the_flags_that_are_named_for_preferences_read_what_was_chosen(cli, talker, tmp_path, name):
    path = write(tmp_path / "file.jsonl", preferences()[name])
    words = ("train", "--base", talker, "--data", path, *FEW)
    done = cli(*words)
    assert done.code == 2, done.out
    flags = done.err.partition("give --input")[2].partition(" to learn all")[0].strip().rstrip(".")
    flags = f"--input {flags}".split()
    done = cli(*words, *flags, "--out", "r")
    assert done.code == 0, done.err
    options = json.loads((tmp_path / "r/config.json").read_text())["options"]
    read = data.read(str(path), options["input"], options["target"], kind="generate")
    assert [each.target for each in read] == [city for _, city in PAIRS]
    assert all(question in each.input for (question, _), each in zip(PAIRS, read, strict=True))


def test_answers_that_were_not_liked_are_not_learnt_unnoticed(cli, talker, tmp_path):
    rows = [{"prompt": q, "completion": a, "label": a > "L"} for q, a in PAIRS]
    path = write(tmp_path / "file.jsonl", rows)
    done = cli("train", "--base", talker, "--data", path, *FEW)
    assert done.code == 2 and "whether an answer was liked" in done.err
    write(path, [{"prompt": q, "completion": a, "label": "cities"} for q, a in PAIRS])
    assert cli("train", "--base", talker, "--data", path, "--kind", "text-to-text", *FEW).code == 0
    write(path, [{"chosen": "Q: a A: b", "rejected": "Q: a A: c"}] * 4)
    done = cli("train", "--base", talker, "--data", path, *FEW)
    assert done.code == 2 and "give the question a column of its own" in done.err


def test_a_chosen_answer_can_be_learnt(tmp_path):
    rows = [{"prompt": q, "chosen": exchange(q, a), "rejected": exchange(q, "x")} for q, a in PAIRS]
    path = write(tmp_path / "file.jsonl", rows)
    assert data.read(str(path), input="chosen", kind="generate")[0].target == "Paris"
    with pytest.raises(ValueError, match="give its column as --input"):
        data.read(str(path), input="prompt", target="chosen", kind="generate")


def test_a_run_asks_as_it_was_trained(cli, talker, tmp_path, asked):
    """Training, validation, generate, predict, evaluate and the merged folder: one template."""
    rows = [{"messages": [SYSTEM, *exchange(*pair)]} for pair in PAIRS]
    path, plain = write(tmp_path / "c.jsonl", rows), write(tmp_path / "p.jsonl", PLAIN["alpaca"])
    done = cli("train", "--base", talker, "--data", path, "--out", "run", *FEW)
    assert done.code == 0, done.err
    assert "the system says 'Be a pirate.'" in done.out and "\x1e" not in done.out
    assert 'generate run "Capital of' in done.out.replace("'", '"')
    known = [template([SYSTEM, exchange(q, a)[0]]) for q, a in PAIRS]
    assert asked and all(prompt in known for prompt in asked)
    start = template([SYSTEM], ask=False)
    bare = [template(exchange(*pair)[:1]) for pair in PAIRS]
    other = [template([{"role": "system", "content": "Hm"}, exchange(*PAIRS[0])[0]])]
    for words, prompts in [
        (("generate", "run", PAIRS[0][0]), known[:1]),
        (("generate", "run", PAIRS[0][0], "--system", "Hm"), other),
        (("generate", "run/adapter", PAIRS[0][0]), known[:1]),
        (("generate", "run", "--data", path), known),
        (("generate", "run", "--data", plain), known),
        (("predict", "run", PAIRS[0][0]), known[:1]),
        (("predict", "run", "--data", path, "--out", "said.jsonl"), known),
        (("evaluate", "run", "--data", path), known),
        (("evaluate", "run", "--data", plain), known),
        (("evaluate", "run", "--data", "reverse", "--limit", 1), None),
        (("evaluate", talker, "--data", write(tmp_path / "m.jsonl", FORMS["messages"])), bare),
        (("generate", talker, PAIRS[0][0], "--chat"), bare[:1]),
    ]:
        asked.clear()
        done = cli(*words)
        assert done.code == 0, done.err
        if prompts is None:  # of any task of the project
            assert asked[0][: len(start)] == start
            continue
        assert sorted(asked) == sorted(prompts), words
    assert json.loads((tmp_path / "said.jsonl").read_text().split("\n")[0])["input"] == PAIRS[0][0]
    card = (tmp_path / "run/README.md").read_text()
    assert 'the system says "Be a pirate."' in card
    assert cli("doctor", "run", "--data", path).code in (0, 1)
    done = cli("train", "--start", "run", "--data", plain, "--out", "again", *FEW[:-2])
    assert done.code == 0, done.err
    asked.clear()
    assert cli("generate", "again", "Hi").code == 0
    assert asked == [template([{"role": "user", "content": "Hi"}])]


def test_a_run_of_plain_texts_is_not_asked_with_a_template(cli, talker, tmp_path, asked):
    plain, path = (write(tmp_path / f"{n}.jsonl", rows) for n, rows in
                   (("p", PLAIN["completion"]), ("c", FORMS["messages"])))  # fmt: skip
    done = cli("train", "--base", talker, "--data", plain, "--kind", "text-to-text", "--out", "run",
               *FEW)  # fmt: skip
    assert done.code == 0 and "--chat makes an input" in done.out, done.err
    asked.clear()
    assert cli("generate", "run", "Hello").code == 0
    assert asked == [chatting.tokenizer().encode("Hello")]
    for words in (["generate", "run", "Hello", "--chat"], ["evaluate", "run", "--data", path],
                  ["predict", "run", "--data", path]):  # fmt: skip
        done = cli(*words)
        assert done.code == 2 and "plain texts, without a chat template" in done.err, done.err
    done = cli("generate", talker, "Hello", "--system", "Hm")
    assert done.code == 2 and "give --chat" in done.err
    done = cli("generate", talker, "Hello")
    assert done.code == 0 and "--chat asks with it" in done.err
    done = cli("train", "--base", talker, "--data", plain, "--dev", path, *FEW,
               "--kind", "text-to-text")  # fmt: skip
    assert done.code == 2 and "p.jsonl is of plain texts" in done.err
    done = cli("train", "--base", talker, "--data", path, "--kind", "classification", *FEW,
               "--input", "messages", "--target", "id")  # fmt: skip
    assert done.code == 2 and "for --kind text-to-text" in done.err
    done = cli("train", "--base", "tiny-decoder", "--data", path, *FEW)
    assert done.code == 2 and "has no chat template" in done.err


def test_every_row_is_asked_as_its_adapter_was_trained(cli, talker, tmp_path, asked):
    path = write(tmp_path / "c.jsonl", [{"messages": [SYSTEM, *exchange(*pair)]} for pair in PAIRS])
    plain = write(tmp_path / "p.jsonl", PLAIN["completion"])
    for name, file in (("talks", path), ("writes", plain)):
        done = cli("train", "--base", talker, "--data", file, "--kind", "text-to-text", *FEW,
                   "--out", name, "--learning-rate", 0.1)  # fmt: skip
        assert done.code == 0, done.err
    rows = [
        {"prompt": q, "who": who} for q, who in (("Hi", "a"), ("How are you?", "b"), ("Hi", ""))
    ]
    both = write(tmp_path / "rows.jsonl", rows)
    asked.clear()
    done = cli("generate", talker, "--data", both, "--adapter", "a=talks", "--adapter", "b=writes",
               "--adapter-column", "who", "--out", "out.jsonl", "--tokens", 12)  # fmt: skip
    assert done.code == 0, done.err
    made = chatting.tokenizer()
    talk = template([SYSTEM, {"role": "user", "content": "Hi"}])
    assert asked == [talk, made.encode("How are you?"), made.encode("Hi")]
    together = [json.loads(line)["output"] for line in (tmp_path / "out.jsonl").open()]
    for words, said in ((("talks", "Hi"), together[0]), (("writes", "How are you?"), together[1])):
        done = cli("generate", *words, "--tokens", 12)
        assert done.out.strip() == said.strip()


def test_conversations_are_shortened_from_their_beginning():
    made = chatting.tokenizer()
    turns = [*exchange("aa bb", "cc"), *exchange("dd ee", "ff"), *exchange("gg hh ii", "jj")]
    text = chat.example([SYSTEM, *turns], "row")[0]
    lengths = {n: len(made.apply_chat_template([SYSTEM, *turns[n:-1]], add_generation_prompt=True)
                      ["input_ids"]) for n in (0, 2, 4)}  # fmt: skip
    for start, length in lengths.items():
        short = shortening.latest(lambda t, n=length: len(chat.prompt_ids(made, t)) <= n, text)
        assert chat.messages_of(short) == [SYSTEM, *turns[start:-1]]
    fits = lambda t: len(chat.prompt_ids(made, t)) <= lengths[4] - 1  # noqa: E731
    last = chat.messages_of(shortening.latest(fits, text))
    assert last == [SYSTEM, {"role": "user", "content": "gg hh"}]
    with pytest.raises(ValueError, match="leaves no room"):
        shortening.latest(lambda t: False, text)
    with pytest.raises(ValueError, match="--max-length TOKENS"):
        shortening.to_words([Example(text, "x")], 3, tagged=False)


def test_a_run_of_conversations_that_is_stopped_goes_on_with_the_same_bits(cli, talker, tmp_path):
    path = write(tmp_path / "c.jsonl", FORMS["messages"])
    words = ("train", "--base", talker, "--data", path, "--max-length", 60, "--system", "Hm", *FEW)
    assert cli(*words, "--out", "whole").code == 0
    assert cli(*words, "--out", "part").code == 0
    (tmp_path / "part/result.json").unlink()
    assert cli("train", "--resume", "part").code == 0
    one, two = ((tmp_path / name / "adapter/adapter_model.safetensors").read_bytes()
                for name in ("whole", "part"))  # fmt: skip
    assert one == two


def test_a_long_answer_is_not_to_be_mended_by_a_shorter_question(cli, tmp_path):
    base = chatting.base(tmp_path / "base", chatting.tokenizer(), learnt_positions=True)
    for question, answer, advice in [
        ("Hi", "long " * 200, "its answer alone is too long"),
        ("long " * 200, "Hi", "give --max-length TOKENS"),
    ]:
        rows = [{"messages": exchange(f"{question} {n}", answer)} for n in range(9)]
        path = write(tmp_path / "c.jsonl", rows)
        done = cli("train", "--base", base, "--data", path, *FEW)
        assert done.code == 2 and advice in done.err, done.err
    done = cli("train", "--base", base, "--data", path, "--max-length", 100, *FEW)
    assert done.code == 0 and "9 inputs were longer than --max-length" in done.out, done.err


@pytest.mark.parametrize("method", ["prefix", "prompttuning", "ia3"])
def test_methods_of_every_door_learn_conversations(cli, talker, tmp_path, method):
    path = write(tmp_path / "c.jsonl", FORMS["messages"])
    done = cli("train", "--base", talker, "--data", path, "--out", "run", "--method", method,
               *FEW[:-2])  # fmt: skip
    assert done.code == 0, done.err
    said = cli("generate", "run", "Capital of Peru?", "--tokens", 6).out.strip()
    assert cli("doctor", "run").code in (0, 1)
    rows = write(tmp_path / "p.jsonl", [{"prompt": q} for q in ("Capital of Peru?", "Hi there")])
    assert cli("generate", "run", "--data", rows, "--tokens", 6, "--out", "o.jsonl").code == 0
    assert json.loads((tmp_path / "o.jsonl").read_text().split("\n")[0])["output"] == said


def test_a_grid_of_conversations(cli, talker, tmp_path):
    path = write(tmp_path / "c.jsonl", FORMS["messages"])
    plain = write(tmp_path / "p.jsonl", PLAIN["completion"])
    done = cli("compare", "--base", talker, "--data", path, "--test", plain, "--methods", "lora",
               "--seeds", 0, "--out", "grid", *FEW[:-2])  # fmt: skip
    assert done.code == 0, (done.err, done.out)


def test_texts_longer_than_those_of_the_pretraining_are_told(cli, talker, tmp_path):
    """A model with rotary positions reads them; how well, nobody knows."""
    rows = [{"messages": exchange(f"Hi {n}", "long " * (20 + 200 * (n == 3)))} for n in range(9)]
    path = write(tmp_path / "c.jsonl", rows)
    done = cli("train", "--base", talker, "--data", path, "--dev", path, *FEW)
    assert done.code == 0, done.err
    assert "note: 1 of 9 examples have more than the 512 tokens" in done.out


def test_special_tokens_in_a_text_are_told(cli, talker, tmp_path):
    rows = [{"input": q, "target": f"{a} <|im_end|> and so on"} for q, a in PAIRS]
    path = write(tmp_path / "p.jsonl", rows)
    done = cli("train", "--base", talker, "--data", path, "--kind", "text-to-text", *FEW)
    assert done.code == 0 and "examples have <|im_end|> in their text" in done.out


def test_sampling_of_a_nucleus(cli, talker):
    greedy = cli("generate", talker, "Hello", "--chat", "--tokens", 12).out
    words = ("generate", talker, "Hello", "--chat", "--tokens", 12, "--sample")
    assert cli(*words, "--top-p", 1e-9).out == greedy  # the likeliest word alone is left
    assert cli(*words, "--seed", 1).out == cli(*words, "--seed", 1, "--top-p", 1).out
    assert cli(*words, "--seed", 1).out != cli(*words, "--seed", 2).out
    assert "--top-p must be" in cli(*words, "--top-p", 0).err
    assert "give --sample" in cli(*words[:-1], "--top-p", 0.5).err
    assert "did you mean --tokens by --max-new-tokens" in cli(*words, "--max-new-tokens", 3).err


def test_an_answer_has_the_room_that_the_training_says_and_a_cut_one_is_told(cli, talker, tmp_path):
    rows = [{"messages": exchange(q, "long " * 15)} for q, _ in PAIRS]  # 75 bytes, and the end
    path = write(tmp_path / "c.jsonl", rows)
    assert cli("train", "--base", talker, "--data", path, "--out", "run", *FEW).code == 0
    done = cli("generate", "run", "Hi")
    assert "1 of 1 answers did not end within 76 tokens" in done.err
    done = cli("generate", "run", "Hi", "Ho", "--tokens", 3)
    assert "2 of 2 answers did not end within 3 tokens" in done.err
    assert "did not end" not in cli("generate", talker, "Hi", "--tokens", 3).err


def test_batches_of_one_prompt_are_drawn_anew(cli, talker, tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "Hi"}] * 4)
    cli("generate", talker, "--data", path, "--sample", "--batch-size", 2, "--out", "o.jsonl")
    said = [json.loads(line)["output"] for line in (tmp_path / "o.jsonl").open()]
    assert len(set(said)) == 4


def test_prompts_of_unlike_lengths_are_answered_as_alone(cli, talker, tmp_path):
    prompts = ["Hi", "What is the capital of a large country?", "Why is that so?"]
    path = write(tmp_path / "p.jsonl", [{"prompt": prompt} for prompt in prompts])
    words = ("--chat", "--tokens", 10, "--dtype", "float32")
    done = cli("generate", talker, "--data", path, *words, "--out", "o.jsonl")
    assert done.code == 0, done.err
    together = [json.loads(line)["output"] for line in (tmp_path / "o.jsonl").open()]
    alone = [cli("generate", talker, prompt, *words).out.strip() for prompt in prompts]
    assert together == alone


def test_a_merged_model_writes_the_same_tokens_in_transformers(cli, talker, tmp_path):
    import transformers as hf

    import minipeft as mp

    path = write(tmp_path / "c.jsonl", FORMS["messages"])
    done = cli("train", "--base", talker, "--data", path, "--out", "run", *FEW,
               "--learning-rate", 0.05)  # fmt: skip
    assert done.code == 0, done.err
    assert cli("merge", "run", "merged").code == 0
    model = hf.AutoModelForCausalLM.from_pretrained("merged").eval()
    made = hf.AutoTokenizer.from_pretrained("merged")
    messages = [{"role": "user", "content": "Capital of France?"}]
    batch = made.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    theirs = model.generate(**batch, max_new_tokens=20, do_sample=False)
    base = hf.AutoModelForCausalLM.from_pretrained(talker).eval()
    mp.load(base, "run/adapter", "task")
    ours = mp.generate(base, torch.tensor([template(messages)]), max_new_tokens=20)
    assert torch.equal(ours, theirs)
    said = made.decode(theirs[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    done = cli("generate", "run", "Capital of France?", "--tokens", 20)
    assert done.out.strip() == said.strip()


def test_a_merge_that_half_precision_spoils_is_told_with_the_way_out(cli, talker, tmp_path):
    path = write(tmp_path / "c.jsonl", FORMS["messages"])
    done = cli("train", "--base", talker, "--data", path, "--out", "run", *FEW,
               "--learning-rate", 0.1)  # fmt: skip
    assert done.code == 0, done.err
    done = cli("merge", "run", "half", "--dtype", "bfloat16")
    assert done.code == 1 and "or merge with --dtype float32." in done.out
    assert cli("merge", "run", "whole", "--dtype", "float32").code == 0


def test_a_run_of_two_columns_is_asked_by_conversations_in_another(cli, talker, tmp_path, asked):
    """Their answers were looked for in the column that the training had."""
    path = write(tmp_path / "qa.jsonl", [{"question": q, "answer": a} for q, a in PAIRS])
    done = cli("train", "--base", talker, "--data", path, "--input", "question", "--target",
               "answer", "--chat", "--out", "run", *FEW)  # fmt: skip
    assert done.code == 0, done.err
    other = write(tmp_path / "c.jsonl", FORMS["messages"])
    for words in (("evaluate",), ("predict",), ("generate", "--tokens", 2)):
        asked.clear()
        done = cli(words[0], "run", *words[1:], "--data", other, "--input", "messages")
        assert done.code == 0, done.err
        assert sorted(asked) == sorted(template(exchange(*pair)[:1]) for pair in PAIRS)
    rows = [{"messages": exchange(q, a)[:1], "answer": a} for q, a in PAIRS]
    beside = write(tmp_path / "b.jsonl", rows)
    assert cli("evaluate", "run", "--data", beside, "--input", "messages").code == 0


def test_a_conversation_on_the_command_line(cli, talker, tmp_path, asked):
    """It was asked as if its JSON were what a user says."""
    path = write(tmp_path / "c.jsonl", FORMS["messages"])
    assert cli("train", "--base", talker, "--data", path, "--out", "run", *FEW).code == 0
    talk = [*exchange("Hi", "Hello"), {"role": "user", "content": "Sure?"}]
    for words in (("generate", "run"), ("predict", "run"), ("generate", talker)):
        asked.clear()
        assert cli(*words, json.dumps(talk)).code == 0
        assert asked == [template(talk)]
    done = cli("generate", "run", json.dumps([SYSTEM]))
    assert done.code == 2 and "the conversation has no question" in done.err
    asked.clear()
    assert cli("generate", "run", json.dumps([{"a": 1}])).code == 0  # no messages
    assert asked == [template([{"role": "user", "content": '[{"a": 1}]'}])]
