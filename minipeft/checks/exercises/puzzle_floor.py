"""The least price of a text, worked out from how its author threw the dice."""

from __future__ import annotations

import math

from minipeft.checks.framework import NumberCheck

KINDS, NOUNS = 6, 10  # functions, all alike; nouns to draw from, none twice; always three of them
FIRST = math.log(KINDS)
NOUN = math.log(NOUNS - 1)  # the second one
ROW = sum(math.log(NOUNS - k) for k in range(3))
WHOLE = FIRST + ROW
BITS = math.log(2)

puzzle_floor = NumberCheck(
    "puzzle_floor",
    "log 6 for the function, log 9 for the second of ten nouns, 0 for what the rule decides",
    {"first": FIRST, "noun": NOUN, "answer": 0.0, "whole": WHOLE},
    [
        ({"first": KINDS}, "first: that is how many there are, the price is -log(1 / 6)"),
        ({"first": math.log(NOUNS)}, "first: that is the first noun, asked is the function word"),
        ({"first": 1 / KINDS}, "first: that is the probability, the price is its -log"),
        ({"first": -FIRST}, "first: a price is -log of a probability, and not negative"),
        ({"first": FIRST / BITS}, "first: that is in bits, the question is in nats"),
        ({"first": math.log10(KINDS)}, "first: that is log to base 10, nats need the natural one"),
        ({"first": 0.0}, "first: the author threw a dice for it, so it is not free"),
        ({"first": math.log(885)}, "first: only 6 words of the vocabulary can stand first"),
        ({"noun": math.log(NOUNS)}, "noun: the first noun cannot come again, so one is gone"),
        ({"noun": math.log(NOUNS - 2)}, "noun: before the second noun only one is gone"),
        ({"noun": 1 / (NOUNS - 1)}, "noun: that is the probability, the price is its -log"),
        ({"noun": NOUN / BITS}, "noun: that is in bits, the question is in nats"),
        ({"noun": -NOUN}, "noun: a price is -log of a probability, and not negative"),
        (
            {"noun": math.log(NOUNS) + NOUN},
            "noun: that is both nouns together, asked is the second alone",
        ),
        ({"noun": NOUNS - 1}, "noun: that is how many are left, the price is -log(1 / 9)"),
        ({"noun": ROW}, "noun: that is all three nouns, asked is the second alone"),
        ({"answer": NOUN}, "answer: no noun is drawn in it, the rule says which one comes"),
        ({"answer": 1.0}, "answer: that is the probability, and its -log is asked"),
        ({"answer": ROW}, "answer: the nouns are known by then, and the rule says their order"),
        ({"answer": 3 * math.log(3)}, "answer: the rule says which of the three comes when"),
        ({"answer": math.log(6)}, "answer: there are 3! orders, and the rule names the one"),
        ({"answer": math.log(3)}, "answer: the rule says which of the three comes when"),
        ({"whole": FIRST + 3 * math.log(NOUNS)}, "whole: no noun comes twice"),
        (
            {"whole": FIRST + 3 * NOUN},
            "whole: one more noun is gone each time: log 10, log 9 and log 8",
        ),
        (
            {"whole": FIRST + math.log(9 * 8 * 7)},
            "whole: before the first noun none is gone: log 10, log 9 and log 8",
        ),
        ({"whole": ROW}, "whole: the first word has its price, too"),
        ({"whole": FIRST + ROW + ROW}, "whole: the answer costs nothing, the rule decides it"),
        ({"whole": FIRST + NOUN}, "whole: there are three nouns"),
        ({"whole": WHOLE / 14}, "whole: that is per token, asked is the sum"),
        ({"whole": WHOLE / BITS}, "whole: that is in bits, the question is in nats"),
        ({"whole": math.exp(-WHOLE)}, "whole: that is the probability, the price is its -log"),
        ({"whole": FIRST * ROW}, "whole: probabilities are multiplied, so prices are added"),
    ],
    tolerance=0.01,
)
