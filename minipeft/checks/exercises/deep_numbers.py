"""What P-Tuning v2 trains in BERT-large, and how long a prompt of as many numbers would be."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

P, C, L, CLASSES = 20, 1024, 24, 2
PROMPTS = 2 * P * L * C
HEAD = C * CLASSES + CLASSES
WORDS = 2 * P * L

deep_numbers = NumberCheck(
    "deep_numbers",
    "2 P L C in the prompts, a weight per class and feature and a bias, 2 P L soft words",
    {"prompts": PROMPTS, "head": HEAD, "words": WORDS},
    [
        ({"prompts": P * L * C}, "prompts: a key and a value, so twice as many"),
        ({"prompts": 2 * P * C}, "prompts: that is one layer, and there are L of them"),
        ({"prompts": P * C}, "prompts: that is prompt tuning, P vectors at the input"),
        ({"prompts": 2 * L * C}, "prompts: that is one row, the prompt has P of them"),
        ({"prompts": PROMPTS * 16}, "prompts: H heads of width D are C numbers: H counts in C"),
        ({"prompts": 4 * PROMPTS}, "prompts: those are bytes, the question is how many numbers"),
        (
            {"prompts": PROMPTS + HEAD},
            "prompts: the head is asked for by itself",
        ),
        (
            {"prompts": 2 * P * L * 64},
            "prompts: that is one head of width 64, and the heads together have C numbers",
        ),
        (
            {"prompts": 2 * P * C * (L + 1)},
            "prompts: the embedding is no layer of attention, there are L of them",
        ),
        (
            {"prompts": 3 * P * L * C},
            "prompts: a key and a value, and no query: the prompt asks nothing",
        ),
        (
            {"prompts": HEAD, "head": PROMPTS},
            "prompts and head are interchanged: the head is the small one",
        ),
        (
            {"prompts": PROMPTS + P * C},
            "prompts: nothing stands at the input: they are keys and values in the layers alone",
        ),
        (
            {"head": C * C + C + HEAD},
            "head: it is one linear map, there is none from C to C before it",
        ),
        ({"words": WORDS + P}, "words: the prompts stand in the L layers, and none at the input"),
        ({"head": C * CLASSES + 1}, "head: each of the two classes has a bias"),
        ({"head": C * CLASSES}, "head: a linear map has a bias, one number for each class"),
        ({"head": C + 1}, "head: one row of C numbers and a bias for each of the two classes"),
        ({"head": C}, "head: one row of C numbers and a bias for each of the two classes"),
        (
            {"head": P * C * CLASSES + CLASSES},
            "head: it reads one vector, that of [CLS], not the P rows of the prompt",
        ),
        (
            {"head": L * HEAD},
            "head: it stands on the highest layer only",
        ),
        ({"words": P}, "words: as long as P would have P C numbers, 2 L times too few"),
        ({"words": P * L}, "words: each pair is a key and a value, two vectors"),
        ({"words": PROMPTS}, "words: divide by C, the numbers of one soft word"),
        ({"words": 2 * L}, "words: that is for one row of the deep prompt, which has P"),
        ({"words": 2 * L * C}, "words: divide by C, and count all P rows of the deep prompt"),
        ({"words": 2 * P * C}, "words: divide by C, and count all L layers of the deep prompt"),
        ({"words": 2 * P}, "words: that is for one layer, and there are L of them"),
        ({"words": 512}, "words: that is how many tokens BERT reads; how many would be needed?"),
        ({"words": WORDS + 2}, "words: only the prompts' numbers are to be equal, not the head's"),
    ],
)
