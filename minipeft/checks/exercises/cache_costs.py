"""What writing costs without and with a cache, worked out before anything is counted."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

P, N, L, C = 10, 100, 12, 768  # a prompt, new words, GPT-2 small
WITHOUT = N * P + N * (N - 1) // 2
WITH = P + N - 1
COUNTS = 2 * L * C * WITH

cache_costs = NumberCheck(
    "cache_costs",
    "n P + n (n - 1) / 2 tokens without, P + n - 1 with, and 2 L C numbers kept for each of them",
    {"without": WITHOUT, "with": WITH, "kept": COUNTS},
    [
        ({"without": N * P}, "without: the text grows, and each word written is read again"),
        ({"without": P + N}, "without: every step runs the whole text, not its newest word"),
        ({"without": P + N - 1}, "without: every step runs the whole text, not its newest word"),
        (
            {"without": N * P + N * (N + 1) // 2},
            "without: the last word is written and not read again: 10, 11, ..., 109 tokens",
        ),
        ({"without": N * N}, "without: the steps run 10, 11, ..., 109 tokens: sum them up"),
        (
            {"without": N * (N + 1) // 2},
            "without: the first step runs the whole prompt, 10 tokens, and not 1",
        ),
        ({"without": N * (P + N) // 2}, "without: the first step runs 10 tokens, the last one 109"),
        (
            {"without": (P + N) * (P + N + 1) // 2},
            "without: the prompt goes through whole at the first step, not word by word",
        ),
        (
            {"without": (P + N) * (P + N - 1) // 2},
            "without: the prompt goes through whole at the first step, not word by word",
        ),
        ({"without": N * (P + N)}, "without: only the last steps are that long, sum them up"),
        ({"without": N * (P + N - 1)}, "without: only the last step is that long, sum them up"),
        ({"without": (P + N) ** 2}, "without: count tokens that go through, not pairs of them"),
        ({"without": N * (N - 1) // 2}, "without: the prompt goes through at every step, too"),
        ({"without": L * WITHOUT}, "without: count a token once a step, not once in each block"),
        ({"with": L * WITH}, "with: count a token once a step, not once in each block"),
        ({"with": P + N}, "with: the last word is written and not read again"),
        ({"with": N}, "with: the prompt goes through once, too"),
        ({"with": N - 1}, "with: the prompt goes through once, too"),
        ({"with": P}, "with: the prompt goes through once, then the words written, one at a time"),
        ({"with": 1}, "with: that is one step; the prompt has to go through, too"),
        ({"with": N * P}, "with: the prompt goes through once, not at each step"),
        ({"with": WITHOUT}, "with: that is without: earlier tokens do not go through again"),
        ({"kept": 2 * C * WITH}, "kept: that is one layer, and each of the 12 has its own cache"),
        ({"kept": L * C * WITH}, "kept: a key and a value for each token, so twice as many"),
        ({"kept": 2 * L * WITH}, "kept: a key has C = 768 numbers, all heads together"),
        ({"kept": C * WITH}, "kept: a key and a value, and in each of the 12 layers"),
        ({"kept": 2 * L * C}, "kept: that is one token, and all that went through are kept"),
        ({"kept": 4 * COUNTS}, "kept: that is bytes in float32, the question is how many numbers"),
        (
            {"kept": 12 * COUNTS},
            "kept: the 12 heads share the C numbers of a token: they do not multiply them",
        ),
        (
            {"kept": 3 * L * C * WITH},
            "kept: the queries of earlier tokens are never needed again: keys and values only",
        ),
        (
            {"kept": 2 * L * C * (P + N)},
            "kept: the last word never went through, so it has no key and no value yet",
        ),
        ({"kept": 2 * L * C * P}, "kept: those of the words written are kept, too"),
        (
            {"kept": 2 * L * C * WITHOUT},
            "kept: a token leaves its key and value once, however often it could be run",
        ),
        ({"kept": WITH}, "kept: each token leaves a key and a value of C numbers in each layer"),
        ({"kept": 2 * L * C * N}, "kept: the prompt's keys and values are kept, too"),
    ],
)
