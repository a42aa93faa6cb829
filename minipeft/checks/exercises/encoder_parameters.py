"""How many numbers P-tuning trains, and how many are left to store: worked out first."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

WIDTH, TOKENS = 80, 6  # C of tiny-decoder-0.4m, n pseudo tokens
VECTORS = TOKENS * WIDTH  # e, and as many for h
MLP = 2 * (WIDTH * WIDTH + WIDTH)  # W_1, b_1, W_2, b_2, with 2 S = C


def direction(inputs: int, S: int, biases: int = 2) -> int:
    """One direction of one layer: W (S, inputs), U (S, S), biases (S,) for each of four gates."""
    return 4 * (S * inputs + S * S + biases * S)


HALF = WIDTH // 2  # S
LSTM = 2 * 2 * direction(WIDTH, HALF)  # 2 layers, 2 directions, the second layer reads 2 S = C
WIDE = 2 * (direction(WIDTH, WIDTH) + direction(2 * WIDTH, WIDTH))  # with S = C by mistake
WIDE_MLP = (2 * WIDTH) * (2 * WIDTH) + 2 * WIDTH + 2 * WIDTH * WIDTH + WIDTH
REST = MLP + VECTORS

WRONG_TRAINED = [
    (VECTORS, "trained: that is what is stored; in training there is an encoder"),
    (LSTM + MLP, "trained: e is missing, one vector of C numbers for each pseudo token"),
    (LSTM + VECTORS, "trained: the MLP is missing, W_1, b_1, W_2 and b_2"),
    (REST, "trained: the BiLSTM is missing"),
    (LSTM, "trained: that is the BiLSTM alone; there are e and the MLP too"),
    (LSTM // 2 + REST, "trained: the BiLSTM has 2 layers and 2 directions, that is half of it"),
    (
        LSTM // 4 + REST,
        "trained: that is a quarter of the BiLSTM: 2 layers, both ways, four gates in each",
    ),
    (
        2 * (direction(WIDTH, HALF) + direction(HALF, HALF)) + REST,
        "trained: the second layer reads both directions of the first, 2 S numbers, not S",
    ),
    (
        4 * direction(WIDTH, HALF, biases=1) + REST,
        "trained: each gate has two biases of S numbers, in the text above",
    ),
    (4 * direction(WIDTH, HALF, biases=0) + REST, "trained: the biases of the LSTM are missing"),
    (WIDE + WIDE_MLP + VECTORS, "trained: S is C / 2 = 40, the width of one direction"),
    (WIDE + REST, "trained: S is C / 2 = 40, the width of one direction"),
    (LSTM + MLP - 2 * WIDTH + VECTORS, "trained: the biases of the MLP are missing"),
    (
        4 * direction(WIDTH, HALF, biases=0) + MLP - 2 * WIDTH + VECTORS,
        "trained: all the biases are missing, of the LSTM and of the MLP",
    ),
    (MLP, "trained: that is the MLP alone; there are e and the BiLSTM too"),
    (LSTM + MLP // 2 + VECTORS, "trained: the MLP has two maps"),
    (
        TOKENS * (LSTM + MLP) + VECTORS,
        "trained: one encoder makes all the vectors, there is not one for each pseudo token",
    ),
    (
        LSTM * 3 // 4 + REST,
        "trained: an LSTM has four gates, three are those of a GRU",
    ),
    (LSTM + REST + VECTORS, "trained: h is worked out from e, only e is a parameter"),
]
WRONG_STORED = [
    (LSTM + REST, "stored: the encoder is thrown away, only what it gives is kept"),
    (LSTM + MLP, "stored: the encoder is thrown away, h is what is kept"),
    (2 * VECTORS, "stored: e goes with the encoder, only h is kept"),
    (REST, "stored: the MLP goes with the encoder, only what it gives is kept"),
    (TOKENS, "stored: a pseudo token is a vector of C numbers"),
    (WIDTH, "stored: that is one pseudo token, there are 6"),
    (0, "stored: without the vectors the pseudo tokens mean nothing: they are kept"),
    (4 * VECTORS, "stored: count numbers, not bytes"),
]

encoder_parameters = NumberCheck(
    "encoder_parameters",
    "14 C² + 18 C + n C numbers are trained, n C of them are left to store",
    {"trained": LSTM + REST, "stored": VECTORS},
    [({"trained": number}, sentence) for number, sentence in WRONG_TRAINED]
    + [({"stored": number}, sentence) for number, sentence in WRONG_STORED],
)
