"""Conversations: the ids are those of the chat template, and only answers are learnt."""

import chatting
import pytest
import torch

import minipeft as mp
from minipeft.generation import ends_of
from minipeft.tasks import chat
from minipeft.tasks.encoding import Encoding, Example

pytest.importorskip("transformers")

SYSTEM = {"role": "system", "content": "Du bist höflich."}
TURNS = [
    {"role": "user", "content": "Wie heißt 北京 auf Deutsch?\r\n"},
    {"role": "assistant", "content": "Peking, \U0001f600!"},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]
TEMPLATES = {  # template, what stands before and behind an answer in its labels
    "chatml": (chatting.CHATML, "", "<|im_end|>"),
    "gemma": (chatting.GEMMA, "", "<end_of_turn>"),
    "inst": (chatting.INST, " ", "<|im_end|>"),
}


def encoding(tokenizer, kind="generate", model="decoder"):
    return Encoding(mp.tasks.make("t", kind, labels=["a", "b"]), tokenizer, model)


def labelled_runs(tokenizer, ids, labels):
    """The texts of the stretches that are learnt."""
    runs, inside = [], False
    for token, label in zip(ids, labels, strict=True):
        assert label in (-100, token)
        if label >= 0:
            runs = runs if inside else [*runs, []]
            runs[-1].append(token)
        inside = label >= 0
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("adds_start", [False, True])
def test_ids_are_those_of_the_template_and_labels_those_of_the_answers(name, adds_start):
    template, before, behind = TEMPLATES[name]
    tokenizer = chatting.tokenizer(template, adds_start=adds_start)
    text, answer = chat.example(TURNS, "row 1")
    ids, labels = chat.encode(tokenizer, text, answer)
    assert ids == tokenizer.apply_chat_template(TURNS)["input_ids"]
    runs = labelled_runs(tokenizer, ids, labels)
    assert runs == [before + message["content"] + behind for message in TURNS[1::2]]
    asked = tokenizer.apply_chat_template(TURNS[:-1], add_generation_prompt=True)["input_ids"]
    assert encoding(tokenizer).ids(text) == asked == ids[: len(asked)]  # one start token at most
    answered = encoding(tokenizer).written_ids(Example(text, answer))
    assert tokenizer.decode(answered) == before + answer + behind
    assert encoding(tokenizer).count(Example(text, answer)) == len(asked) + len(answered)


def test_labels_are_the_mask_that_transformers_makes():
    """Its own, of the {% generation %} marks in a template."""
    tokenizer = chatting.tokenizer()
    for messages in (TURNS, [SYSTEM, *TURNS], TURNS[:2]):
        how = dict(return_dict=True, return_assistant_tokens_mask=True)
        theirs = tokenizer.apply_chat_template(messages, **how)
        ids, labels = chat.encode(tokenizer, *chat.example(messages, "row 1"))
        assert ids == theirs["input_ids"]
        assert [int(label >= 0) for label in labels] == theirs["assistant_masks"]


def test_a_batch_is_padded_and_an_answer_of_weight_0_is_not_learnt():
    tokenizer = chatting.tokenizer()
    turns = [TURNS[0], TURNS[1] | {"weight": 0}, *TURNS[2:]]
    examples = [Example(*chat.example(rows, "row")) for rows in (turns, TURNS[:2])]
    batch = encoding(tokenizer).batch(examples)
    learnt = [labelled_runs(tokenizer, row[row != 0], labels[row != 0])
              for row, labels in zip(batch["input_ids"], batch["labels"], strict=True)]  # fmt: skip
    assert learnt == [["Yes.<|im_end|>"], [TURNS[1]["content"] + "<|im_end|>"]]
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != 0).long())
    weightless = [*TURNS[:3], TURNS[3] | {"weight": 0}]  # what comes behind is of no use
    assert chat.example(weightless, "row") == chat.example(TURNS[:2], "row")


def test_an_answer_that_changes_as_the_conversation_goes_on_is_not_learnt():
    tokenizer = chatting.tokenizer(chatting.THINK)
    text, answer = chat.example(TURNS, "row")
    ids, labels = chat.encode(tokenizer, text, answer)
    assert ids == tokenizer.apply_chat_template(TURNS)["input_ids"]
    assert labelled_runs(tokenizer, ids, labels) == ["<think>\n\n</think>\n\nYes.<|im_end|>"]
    assert chat.unlearnt(tokenizer, text, answer)
    assert not chat.unlearnt(tokenizer, *chat.example(TURNS[:2], "row"))
    greeted = [{"role": "assistant", "content": "Hi!"}, *TURNS]  # nobody asks for the first
    assert chat.unlearnt(chatting.tokenizer(), *chat.example(greeted, "row"))


@pytest.mark.parametrize(
    ("template", "messages", "sentence"),
    [
        (None, TURNS, "no chat template"),
        (chatting.NO_END, TURNS, "without a special token"),
        (chatting.FORCED, TURNS, "otherwise than it writes one"),
        (chatting.GEMMA, [SYSTEM, *TURNS], "System role not supported"),
        (chatting.GEMMA, TURNS[:1] + TURNS, "roles must alternate"),
        (chatting.INST, [SYSTEM, *TURNS], "leaves out what the system says"),
        (chatting.CHATML.replace("m.content +", "m.content[:3] +"), TURNS, "leaves out"),
        (
            chatting.CHATML.replace("on %}{{ m.content +", "on %}{{ m.content[:3] +"),
            TURNS,
            "changes the answer 'Yes.'",
        ),
    ],
)
def test_a_template_that_would_mislead_is_refused(template, messages, sentence):
    text, answer = chat.example(messages, "row")
    with pytest.raises(ValueError, match=sentence):
        chat.encode(chatting.tokenizer(template), text, answer)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"role": "narrator", "content": "x"}, "row 3, message 2, has the role 'narrator'"),
        ({"content": "x"}, "role None"),
        ({"role": ["user"], "content": "x"}, "message 2, has the role .'user'., not one of"),
        ("Hello", "row 3, message 2, has no role and no content, but is 'Hello'"),
        ({"role": "assistant", "content": " "}, "message 2, of the assistant has no text"),
        ({"role": "assistant", "content": None}, "no text"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}, "'tool_calls'"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "no text"),
    ],
)
def test_a_message_that_cannot_be_read_is_refused(message, sentence):
    with pytest.raises(ValueError, match=sentence):
        chat.read([TURNS[0], message], "row 3")


@pytest.mark.parametrize("messages", [None, "Hello", 3, TURNS[0]])
def test_what_is_no_list_of_messages_is_refused(messages):
    with pytest.raises(ValueError, match="A row must be a list of messages"):
        mp.tasks.make("t", "generate", train=[{"messages": messages}])


def test_an_answer_of_messages_is_learnt_as_its_text():
    """It was learnt as JSON."""
    rows = [(TURNS[:1], TURNS[1:2]), {"input": TURNS[0]["content"], "target": TURNS[1:2]}]
    task = mp.tasks.make("t", "generate", train=rows)
    assert task.train == (Example(*chat.example(TURNS[:2], "row")),) * 2
    with pytest.raises(ValueError, match="the answer begins with what the user says"):
        mp.tasks.make("t", "generate", train=[("Hi", TURNS[:2])])


def test_messages_of_other_forms_are_the_same():
    ours = chat.read([SYSTEM, *TURNS], "row")
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[m["role"]], "value": m["content"]} for m in ours]
    parts = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in ours]
    assert chat.read(sharegpt, "row") == chat.read(parts, "row") == ours
    assert chat.messages_of(chat.written(ours)) == ours
    task = mp.tasks.make("t", "generate", train=[{"messages": ours}], dev=[(ours[:-1], "Yes.")])
    assert task.train == task.dev == (Example(*chat.example(ours, "row")),)


def test_a_prompt_does_not_end_with_the_token_that_ends_a_text():
    """As where the tokenizer of a decoder puts one behind every text."""
    from tokenizers import processors

    tokenizer = chatting.tokenizer(end="<eos>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    made, example = encoding(tokenizer), Example("Hi", "Yo")
    batch = made.batch([example])
    assert tokenizer.decode(batch["input_ids"][0]) == "<bos>Hi Yo<eos>"
    assert tokenizer.decode(batch["labels"][0][batch["labels"][0] >= 0]) == " Yo<eos>"
    assert made.prompt("Hi") == batch["input_ids"][0, :3].tolist() and made.count(example) == 7
    assert made.prompt(chat.question("Hi")) == made.ids(chat.question("Hi"))
    assert tokenizer.decode(encoding(tokenizer, model="encoder-decoder").prompt("Hi")) == (
        "<bos>Hi<eos>"
    )


def test_without_an_end_token_nothing_can_learn_to_end():
    tokenizer = chatting.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        encoding(tokenizer).batch([Example("Hi", "Yo")])


def test_conversations_are_for_a_decoder_that_writes():
    text = chat.question("Hi")
    for kind, model in (("classify", "decoder"), ("generate", "encoder-decoder")):
        with pytest.raises(ValueError, match="text-to-text with a decoder"):
            encoding(chatting.tokenizer(), kind, model).ids(text)


def test_writing_ends_at_any_of_the_tokens_that_end_a_text():
    """As of Gemma: the tokenizer names one, generation_config another, the template a third."""
    import transformers as hf

    tokenizer = chatting.tokenizer(chatting.GEMMA, end="<eos>")
    config = hf.LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                            num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = [2, 4]
    assert ends_of(model, tokenizer) == [2, 4]
    made = encoding(tokenizer)
    assert made.ends(model, ["plain"]) == [2, 4] and made.ends(model, [chat.question("a")]) == [
        2, 4, tokenizer.convert_tokens_to_ids("<end_of_turn>")]  # fmt: skip
    for end in (2, 4, 5):  # each alone stops it at once
        forced = torch.zeros(len(tokenizer))
        forced[end] = 1e4
        hook = model.lm_head.register_forward_hook(lambda _m, _i, out, forced=forced: out + forced)
        assert made.answers(model, [chat.question("Hello")]) == [""]
        prompt = torch.tensor([made.ids(chat.question("Hello"))])
        ids = mp.generate(model, prompt, max_new_tokens=9, eos_token_id=[2, 4, 5])
        hook.remove()
        assert ids.shape[1] == prompt.shape[1] + 1


def shapes():
    """Conversations of many shapes: turns, systems, weights, greetings, tools, signs, lengths."""
    contents = [
        "Hi",
        " spaces \n around ",
        "北京 \U0001f600",
        "a\x1fb",
        "<|im_end|> inside",
        "x" * 500,
    ]
    roles = [("user", "assistant") * n for n in (1, 2, 5)]
    roles += [("system", "user", "assistant"), ("assistant", "user", "assistant")]
    roles += [("user", "tool", "user", "assistant"), ("user", "assistant", "assistant")]
    for number, some in enumerate(roles * 4):
        said = [{"role": role, "content": contents[(number + 5 * place) % 6]}
                for place, role in enumerate(some)]  # fmt: skip
        for place in range(number % 3, len(said) - 1, 3):
            said[place]["weight"] = 0
        yield said


@pytest.mark.parametrize("template", [chatting.CHATML, chatting.INST, chatting.THINK])
def test_a_conversation_is_written_once_whatever_asks_for_it(monkeypatch, template):
    """Twice for every answer (what asks for it, and it answered), and what is kept is the same."""
    tokenizer, calls, render = chatting.tokenizer(template), [], chat.render
    monkeypatch.setattr(chat, "render", lambda *a, **b: calls.append(1) or render(*a, **b))
    for messages in shapes():
        try:
            text, answer = chat.example(messages, "row")
            first = chat.encode_anew(chatting.tokenizer(template), messages)
        except ValueError:
            continue
        calls.clear()
        ids, labels = chat.encode(tokenizer, text, answer)
        learnt = sum(map(chat.is_learnt, messages[1:]))
        assert len(calls) in (0, 2 * learnt)
        assert ids == tokenizer.apply_chat_template(messages)["input_ids"] == first.ids.tolist()
        assert labels == first.labels.tolist()
        assert sum(label >= 0 for label in labels) > 0
        calls.clear()
        labels.append(ids.pop())  # a caller's own lists
        again = chat.encode(tokenizer, text, answer)
        assert again == (first.ids.tolist(), first.labels.tolist())
        assert chat.unlearnt(tokenizer, text, answer) == first.unlearnt
        assert again[1][-len(chat.answer_ids(tokenizer, text, answer)) :] and not calls


def test_another_template_or_token_writes_a_conversation_anew():
    tokenizer = chatting.tokenizer()
    text, answer = chat.example(TURNS, "row")
    first = chat.encode(tokenizer, text, answer)
    tokenizer.chat_template = chatting.INST
    other = chat.encode(tokenizer, text, answer)
    assert other[0] == tokenizer.apply_chat_template(TURNS)["input_ids"] != first[0]
    tokenizer.chat_template = chatting.CHATML
    assert chat.encode(tokenizer, text, answer) == first
    tokenizer.add_tokens(["Sure"])
    ids, _ = chat.encode(tokenizer, text, answer)
    assert ids == tokenizer.apply_chat_template(TURNS)["input_ids"] != first[0]


def test_as_many_conversations_are_kept_as_there_is_room_for():
    tokenizer = chatting.tokenizer()
    some = [chat.example([TURNS[0] | {"content": sign * 50}, TURNS[1]], "row") for sign in "abc"]
    tokens = len(chat.encode(tokenizer, *some[0])[0])
    chat.KEPT[tokenizer].room = tokens
    made = [chat.encode(tokenizer, *each) for each in some * 2]
    assert len(chat.KEPT[tokenizer].rows) == 2 and made[:3] == made[3:]
    assert made[2][0] != made[1][0]
