"""Fifty tasks on SmolLM2: bytes of adapters and of copies, and when a merge has paid."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

LAYERS, WIDTH, KEY_VALUE, RANK, BYTES, TASKS = 30, 576, 192, 8, 4, 50
MODEL = 134_515_008
QUERY, VALUE = WIDTH + WIDTH, WIDTH + KEY_VALUE  # in + out
ONE_TASK = LAYERS * RANK * (QUERY + VALUE)
ADAPTERS = TASKS * BYTES * ONE_TASK
COPIES = TASKS * BYTES * MODEL
MERGE = WIDTH * WIDTH / (WIDTH + WIDTH)

serving_costs = NumberCheck(
    "serving_costs",
    "r (in + out) numbers a map; a whole model a copy; a merge pays after in out / (in + out) "
    "tokens, whatever the rank",
    {"adapters": ADAPTERS, "copies": COPIES, "merge": MERGE},
    [
        ({"adapters": BYTES * ONE_TASK}, "adapters: that is one task, there are 50"),
        ({"adapters": TASKS * ONE_TASK}, "adapters: those are numbers, each has 4 bytes"),
        ({"adapters": ONE_TASK}, "adapters: those are the numbers of one task"),
        ({"adapters": 2 * TASKS * ONE_TASK}, "adapters: float32 has 4 bytes a number, not 2"),
        (
            {"adapters": ADAPTERS // LAYERS},
            "adapters: that is one layer, the model has 30",
        ),
        ({"adapters": ADAPTERS // RANK}, "adapters: that is rank 1, the rank is 8"),
        (
            {"adapters": TASKS * BYTES * LAYERS * RANK * 2 * QUERY},
            "adapters: the map of the values gives 192 numbers, not 576",
        ),
        (
            {"adapters": TASKS * BYTES * LAYERS * RANK * 2 * VALUE},
            "adapters: the map of the query gives 576 numbers, not 192",
        ),
        (
            {"adapters": TASKS * BYTES * LAYERS * RANK * QUERY},
            "adapters: that is the query's map alone, the value's has a LoRA too",
        ),
        (
            {"adapters": TASKS * BYTES * LAYERS * RANK * VALUE},
            "adapters: that is the value's map alone, the query's has a LoRA too",
        ),
        (
            {"adapters": TASKS * BYTES * LAYERS * (WIDTH * WIDTH + WIDTH * KEY_VALUE)},
            "adapters: those are the whole maps; a LoRA keeps A (r, in) and B (out, r) only",
        ),
        (
            {"adapters": ADAPTERS + BYTES * MODEL},
            "adapters: the base is needed too, once; asked are the adapters beside it",
        ),
        (
            {"adapters": TASKS * BYTES * LAYERS * RANK * (QUERY + 2 * VALUE)},
            "adapters: the key's map has no LoRA: query and value alone",
        ),
        ({"copies": BYTES * MODEL}, "copies: that is one model, there are 50"),
        ({"copies": TASKS * MODEL}, "copies: those are numbers, each has 4 bytes"),
        ({"copies": 2 * TASKS * MODEL}, "copies: float32 has 4 bytes a number, not 2"),
        ({"copies": COPIES + ADAPTERS}, "copies: a copy that was tuned needs no adapter"),
        (
            {"copies": COPIES + BYTES * MODEL},
            "copies: asked are the 50 copies, without the model that they come from",
        ),
        (
            {"copies": COPIES - BYTES * MODEL},
            "copies: each of the 50 tasks has a copy, the first one too",
        ),
        ({"merge": RANK * MERGE}, "merge: both sides grow with r, so r drops out: divide by it"),
        ({"merge": MERGE / RANK}, "merge: both sides grow with r, so r drops out: once is enough"),
        (
            {"merge": 2 * MERGE},
            "merge: the detour costs r in for A x and r out for B (A x): r (in + out), not r in",
        ),
        (
            {"merge": WIDTH * KEY_VALUE / VALUE},
            "merge: that is the value's map; asked is the query's, 576 to 576",
        ),
        (
            {"merge": RANK * WIDTH * WIDTH},
            "merge: that is what the merge costs; divide it by what a token's detour costs",
        ),
        (
            {"merge": RANK * 2 * WIDTH},
            "merge: that is what a token's detour costs; how many of them cost as much as a merge?",
        ),
        (
            {"merge": WIDTH * WIDTH},
            "merge: that is what the frozen map costs for a token; compare the merge with the "
            "detour",
        ),
        (
            {"merge": LAYERS * MERGE},
            "merge: in more layers the merge and the detour both cost more: the layers drop out",
        ),
        ({"merge": 0}, "merge: it costs something: how many tokens' detours is it worth?"),
        ({"merge": 1}, "merge: merging costs far more than the detour of one token"),
        ({"merge": TASKS}, "merge: it has nothing to do with the number of tasks"),
    ],
)
