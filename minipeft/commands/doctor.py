"""`python -m minipeft doctor`: what is wrong with a tuned model that raises no error?"""

from __future__ import annotations

import argparse

import minipeft as mp
from minipeft.commands import asking, data, forms, opened, options, runs
from minipeft.tasks.encoding import Encoding, Example

EXAMPLES = """doctor runs/example
doctor runs/reviews --data reviews.tsv
doctor ./adapter --base gpt2 "a text as in training" "another one"
doctor ./adapter --base bert-base-uncased --kind classification --data train.csv"""

TEXTS = (
    "the cat saw a tree",
    "we go to the house by the river when it is dark",
    "she has a red book",
    "you and he are on the road",
)


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "doctor",
        "what is wrong with a run or an adapter",
        "Examine a run or an adapter on its base with one batch: do gradients reach every new\n"
        "tensor, did the targets match all they should, is the head saved, would a merge change\n"
        "the answers, does padding? The batch is made of --data, of the texts given, or of a few\n"
        "made-up ones.",
        EXAMPLES,
        "Exit code: 0 nothing was found, 1 there is a finding, 2 what was given cannot be used\n"
        "(one sentence says why).",
    )
    opened.add_flags(parser, bare=False)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to examine it with")
    parser.add_argument("--data", metavar="FILE",
                        help="as in train: a file or a task of the project")  # fmt: skip
    data.add_flags(parser)
    parser.add_argument("--batch-size", type=int, default=8, help="(default %(default)s)")
    parser.add_argument("--learning-rate", type=float, help="of the training (default 1e-3)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    if given.texts and given.data:
        raise ValueError("Give texts or --data, not both.")
    if given.data:
        data.check_flags(given)
    if given.batch_size < 1:
        raise ValueError("--batch-size must be at least 1.")
    if not opened.is_adapter(given.what):
        how = runs.inner(given.what) or ": name the folder that training has left"
        raise ValueError(
            f"{given.what} is no run and no adapter, so that nothing was added to a base{how}."
        )
    given.kind = asking.kind_of(given)
    kind, labels, examples = given.kind, None, None
    if given.data:
        examples, kind, labels = asking.examples(given, "train")
    loaded = opened.open_model(given, kind, labels)
    if examples is None:
        texts = [asking.pair(text, given) for text in given.texts] or TEXTS
        examples = forms.wrapping(given, given.what).examples(made_up(loaded, texts))
    task = opened.task_for(loaded, examples[: given.batch_size])
    before = runs.options_of(given.what)
    task, _ = data.shortened(task, loaded.base, given.max_length or before.get("max_length"))
    data.check_fits(task, loaded.base, extra=loaded.taken)
    encoding = Encoding(task, loaded.base.tokenizer, loaded.base.kind, loaded.base.head)
    rate = given.learning_rate or before.get("learning_rate") or 1e-3
    table = mp.doctor(loaded.base.model, encoding.batch(task.examples("test")), rate)
    print(table)
    return 0 if table.passed else 1


def made_up(loaded: opened.Opened, texts) -> list[Example]:
    """Texts as examples of the kind that was opened, with any answers.

    A writer goes on with the second half of a text, an encoder with its last word.
    """
    if not all(text.strip() for text in texts):
        raise ValueError("A text is empty: write at least one word, or leave it out.")
    if loaded.kind is None:
        loaded.kind = "cloze" if loaded.base.kind == "encoder" else "generate"
    examples = []
    for number, text in enumerate(texts):
        words = text.split()
        if loaded.kind in ("classify", "tag"):
            labels = loaded.labels or ()
            times = len(words) if loaded.kind == "tag" else 1
            said = [labels[(number + place) % len(labels)] for place in range(times)]
            examples.append(Example(text, " ".join(said)))
        elif loaded.kind == "regress":
            examples.append(Example(text, str(float(number))))
        else:
            middle = -1 if loaded.kind == "cloze" else len(words) // 2
            first = " ".join(words[:middle]) or text
            examples.append(Example(first, " ".join(words[middle:])))
    return examples
