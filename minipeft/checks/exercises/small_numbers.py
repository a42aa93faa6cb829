"""How many numbers BitFit and (IA)^3 train, in a model like BERT and in one like Llama."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

L, C, I = 12, 768, 3072  # noqa: E741  BERT-base
LAYERS, WIDTH, INNER, KV = 30, 576, 1536, 3 * 64  # SmolLM2: 3 heads of 64 for keys and values

BITFIT = L * (4 * C + I + C + 2 * C)
IA3 = L * (2 * C + I)
GROUPED = LAYERS * (2 * KV + INNER)
MATRICES = L * (4 * C * C + 2 * C * I)
AS_IF = LAYERS * (2 * WIDTH + 2 * KV + 2 * INNER + WIDTH)  # q, o, k, v, gate, up, down

WRONG_BITFIT = [
    (BITFIT // L, "that is one block: BERT-base has 12"),
    (L * (5 * C + I), "the two layer norms of a block have biases too, of C numbers each"),
    (
        L * (6 * C + I),
        "one vector of C numbers is missing in each block: four maps of attention, the down map "
        "and two norms have one",
    ),
    (L * (9 * C + I), "the weights of the layer norms are no biases: they stay frozen"),
    (L * (6 * C + 2 * I), "the down map gives back C numbers, and so has a bias of C"),
    (L * (7 * C), "the up map is missing: it gives back I numbers, and so has a bias of I"),
    (L * (3 * C), "that is query, key and value alone: every map and norm has a bias"),
    (L * (4 * C), "those are the biases of attention: feed-forward and the norms have some too"),
    (L * (6 * C), "that is without feed-forward: its maps have biases of I and of C numbers"),
    (L * (I + C), "those are the biases of feed-forward: attention and the norms have some too"),
    (L * 8, "a bias is a vector: one number for every output of its map"),
    (
        BITFIT + C,
        "the norm behind the embeddings is in no block: its bias is not counted here",
    ),
    (4 * BITFIT, "that is bytes in fp32: count numbers"),
    (MATRICES, "those are the matrices, which stay frozen: a bias has one number per output"),
    (MATRICES + BITFIT, "the matrices stay frozen: only the biases are trained"),
]
WRONG_IA3 = [
    (IA3 // L, "that is one block: BERT-base has 12"),
    (
        L * (3 * C + I),
        "keys, values and hidden features are rescaled, and nothing else: no queries, nothing "
        "behind the down map",
    ),
    (L * (4 * C + I), "of the four maps of attention only keys and values are rescaled"),
    (L * (2 * C), "the vector of feed-forward is missing: it has I numbers"),
    (L * I, "keys and values are missing: a vector of C numbers each"),
    (L * (C + I), "keys and values have a vector each: 2 C + I"),
    (L * 3 * C, "the hidden features of feed-forward are I numbers, not C"),
    (L * (2 * C + 2 * I), "one vector rescales the hidden features: I numbers, once"),
    (L * 3, "each of the three is a vector: C, C and I numbers"),
    (L * (2 * C * C + C * I), "vectors are trained, one number for every feature, no matrices"),
    (4 * IA3, "that is bytes in fp32: count numbers"),
    (BITFIT, "that is BitFit: (IA)³ has three vectors in a block"),
]
WRONG_NONE = [
    (AS_IF, "its maps have no biases: nothing is added behind the matrices"),
    (AS_IF + LAYERS * 2 * WIDTH, "neither its maps nor its norms have a bias"),
    (LAYERS * 2 * WIDTH, "an RMS norm has a weight and no bias"),
    (LAYERS * 2 * WIDTH + WIDTH, "an RMS norm has a weight and no bias"),
    (GROUPED, "that is what (IA)³ trains; this model has no biases"),
    (BITFIT, "that is BERT-base: this model has no biases"),
]
WRONG_GROUPED = [
    (GROUPED // LAYERS, "that is one block: SmolLM2 has 30"),
    (LAYERS * (2 * WIDTH + INNER), "keys and values have 3 heads of 64 numbers, not the width C"),
    (LAYERS * (WIDTH + KV + INNER), "both keys and values have 3 heads of 64 numbers"),
    (LAYERS * (KV + INNER), "keys and values have a vector each, of 3 heads of 64 numbers"),
    (LAYERS * (2 * 3 + INNER), "every head has 64 features: 3 * 64 factors for keys, not 3"),
    (
        LAYERS * (2 * KV + 3 * INNER),
        "what gate and up give is not rescaled twice: what the down map reads is one vector",
    ),
    (LAYERS * (2 * KV), "the vector of feed-forward is missing: it has I numbers"),
    (LAYERS * INNER, "keys and values are missing: a vector of 3 heads of 64 numbers each"),
    (
        LAYERS * (2 * KV + 2 * INNER),
        "what the down map reads is one vector of I numbers, gated or not",
    ),
    (LAYERS * (2 * KV + WIDTH), "the hidden features are I = 1536 numbers, not C"),
    (LAYERS * (2 * KV + INNER + WIDTH), "queries are not rescaled"),
    (LAYERS * (2 * 64 + INNER), "keys have 3 heads of 64 numbers, and so have values"),
    (L * (2 * KV + INNER), "SmolLM2 has 30 blocks"),
    (4 * GROUPED, "that is bytes in fp32: count numbers"),
    (IA3, "that is BERT-base"),
]
PARTS = {
    "bert_bitfit": (BITFIT, WRONG_BITFIT),
    "bert_ia3": (IA3, WRONG_IA3),
    "smollm_bitfit": (0, WRONG_NONE),
    "smollm_ia3": (GROUPED, WRONG_GROUPED),
}

small_numbers = NumberCheck(
    "small_numbers",
    "7 C + I biases and 2 C + I factors in a block of BERT; in SmolLM2 no biases, few key heads",
    {part: right for part, (right, _) in PARTS.items()},
    [
        ({part: value}, f"{part}: {sentence}")
        for part, (_, wrong) in PARTS.items()
        for value, sentence in wrong
    ],
)
