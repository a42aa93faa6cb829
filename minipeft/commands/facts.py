"""What should be known of the data before anything is trained: labels, overlap, unknown words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from minipeft.commands.bases import Letters
from minipeft.methods.parts.validation import shorten
from minipeft.tasks import chat, metrics
from minipeft.tasks import labels as spellings
from minipeft.tasks.encoding import Encoding
from minipeft.tasks.tasks import Task

SHOWN_LABELS = 12
SAMPLE = 2000  # examples whose tokens are looked at before training


def of(task: Task, base) -> list[str]:
    """What should be known of the data before anything is trained, a line each."""
    lines, train, dev = [], task.splits["train"], task.splits["dev"]
    if task.kind == "classify":
        counts = Counter(example.target for example in train)
        most = counts.most_common(SHOWN_LABELS)
        listed = ", ".join(f"{name} {n:,} ({n / len(train):.0%})" for name, n in most)
        lines.append(f"labels: {listed}{', ...' * (len(counts) > SHOWN_LABELS)}")
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
    elif task.kind == "tag":
        counts = Counter(tag for example in train for tag in example.target.split())
        listed = ", ".join(f"{name} {n:,}" for name, n in counts.most_common(SHOWN_LABELS))
        lines.append(f"tags of words: {listed}{', ...' * (len(counts) > SHOWN_LABELS)}")
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
        lines += notes_of_labels(task.labels, counts)
    elif task.kind == "regress":
        values = sorted(metrics.numbers([example.target for example in train]))
        middle = values[len(values) // 2]
        lines.append(f"targets: {values[0]:g} to {values[-1]:g}, median {middle:g}")
        if values[0] == values[-1]:
            lines.append("note: all targets are the same number: there is nothing to tell apart.")
    elif task.kind == "generate":
        lines += of_writing(task, base)
    if task.kind in ("classify", "tag"):
        answers = defaultdict(set)
        for example in train:
            answers[example.input].add(example.target)
        if torn := sum(len(said) > 1 for said in answers.values()):
            lines.append(f"note: {torn:,} inputs are in train with different answers each.")
    if task.kind == "cloze" and base.kind == "encoder":
        encoding = Encoding(task, base.tokenizer, base.kind, base.head)
        targets = [example.target for example in train[:SAMPLE]]
        long = sum(len(encoding.ids(f" {target}", special=False)) > 1 for target in targets)
        if long:
            lines.append(
                f"note: {long / len(targets):.0%} of the targets are more than one token: an "
                "encoder fills in one, so that they are never answered whole."
            )
    known = {example.input for example in train}
    both = sum(example.input in known for example in dev)
    if both:
        lines.append(
            f"note: {both:,} of {len(dev):,} inputs of dev ({both / len(dev):.0%}) are in train, "
            "too: what is measured on them is memory."
        )
    unknown = getattr(base.tokenizer, "unk_token_id", None)
    ends = (getattr(base.tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    if unknown is not None and unknown not in ends and not isinstance(base.tokenizer, Letters):
        encoding = Encoding(task, base.tokenizer, base.kind, base.head)
        tokens = [token for e in train[:SAMPLE] for token in encoding.ids(e.input, special=False)]
        share = tokens.count(unknown) / max(1, len(tokens))
        if share:
            lines.append(f"{share:.1%} of the tokens of train are unknown to the tokenizer")
    return lines


def of_writing(task: Task, base) -> list[str]:
    """How texts are written for a model, and what in them may not be meant so, a line each."""
    lines, examples = [], task.splits["train"][:SAMPLE]
    if task.details.get("chat"):
        system = task.details["chat"]["system"]
        said = f"; the system says {shorten(system)}" if system else ""
        lines.append(
            "conversations: written with the base's chat template; learnt is what the assistant "
            f"says{said}"
        )
        if unlearnt := sum(chat.unlearnt(base.tokenizer, *example) for example in examples):
            lines.append(
                f"note: in {unlearnt:,} of {len(examples):,} conversations an answer is not learnt "
                "that nothing comes before, or that the chat template writes otherwise once others "
                "come behind it, as some do with what a model thought."
            )
    elif base.chats:
        lines.append(
            "note: the base has a chat template, and these texts are learnt without it: --chat "
            "makes an input what a user says, and a target what the assistant says."
        )
    longest = getattr(base.model.config, "max_position_embeddings", None)
    encoding = Encoding(task, base.tokenizer, base.kind, base.head)
    if longest and base.positions() is None and base.kind == "decoder":
        long = sum(
            8 * len("".join(example)) > longest and encoding.count(example) > longest
            for example in examples
        )
        if long:
            lines.append(
                f"note: {long:,} of {len(examples):,} examples have more than the {longest:,} "
                "tokens that the base was made for: it reads them, and perhaps not well."
            )
    added = getattr(base.tokenizer, "added_tokens_decoder", {}).values()
    special = [token.content for token in added if token.special and len(token.content) > 3]
    counts = Counter(
        sign for example in examples for sign in special if any(sign in text for text in example)
    )
    if counts:
        sign, count = counts.most_common(1)[0]
        lines.append(
            f"note: {count:,} of {len(examples):,} examples have {sign} in their text, which the "
            "tokenizer reads as that token and not as these signs; an answer ends where its end "
            "token stands."
        )
    return lines


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
