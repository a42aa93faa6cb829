"""What prompts cost for a large model, worked out before anything is run."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

P, C, MODEL, TASKS, BYTES, ROOM = 5, 4096, 11_000_000_000, 1000, 4, 512
PROMPT = P * C
PROMPTS = TASKS * PROMPT * BYTES
COPIES = TASKS * MODEL * BYTES

prompt_costs = NumberCheck(
    "prompt_costs",
    "P C numbers for each task; 82 MB of prompts where full copies are 44 TB; T - P tokens of room",
    {"trained": PROMPT, "prompts": PROMPTS, "copies": COPIES, "room": ROOM - 100},
    [
        ({"trained": C}, "trained: that is one vector of C numbers, the prompt has P of them"),
        ({"trained": P}, "trained: every soft word is a vector of C numbers"),
        ({"trained": 2 * PROMPT}, "trained: vectors at the input, not keys and values"),
        ({"trained": 24 * PROMPT}, "trained: the prompt stands at the input only, in no layer"),
        ({"trained": PROMPT * BYTES}, "trained: that is bytes, count numbers"),
        ({"trained": MODEL}, "trained: the model is frozen, only the prompt is trained"),
        ({"trained": MODEL + PROMPT}, "trained: the model is frozen, only the prompt is trained"),
        ({"trained": TASKS * PROMPT}, "trained: that is for 1,000 tasks, asked is one"),
        ({"trained": ROOM * C}, "trained: the text's words are frozen, the prompt has P = 5"),
        ({"trained": P + C}, "trained: P vectors of C numbers each: multiply them"),
        ({"trained": 100 * C}, "trained: this prompt has P = 5 vectors"),
        ({"prompts": PROMPT * BYTES}, "prompts: that is one task, there is a prompt for each"),
        ({"prompts": TASKS * PROMPT}, "prompts: that is numbers, each has 4 bytes"),
        ({"prompts": 2 * TASKS * PROMPT}, "prompts: fp32 has 4 bytes a number, not 2"),
        ({"prompts": PROMPT}, "prompts: one prompt for each task, and 4 bytes for each number"),
        (
            {"prompts": PROMPTS + MODEL * BYTES},
            "prompts: the model is needed too, once for all; asked are the prompts beside it",
        ),
        ({"prompts": 82_000_000}, "prompts: work it out to the last byte, rounding comes later"),
        ({"prompts": 20 * PROMPTS}, "prompts: these have P = 5 vectors, not 100"),
        ({"copies": MODEL * BYTES}, "copies: full fine-tuning keeps a whole model for each task"),
        ({"copies": TASKS * MODEL}, "copies: that is numbers, each has 4 bytes"),
        ({"copies": 2 * TASKS * MODEL}, "copies: fp32 has 4 bytes a number, not 2"),
        ({"copies": PROMPTS}, "copies: full fine-tuning has no prompts, it changes the model"),
        (
            {"copies": COPIES + PROMPTS},
            "copies: full fine-tuning has no prompts beside its copies",
        ),
        (
            {"copies": COPIES + MODEL * BYTES},
            "copies: asked are the 1,000 copies, without the model that they come from",
        ),
        (
            {"copies": COPIES - MODEL * BYTES},
            "copies: every one of the 1,000 tasks has its copy, the first one too",
        ),
        ({"room": ROOM}, "room: soft words stand in the input and take its places"),
        ({"room": ROOM + 100}, "room: the prompt takes places away"),
        ({"room": 100}, "room: that is the prompt; asked is what is left for the text"),
        ({"room": ROOM - 100 - P}, "room: one prompt stands there, of 100 soft words"),
        ({"room": ROOM - 1}, "room: each of the 100 soft words takes a place, not all of them one"),
        ({"room": ROOM * C}, "room: count tokens, not numbers"),
        ({"room": (ROOM - 100) * C}, "room: count tokens, not numbers"),
        ({"room": ROOM - P}, "room: this prompt has 100 soft words"),
    ],
)
