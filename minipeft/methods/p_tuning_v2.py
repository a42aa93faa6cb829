"""P-tuning v2: deep prompts for understanding tasks (Liu et al. 2022, arXiv 2110.07602).

In the memory door. Path: attach(model, PTuningV2(...)) -> PTuningV2.install -> Prefix.install ->
tuner.add_memory(site, PrefixPatch) -> MemoryDoor.forward, which calls PrefixPatch.forward(x) in
every pass and puts the P_k, P_v that it gives before the keys and values of its attention layer. A
`site` is an attention layer; a door stands where it stood and calls the patches of every tuner.

Section 3. It is prefix-tuning, brought to encoders and to classification and tagging:

    softmax(Q [P_k ; K]^T / sqrt D) [P_v ; V]      P_k, P_v (H, P, D) in each of L layers   (eq. 1)

One table R (P, 2 L H D) is trained; a PrefixEncoder holds it. The l-th of the L layers that have a
prompt cuts its columns out of it, and that is the forward of its PrefixPatch (x tells it no more
than the dtype):

    rows = R[:, 2 H D l : 2 H D (l + 1)]                      (P, 2 H D), dropout on them if asked
    P_k, P_v = rows.view(P, 2, H, D).permute(1, 2, 0, 3)      two of (H, P, D), for every row

    L = 4, H = 4, D = 16, P = 20: R (20, 512) -> (20, 128) -> two of (4, 20, 16), before K, V
    (N, 4, T, 16), N rows of T tokens: [P_k ; K] (N, 4, 20 + T, 16), scores (N, 4, T, 20 + T),
    output (N, 4, T, 16). H counts key-value heads, C is the model's width.

All else is as in prefix.py, except:

| section 3.3           | prefix.py             | here                                             |
|-----------------------|-----------------------|--------------------------------------------------|
| reparameterization    | an MLP with tanh      | none: R (P, 2 L H D) is trained as it is         |
|                       |                       | ("embedding" in the code); "mlp" as a setting    |
| prompt length         | about 10              | `length`, 20: fewer for simple classification,   |
|                       |                       | about 100 for tagging                            |
| which layers          | all                   | `layers`: deep ones serve better than as many    |
|                       |                       | shallow ones (section 4.4)                       |
| what answers          | a language head       | a linear head on [CLS] or on the tokens, which   |
|                       |                       | `attach` trains; or, with a language head, a     |
|                       |                       | verbalizer: `minipeft.cloze`                     |
| multi-task learning   | none                  | `minipeft.warm_up`: one prompt for several       |
|                       |                       | tasks, then a copy each                          |

Start: R is N(0, 0.02^2), so that all its scores are near zero and its values, too. The first answer
is not the base's: where the scores of the words are near zero as well, P values near zero leave
T / (T + P) of a layer's output. No gradient is zero.

Merge: impossible, there is no weight that rows could be added to.

Parameters: 2 P L H D trained and stored, and the head. With the MLP (k features), P C + k C + k +
2 (k + 1) L H D are trained (R = tanh(P' W_1^T + b_1) W_2^T + b_2, P' (P, C), W_1 (k, C),
W_2 (2 L H D, k)); stored
are R, or all of them with `keep_mlp`.

Departures.
(1) Start. Paper: its code draws R from N(0, 1). PEFT: likewise. Here: N(0, 0.02^2), so that
    its values add next to nothing yet; `std=1` does as they do.
    Shown by test_prefix.py::test_v2_is_a_prefix_without_an_mlp
(2) Positions. Paper: the prompts take positions, as a cache does. PEFT: likewise. Here: words keep
    theirs and every token sees all prompts; `compatibility="peft"` does as PEFT, see prefix.py.
    Shown by test_sliding_windows.py
(3) Dropout. Paper: its code drops 0.1 of the prompts. PEFT: none. Here: `dropout`, 0 by default.
    Shown by test_prefix.py::test_dropout_falls_on_keys_and_values
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from minipeft.methods.method import Method
from minipeft.methods.parts import prefix_options
from minipeft.methods.parts.renamed import renamed
from minipeft.methods.parts.validation import check_choice, check_flag, check_layers, check_number
from minipeft.methods.prefix import Prefix, PrefixEncoder


@renamed({"layout": "compatibility"})
@dataclass(frozen=True)
class PTuningV2(Method):
    """Deep prompts in every attention layer, or in chosen ones.

    Args:
        length: P.  layers: numbers of the layers, None for all.
        reparameterize: None or "embedding" (the same) for a table, "mlp" for an MLP of `hidden`
            features that is folded away on save, unless keep_mlp.
        std: of the table at the start.  dropout: of the prompts.
        compatibility: "peft" does what 🤗 PEFT does, see Prefix.

    Raises:
        ValueError: when a value is impossible.
    """

    length: int = 20
    layers: tuple[int, ...] | None = None
    reparameterize: str | None = None
    hidden: int = 512
    std: float = 0.02
    dropout: float = 0.0
    keep_mlp: bool = False
    compatibility: str = "minipeft"

    identity_at_start = False

    def __post_init__(self) -> None:
        for name in ("length", "hidden"):
            check_number(self, name, "from 1", lambda n: n >= 1, whole=True)
        check_number(self, "std", "from 0", lambda s: 0 <= s < math.inf)
        check_number(self, "dropout", "from 0 and below 1", lambda p: 0 <= p < 1)
        check_layers(self)
        check_flag(self, "keep_mlp")
        check_choice(self, "compatibility", ("minipeft", "peft"))
        if self.reparameterize is not None:
            check_choice(self, "reparameterize", ("embedding", "mlp"))
        if self.compatibility == "peft" and self.layers is not None:
            raise ValueError('compatibility="peft" knows no layers: leave them out.')

    def prefix(self) -> Prefix:
        """The same as a prefix."""
        return Prefix(
            length=self.length,
            hidden=self.hidden if self.reparameterize == "mlp" else None,
            std=self.std,
            dropout=self.dropout,
            layers=self.layers,
            compatibility=self.compatibility,
        )

    def install(self, tuner) -> None:
        self.prefix().install(tuner)  # eq. 1: P_k, P_v (H, P, D) in every layer

    def export_state(self, tuner) -> dict[str, Tensor]:
        return prefix_options.without_reparameterization(tuner, PrefixEncoder, self.keep_mlp)

    def import_state(self, tensors: dict[str, Tensor]) -> tuple[Method, dict[str, Tensor]]:
        if self.reparameterize != "mlp" or not self.keep_mlp:
            return replace(self, reparameterize=None), tensors
        return self, prefix_options.of_the_mlp(tensors)

    def notes(self, tuner) -> list[str]:
        return prefix_options.notes(self)


PTuningV2.default_rate = Prefix.flat_rate
PTuningV2.rate = lambda method: method.prefix().rate()
