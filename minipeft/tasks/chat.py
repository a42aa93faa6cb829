r"""Conversations, and how the chat template of a tokenizer writes them.

A conversation is a list of messages, [{"role": "user", "content": "Hi"}, ...]. The input of an
example is its JSON up to the last question, behind START; the target is the last answer. A decoder
reads what `apply_chat_template` makes of it, and learns every answer with the token that ends it:

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n
                                                          ------ ----------    labels, else -100

An answer with "weight": 0 is read and not learnt, as in files for OpenAI's fine-tuning.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile, takewhile
from typing import NamedTuple
from weakref import WeakKeyDictionary

from minipeft.methods.parts.validation import shorten

START = "\x1e"  # the ASCII sign before a JSON text (RFC 7464)
ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}  # ShareGPT's, OpenAI's
ROLES |= {role: role for role in ("system", "user", "assistant", "tool")}
NO_MESSAGES = (
    'must be a list of messages, such as [{"role": "user", "content": "..."}, '
    '{"role": "assistant", "content": "..."}].'
)
REFUSED = ("tool_calls", "function_call", "reasoning_content", "thinking", "images", "audio")


def written(messages: Sequence[dict]) -> str:
    """Messages as the input of an example."""
    return START + json.dumps(list(messages), ensure_ascii=False, default=str)


def question(text: str, system: str | None = None) -> str:
    """The input of an example in which a user says the text."""
    return written(with_system(messages_of_user(text), system))


def messages_of_user(text: str) -> list[dict]:
    """A conversation of one question."""
    return [{"role": "user", "content": text}]


def with_system(messages: Sequence[dict], system: str | None) -> list[dict]:
    """The messages, with one of the system before them where they begin with none of it."""
    if system is None or messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def is_chat(text: str) -> bool:
    """Is the input of an example a conversation?"""
    return text.startswith(START + "[")


def messages_of(text: str, where: str = "The conversation") -> list[dict]:
    """The messages of an input; a plain text is what a user says."""
    if not is_chat(text):
        return messages_of_user(text)
    return read(json.loads(text.removeprefix(START)), where)


def read(messages: Iterable[Mapping], where: str) -> list[dict]:
    """Messages of OpenAI's or ShareGPT's form with role and content, and weight where it is 0.

    Raises:
        ValueError: one has no text, no known role, or what no text can say, or these are no
            messages; `where` is in front.
    """
    if not isinstance(messages, Iterable) or isinstance(messages, str | Mapping):
        raise ValueError(f"{where} {NO_MESSAGES}")
    clean = []
    for number, message in enumerate(messages, start=1):
        place = f"{where}, message {number},"
        if not isinstance(message, Mapping):
            raise ValueError(f"{place} has no role and no content, but is {shorten(message)}.")
        said = message.get("role", message.get("from"))
        if not isinstance(said, str) or said not in ROLES:
            raise ValueError(f"{place} has the role {said!r}, not one of {', '.join(ROLES)}.")
        if strange := next((key for key in REFUSED if message.get(key)), None):
            raise ValueError(f"{place} has {strange!r}, which is no text: leave the row out.")
        content = message.get("content", message.get("value"))
        if isinstance(content, list):  # parts, which may be pictures
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
        role = ROLES[said]
        if not isinstance(content, str) or not (content.strip() or role == "system"):
            raise ValueError(
                f"{place} of the {role} has no text in it: fill it, or leave the row out."
            )
        weight = message.get("weight")
        if weight not in (None, 0, 1):
            raise ValueError(
                f"{place} has the weight {shorten(weight)}: give 1 to learn it, or 0 not to."
            )
        unlearnt = {"weight": 0} if weight == 0 else {}
        clean.append({"role": role, "content": content} | unlearnt)
    return clean


def example(messages: Sequence[dict], where: str) -> tuple[str, str]:
    """(input, target): what comes behind the last answer that is learnt is left out.

    Raises:
        ValueError: there is no such answer, or nothing before it.
    """
    numbers = [number for number, message in enumerate(messages) if is_learnt(message)]
    if not numbers or not numbers[-1]:
        lacking = "a question before its answer" if numbers else "an answer of the assistant"
        raise ValueError(f"{where}: the conversation lacks {lacking}: leave the row out.")
    return written(messages[: numbers[-1]]), messages[numbers[-1]]["content"]


def answered(messages: Sequence[dict], answer: str, where: str) -> tuple[str, str]:
    """(input, target) of messages and the answer to them: a text, or messages as an input.

    Raises:
        ValueError: the answer is none of the assistant's.
    """
    reply = [{"role": "assistant", "content": answer}]
    reply = messages_of(answer, where) if is_chat(answer) else reply
    if reply[0]["role"] != "assistant":
        raise ValueError(
            f"{where}: the answer begins with what the {reply[0]['role']} says, as a whole "
            "conversation does: give its column as --input, and no --target (in Python, its "
            "messages alone)."
        )
    return example([*messages, *reply], where)


def asked(messages: Sequence[dict], where: str) -> str:
    """The input that a conversation is without its last answer, which is to be written.

    Raises:
        ValueError: nobody asks for one.
    """
    messages = list(messages)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] == "system":
        raise ValueError(f"{where}: the conversation has no question: leave the row out.")
    return written(messages)


def is_learnt(message: dict) -> bool:
    """Is it an answer that a model should learn to give?"""
    return message["role"] == "assistant" and message.get("weight") != 0


def readable(text: str) -> str:
    """A conversation as people read it: of a single question its words alone."""
    messages = [each for each in messages_of(text) if each["role"] != "system"]
    if len(messages) == 1:
        return messages[0]["content"]
    return " | ".join(f"{each['role']}: {each['content']}" for each in messages)


# -- with a tokenizer


def render(tokenizer, messages: Sequence[dict], ask: bool) -> str:
    """What the chat template makes of messages; with `ask`, as far as where the answer begins.

    Raises:
        ValueError: there is no template, it stumbles, or it leaves a message out.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "The base has no chat template, which conversations need: take an instruct model, or "
            "data with an input and a target of plain text."
        )
    plain = [{"role": each["role"], "content": each["content"]} for each in messages]
    try:
        text = tokenizer.apply_chat_template(plain, add_generation_prompt=ask, tokenize=False)
    except Exception as error:  # a template is anybody's program: it stumbles in many ways
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"The chat template refuses the conversation {shorten(plain)}: {reason}."
        ) from None
    for message in plain:
        if message["role"] != "assistant" and message["content"].strip() not in text:
            raise ValueError(
                f"The chat template leaves out what the {message['role']} says, "
                f"{shorten(message['content'])}: take that message out, or another template."
            )
    return text


def prompt_ids(tokenizer, text: str) -> list[int]:
    """The ids of a conversation that asks for its answer; the template has all special tokens."""
    asking = render(tokenizer, messages_of(text), ask=True)
    return list(tokenizer(asking, add_special_tokens=False)["input_ids"])


class Encoded(NamedTuple):
    """ids, labels: T each.  unlearnt: is an answer not learnt, although its weight is not 0?"""

    ids: array
    labels: array
    unlearnt: bool


@dataclass
class Kept:
    """What `encode` made with one tokenizer, as long as there is room for its tokens."""

    rows: dict[tuple, Encoded] = field(default_factory=dict)
    room: int = 20_000_000  # tokens, of 8 bytes: an id and a label


KEPT: WeakKeyDictionary = WeakKeyDictionary()  # tokenizer -> Kept


def encode(tokenizer, text: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids and labels of a conversation with its last answer, T each. Errors: see `encoded`."""
    row = encoded(tokenizer, text, answer)
    return row.ids.tolist(), row.labels.tolist()


def encoded(tokenizer, text: str, answer: str) -> Encoded:
    """A conversation with its last answer, which several steps and every epoch ask for: made once.

    Raises:
        ValueError: the template changes the answer, or ends it without a token that could be
            learnt as its end.
    """
    kept = KEPT.setdefault(tokenizer, Kept())
    template = str(getattr(tokenizer, "chat_template", None))
    key = (template, len(getattr(tokenizer, "added_tokens_encoder", ())), text, answer)
    if key in kept.rows:
        return kept.rows[key]
    row = encode_anew(tokenizer, [*messages_of(text), {"role": "assistant", "content": answer}])
    if len(row.ids) <= kept.room:
        kept.rows[key], kept.room = row, kept.room - len(row.ids)
    return row


def encode_anew(tokenizer, messages: Sequence[dict]) -> Encoded:
    """Messages that end with an answer to be learnt. Errors: see `encoded`."""
    whole, answer = render(tokenizer, messages, ask=False), messages[-1]["content"]
    every = learnt_spans(tokenizer, messages, whole)
    spans = list(filter(None, every))
    start, end = spans[-1]
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("The tokenizer does not say where its tokens stand: take a fast one.")
    if "".join(answer.split()) not in "".join(whole[start:end].split()):
        raise ValueError(f"The chat template changes the answer {shorten(answer)}: mend either.")
    call = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels, place = list(call["input_ids"]), [], 0
    for token, (first, last) in zip(ids, call["offset_mapping"], strict=True):
        while place < len(spans) and spans[place][1] < last:
            place += 1
        inside = place < len(spans) and spans[place][0] <= first
        labels.append(token if inside else -100)
    final = [label for label in labels if label >= 0][-1]
    if not is_special(tokenizer, final):
        raise ValueError(
            "The chat template ends an answer without a special token, so that no model could "
            "learn where to stop: write one, such as its eos_token, behind the answers in it."
        )
    return Encoded(array("i", ids), array("i", labels), None in every)


def learnt_spans(tokenizer, messages: Sequence[dict], whole: str) -> list[tuple[int, int] | None]:
    """Where each answer that is learnt stands in the rendered text, with the token of its end.

    None: an earlier answer that the template writes otherwise once others come behind it, as
    templates do that leave out what a model thought; it is not what the model would have to say.

    Raises:
        ValueError: the last answer does not begin where the template asks for it.
    """
    spans: list[tuple[int, int] | None] = []
    for number, message in enumerate(messages):
        if is_learnt(message) and number == 0:
            spans.append(None)  # nobody asks for it
        elif is_learnt(message):
            asking = render(tokenizer, messages[:number], ask=True)
            last = number + 1 == len(messages)
            answered = whole if last else render(tokenizer, messages[: number + 1], ask=False)
            fits = answered.startswith(asking) and whole.startswith(answered.rstrip())
            spans.append((len(asking), len(answered.rstrip())) if fits else None)
    if spans[-1] is None:
        raise ValueError(
            "The chat template asks for an answer otherwise than it writes one "
            f"({shorten(asking[-40:])}), so that a model would be asked what it has not learnt: "
            "mend the template."
        )
    return spans


def unlearnt(tokenizer, text: str, answer: str) -> bool:
    """Is an answer in a conversation not learnt, although its weight is not 0?"""
    return encoded(tokenizer, text, answer).unlearnt


def is_special(tokenizer, token: int) -> bool:
    """Is it a token that no ordinary text is made of?"""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return token in tokenizer.all_special_ids or (token in added and added[token].special)


def answer_ids(tokenizer, text: str, answer: str) -> list[int]:
    """The ids that the model has to write: the last answer and its end."""
    _, labels = encode(tokenizer, text, answer)
    from_its_end = dropwhile(lambda label: label < 0, reversed(labels))
    return [*takewhile(lambda label: label >= 0, from_its_end)][::-1]


def end_of(tokenizer) -> int:
    """The token that ends an answer."""
    return answer_ids(tokenizer, question("a"), "b")[-1]
