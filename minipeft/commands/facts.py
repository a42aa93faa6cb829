"""What should be known of the data before anything is trained: labels, overlap, unknown words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from minipeft.commands.bases import Letters
from minipeft.commands.data import TOKENS_OF_A_SIGN
from minipeft.methods.parts.validation import shorten
from minipeft.tasks import chat, metrics
from minipeft.tasks import labels as spellings
from minipeft.tasks.encoding import Encoding
from minipeft.tasks.tasks import Task

SHOWN_LABELS = 12
SAMPLE = 2000  # examples whose tokens are looked at before training


def of(task: Task, base) -> list[str]:
    """What should be known of the data before anything is trained, a line each."""
    encoding = Encoding(task, base.tokenizer, base.kind, base.head)
    train, dev = task.splits["train"], task.splits["dev"]
    lines: list[str] = []
    match task.kind:
        case "classify":
            lines = of_classes(task)
        case "tag":
            lines = of_tags(task)
        case "regress":
            lines = of_numbers(task)
        case "generate":
            lines = of_writing(task, base, encoding)
        case "cloze" if base.kind == "encoder":
            lines = of_words(task, encoding)
    lines += notes_of_unknown_answers(task, base, encoding)
    known = {example.input for example in train}
    both = sum(example.input in known for example in dev)
    if both:
        lines.append(
            f"note: {both:,} of {len(dev):,} inputs of dev ({both / len(dev):.0%}) are in train, "
            "too: what is measured on them is memory."
        )
    unknown = unknown_token(base)
    if unknown is not None:
        tokens = [token for e in train[:SAMPLE] for token in encoding.ids(e.input, special=False)]
        share = tokens.count(unknown) / max(1, len(tokens))
        if share:
            lines.append(f"{share:.1%} of the tokens of train are unknown to the tokenizer")
    return lines


def unknown_token(base) -> int | None:
    """The token that stands for what the tokenizer does not know; None where it knows all."""
    unknown = getattr(base.tokenizer, "unk_token_id", None)
    ends = [getattr(base.tokenizer, name, None) for name in ("bos_token_id", "eos_token_id")]
    return None if unknown in ends or isinstance(base.tokenizer, Letters) else unknown


def notes_of_unknown_answers(task: Task, base, encoding: Encoding) -> list[str]:
    """A line on answers that a language head has no tokens for."""
    unknown, examples = unknown_token(base), task.splits["train"][:SAMPLE]
    if unknown is None or base.head != "language" or task.details.get("chat"):
        return []
    count = sum(unknown in encoding.ids(f" {e.target}", special=False) for e in examples)
    if not count:
        return []
    return [
        f"note: {count:,} of {len(examples):,} answers have words that the tokenizer does not "
        "know, and that the base can never write: take a base that knows them, or other words."
    ]


def of_classes(task: Task) -> list[str]:
    """How often each label stands in the training data, and which may be none."""
    train = task.splits["train"]
    counts = Counter(example.target for example in train)
    most = counts.most_common(SHOWN_LABELS)
    listed = ", ".join(f"{name} {n:,} ({n / len(train):.0%})" for name, n in most)
    lines = [f"labels: {listed}{', ...' * (len(counts) > SHOWN_LABELS)}"]
    lines += notes_of_labels(task.labels, counts)
    if spellings.are_measured(task.labels):
        lines.append(
            f"note: the {len(task.labels)} labels are numbers with decimals, each learnt as a "
            "class of its own: where they measure something, take --kind regression."
        )
    lines += [
        f"note: {label!r} is learnt as a label like others: where it says that there is none, "
        "leave these rows out."
        for label in spellings.perhaps_none(task.labels)
    ]
    return lines + notes_of_torn(task)


def of_tags(task: Task) -> list[str]:
    """How often each tag stands in the training data, and whether they are tags of entities."""
    counts = Counter(tag for example in task.splits["train"] for tag in example.target.split())
    listed = ", ".join(f"{name} {n:,}" for name, n in counts.most_common(SHOWN_LABELS))
    lines = [f"tags of words: {listed}{', ...' * (len(counts) > SHOWN_LABELS)}"]
    if not metrics.are_entities(task.labels):
        lines.append(
            "note: f1 counts single words: to count whole entities, it needs tags such as B-x "
            "and I-x."
        )
    elif odd := metrics.odd_tags(task.labels):
        lines.append(
            f"note: beside tags such as B-x and I-x there is {odd[0]!r}, which seqeval takes "
            "for no tag of entities."
        )
    if all(len(example.input.split()) == 1 for example in task.splits["train"]):
        lines.append(
            "note: every text is one word, so that each is tagged without the others: a row of a "
            "table is a whole sentence; in a .conll file an empty line ends one."
        )
    return lines + notes_of_labels(task.labels, counts) + notes_of_torn(task)


def of_numbers(task: Task) -> list[str]:
    """Between which numbers the targets lie."""
    values = sorted(metrics.numbers([example.target for example in task.splits["train"]]))
    middle = values[len(values) // 2]
    lines = [f"targets: {values[0]:g} to {values[-1]:g}, median {middle:g}"]
    if values[0] == values[-1]:
        lines.append("note: all targets are the same number: there is nothing to tell apart.")
    return lines


def of_words(task: Task, encoding: Encoding) -> list[str]:
    """How many answers no single mask can hold."""
    targets = [example.target for example in task.splits["train"][:SAMPLE]]
    long = sum(len(encoding.ids(f" {target}", special=False)) > 1 for target in targets)
    if not long:
        return []
    return [
        f"note: {long / len(targets):.0%} of the targets are more than one token: an encoder fills "
        "in one, so that they are never answered whole."
    ]


def of_writing(task: Task, base, encoding: Encoding) -> list[str]:
    """How texts are written for a model, and what in them may not be meant so, a line each."""
    examples = task.splits["train"][:SAMPLE]
    return [
        *of_conversations(task, base, examples),
        *notes_of_long(base, encoding, examples),
        *notes_of_special(base, examples),
    ]


def of_conversations(task: Task, base, examples: Sequence) -> list[str]:
    """Whether the chat template is used, and answers that are not learnt with it, a line each."""
    if not task.details.get("chat"):
        note = (
            "note: the base has a chat template, and these texts are learnt without it: --chat "
            "makes an input what a user says, and a target what the assistant says."
        )
        return [note] if base.chats else []
    system = task.details["chat"]["system"]
    said = f"; the system says {shorten(system)}" if system else ""
    lines = [
        "conversations: written with the base's chat template; learnt is what the assistant "
        f"says{said}"
    ]
    if unlearnt := sum(chat.unlearnt(base.tokenizer, *example) for example in examples):
        lines.append(
            f"note: in {unlearnt:,} of {len(examples):,} conversations an answer is not learnt "
            "that nothing comes before, or that the chat template writes otherwise once others "
            "come behind it, as some do with what a model thought."
        )
    return lines


def notes_of_long(base, encoding: Encoding, examples: Sequence) -> list[str]:
    """A line on examples that are longer than what a base without a table of positions knows."""
    longest = getattr(base.model.config, "max_position_embeddings", None)
    if not longest or base.positions() is not None or base.kind != "decoder":
        return []
    long = sum(
        TOKENS_OF_A_SIGN * len("".join(example)) > longest and encoding.count(example) > longest
        for example in examples
    )
    if not long:
        return []
    return [
        f"note: {long:,} of {len(examples):,} examples have more than the {longest:,} "
        "tokens that the base was made for: it reads them, and perhaps not well."
    ]


def notes_of_special(base, examples: Sequence) -> list[str]:
    """A line on texts in which a special token of the tokenizer is spelt out."""
    added = getattr(base.tokenizer, "added_tokens_decoder", {}).values()
    special = [token.content for token in added if token.special and len(token.content) > 3]
    counts = Counter(
        sign for example in examples for sign in special if any(sign in text for text in example)
    )
    if not counts:
        return []
    sign, count = counts.most_common(1)[0]
    return [
        f"note: {count:,} of {len(examples):,} examples have {sign} in their text, which the "
        "tokenizer reads as that token and not as these signs; an answer ends where its end "
        "token stands."
    ]


def notes_of_labels(labels: Sequence[str], counts: Counter) -> list[str]:
    """Labels that have no example to learn from, and those that may be one label, a line each."""
    lines, missing = [], [label for label in labels if not counts[label]]
    if missing:
        said = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        lines.append(
            f"note: {len(missing)} of {len(labels)} labels have no example to train on ({said})."
        )
    if twins := spellings.differ_in_capitals(labels):
        lines.append(
            f"note: the labels {' and '.join(map(repr, twins))} differ in capital letters only, "
            "and are learnt as different labels."
        )
    return lines


def notes_of_torn(task: Task) -> list[str]:
    """A line on inputs that have several answers, where there can be one."""
    answers = defaultdict(set)
    for example in task.splits["train"]:
        answers[example.input].add(example.target)
    torn = sum(len(said) > 1 for said in answers.values())
    if not torn:
        return []
    return [f"note: {torn:,} inputs are in train with different answers each."]
