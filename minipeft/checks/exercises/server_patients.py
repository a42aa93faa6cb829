"""Five servers seen from outside, of which four answer wrongly: what does each of them do?"""

from __future__ import annotations

from minipeft.checks.framework import diagnosis
from minipeft.course.serving_patients import SERVERS

BITS = "its base has the same bits afterwards, so nothing was left in the weights"
FIRST_WORDS = "its first words are wrong already, before anything could have been exchanged"
MIXED_UP = "the answers themselves are wrong, in whatever order one reads them"
HINTS = {  # (server, wrong cause): what speaks against it
    ("A", "merge"): BITS,
    ("A", "cache"): "all the right answers are there: they only reached somebody else",
    ("A", "healthy"): "most requests got an answer that they do not get alone",
    ("A", "swap"): FIRST_WORDS,
    ("B", "order"): MIXED_UP,
    ("B", "cache"): "keys and values that are kept leave the base's weights alone",
    ("B", "healthy"): "its base has other bits afterwards",
    ("B", "swap"): "another adapter leaves the base's weights alone",
    ("C", "order"): MIXED_UP,
    ("C", "merge"): BITS,
    ("C", "healthy"): "most requests got an answer that they do not get alone",
    ("C", "swap"): FIRST_WORDS,
    ("D", "order"): "every answer is the one that the request gets alone",
    ("D", "merge"): BITS,
    ("D", "cache"): "those who ask a text second are answered rightly too",
    ("D", "swap"): "the words after the first are right too",
    ("E", "order"): MIXED_UP,
    ("E", "merge"): BITS,
    ("E", "cache"): "those who ask a text first are answered wrongly too",
    ("E", "healthy"): "most requests got an answer that they do not get alone",
}

server_patients = diagnosis(
    "server_patients",
    "bits, first words, who asked first and the answers as a set tell every fault from the others",
    SERVERS,
    HINTS,
)
