"""Lesson 19 on SmolLM2-135M-Instruct: a dozen preferences written by hand, and questions besides.

The preference: a short answer is better than a whole sentence. All answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from minipeft.generation import generate
from tiny_transformer.tokenizer import padded

PREFERENCES = (  # question, better, worse
    ("What is the capital of France?", "Paris.", "The capital of France is Paris."),
    ("What is the capital of Japan?", "Tokyo.", "The capital of Japan is Tokyo."),
    ("How many days are in a week?", "Seven.", "There are seven days in a week."),
    ("What color is grass?", "Green.", "The color of grass is green."),
    ("What do bees make?", "Honey.", "Bees make honey."),
    ("What language is spoken in Brazil?", "Portuguese.", "The language in Brazil is Portuguese."),
    ("How many legs does a spider have?", "Eight.", "A spider has eight legs."),
    ("What is the opposite of hot?", "Cold.", "The opposite of hot is cold."),
    ("Which planet do we live on?", "Earth.", "We live on the planet Earth."),
    ("What is frozen water called?", "Ice.", "Frozen water is called ice."),
    ("What is 2 + 3?", "5.", "The sum of 2 and 3 is 5."),
    ("Who wrote Hamlet?", "Shakespeare.", "Hamlet was written by William Shakespeare."),
)
ASKED = (  # questions that no pair has, and a word of the right answer
    ("What is the capital of Italy?", "rome"),
    ("What color is the sky on a clear day?", "blue"),
    ("How many months are in a year?", "12|twelve"),
    ("What is the opposite of big?", "small"),
    ("What do cows drink?", "water"),
    ("What language is spoken in Spain?", "spanish"),
    ("Which animal says meow?", "cat"),
    ("What is the largest ocean on Earth?", "pacific"),
)
END = "<|im_end|>"


def question(text: str) -> str:
    """As SmolLM2-Instruct was taught to be asked."""
    return f"<|im_start|>user\n{text}{END}\n<|im_start|>assistant\n"


def hand_pairs(tokenizer) -> dict[str, Tensor]:
    """PREFERENCES as a batch of 2 B rows: the better answers, then the worse ones."""
    answered = [(q, better) for q, better, _ in PREFERENCES]
    answered += [(q, worse) for q, _, worse in PREFERENCES]
    rows, labels = [], []
    for asked, answer in answered:
        prompt = list(tokenizer(question(asked))["input_ids"])
        target = list(tokenizer(answer + END)["input_ids"])
        rows.append(prompt + target)
        labels.append([-100] * len(prompt) + target)
    mask = [[1] * len(row) for row in rows]
    return {
        "input_ids": padded(rows, 0, "right"),
        "attention_mask": padded(mask, 0, "right"),
        "labels": padded(labels, -100, "right"),
    }  # each (2 B, T)


def replies(model: nn.Module, tokenizer, questions: Sequence[str], words: int = 16) -> list[str]:
    """Greedy answers to questions."""
    ids = [list(tokenizer(question(text))["input_ids"]) for text in questions]
    end = tokenizer.convert_tokens_to_ids(END)
    batch = padded(ids, end, "left")
    mask = padded([[1] * len(row) for row in ids], 0, "left")
    written = generate(model, batch, mask, max_new_tokens=words, eos_token_id=end)
    rows = written[:, batch.shape[1] :].tolist()
    return [tokenizer.decode(row[: row.index(end)] if end in row else row).strip() for row in rows]


def judged(answers: Sequence[str]) -> tuple[float, float]:
    """(mean number of words, share that hold a right word) of answers to ASKED."""
    right = [
        any(word in answer.lower() for word in words.split("|"))
        for answer, (_, words) in zip(answers, ASKED, strict=True)
    ]
    lengths = [len(answer.split()) for answer in answers]
    return sum(lengths) / len(lengths), sum(right) / len(right)


def questions_asked() -> list[str]:
    """The questions of ASKED, without their answers."""
    return [text for text, _ in ASKED]
