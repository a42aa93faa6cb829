"""What one token leaves behind in one block, and what ails five runs that compute layers again."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck, diagnosis
from minipeft.course.memory import CHECKPOINTED

C, H, INNER, R = 80, 4, 320, 8
ALWAYS = 2 * (C + 2) + 4 * C + H + INNER  # norms; q, k, v and the mix; softmax; before activation
READ = 2 * C + INNER  # before q k v, before up, before down
RIGHT = {"full": ALWAYS + READ, "frozen": ALWAYS, "LoRA": ALWAYS + C + 2 * R}

kept_numbers = NumberCheck(
    "kept_numbers",
    "16 C + H + 4 with all maps trained; a frozen map keeps nothing; LoRA keeps x once, A x twice",
    RIGHT,
    [
        ({name: value}, f"{name}: {sentence}")
        for name, value, sentence in (
            ("full", ALWAYS, "that is the frozen block: maps that train keep what they read"),
            ("full", ALWAYS + READ + 2 * C, "query, key and value read one tensor, kept once"),
            ("full", ALWAYS + READ + C, "the output map reads the mix, which is in the list"),
            ("full", ALWAYS + READ - INNER, "down reads what the activation gives, I numbers"),
            ("full", ALWAYS + READ - C, "each of two norms gives a tensor: for q k v, for up"),
            ("full", ALWAYS + READ - 4, "a LayerNorm keeps mean and deviation, softmax H numbers"),
            ("full", ALWAYS + READ - 2, "there are two LayerNorms, each with two numbers more"),
            ("full", ALWAYS + READ - C - 2, "there are two LayerNorms in a block"),
            ("full", ALWAYS + READ - 2 * (C + 2), "the LayerNorms keep something too: their input"),
            ("full", ALWAYS + READ - 3 * C, "attention keeps q, k, v and the mix: 4 C numbers"),
            ("full", 4 * (ALWAYS + READ), "those are bytes: how many numbers?"),
            ("frozen", 0, "frozen maps keep nothing, but norms, attention and activation do: dL/dx "
             "must pass through them"),
            ("frozen", ALWAYS + READ, "that is the trained block: a frozen map needs no x, since "
             "nobody asks for dL/dW"),
            ("frozen", ALWAYS + C, "what query, key and value read is needed for dL/dW alone"),
            ("frozen", ALWAYS + INNER, "what down reads is needed for dL/dW alone"),
            ("frozen", ALWAYS + 2 * C, "what maps read is needed for dL/dW alone"),
            ("frozen", ALWAYS - INNER, "the activation needs its input, attention q, k, v, mix"),
            ("frozen", ALWAYS - 4 * C - H, "attention has no weights that could be frozen: it "
             "keeps q, k, v, the mix and H numbers"),
            ("frozen", ALWAYS - C, "the mix of the values is kept by attention itself"),
            ("frozen", ALWAYS - 2 * (C + 2), "a LayerNorm needs its input, trained or not"),
            ("frozen", ALWAYS - 4, "a LayerNorm keeps mean and deviation, softmax H numbers"),
            ("LoRA", ALWAYS, "that is the frozen block: A needs x and B needs A x"),
            ("LoRA", ALWAYS + C, "B, too, is a map that trains: it reads A x, r numbers"),
            ("LoRA", ALWAYS + R, "A reads x, C numbers, and each of two B reads A x, r numbers"),
            ("LoRA", ALWAYS + C + R, "there are two LoRAs in the block: A x is kept for each"),
            ("LoRA", ALWAYS + 2 * C + 2 * R, "query and value read one tensor: it is kept once"),
            ("LoRA", ALWAYS + 2 * R, "A is a map that trains: it reads x, C numbers"),
            ("LoRA", ALWAYS + READ + 2 * R, "the frozen maps need no x: only what A reads is kept"),
            ("LoRA", ALWAYS + READ, "the frozen maps need no x: only what A reads is kept"),
            ("LoRA", ALWAYS + 2 * C, "query and value read one tensor: it is kept once; and B "
             "reads A x, r numbers for each of two LoRAs"),
            ("LoRA", ALWAYS + 4 * R * C, "those are the weights of A and B: asked is what they "
             "read"),
            ("LoRA", ALWAYS + 3 * C + 2 * R, "what B gives is added and not kept: x and A x are"),
            ("LoRA", ALWAYS + 2 * C + R, "x is kept once for both LoRAs, and A x for each"),
            ("LoRA", 4 * (ALWAYS + C + 2 * R), "those are bytes: how many numbers?"),
            ("LoRA", ALWAYS + 2 * R * C, "those are A's weights: A x has r numbers"),
            ("LoRA", ALWAYS + C + 4 * R, "A x is kept, (r,), for each of two LoRAs; B A x is not"),
        )
    ],
)  # fmt: skip

SMALL = "it keeps far less after the forward than the run without"
COMES = "a gradient comes to every tensor"
SAME = "its gradients are those of the run without"
PEAK = "its peak is far lower than that of the run without"
ONCE = "its layers are called once only: nothing is computed again"
HINTS = {  # (run, wrong cause): what speaks against it
    ("A", "reentrant"): COMES,
    ("A", "healthy"): "look at its peak: what was saved in the forward comes back at once",
    ("A", "random"): SAME,
    ("A", "unread"): SMALL,
    ("B", "one piece"): ONCE,
    ("B", "healthy"): "count the tensors without a gradient",
    ("B", "random"): "the gradients that it has are right: most are missing",
    ("B", "unread"): SMALL,
    ("C", "one piece"): PEAK,
    ("C", "reentrant"): COMES,
    ("C", "random"): SAME,
    ("C", "unread"): SMALL,
    ("D", "one piece"): PEAK,
    ("D", "reentrant"): COMES,
    ("D", "healthy"): "look at its gradients: they are not those of the run without",
    ("D", "unread"): SMALL,
    ("E", "one piece"): ONCE,
    ("E", "reentrant"): COMES,
    ("E", "healthy"): "what does it keep after the forward?",
    ("E", "random"): SAME,
}

again_patients = diagnosis(
    "again_patients",
    "bytes behind the forward, the peak, calls and gradients tell every fault",
    CHECKPOINTED,
    HINTS,
)
