"""UniPELT: adapter, prefix and LoRA in one layer, each behind a gate (Mao et al. 2022).

arXiv 2110.07577, section 3.2. One gate per submodule and layer opens it as far as the input asks,

    g = mean over the tokens of sigmoid(W_g x + b_g)         W_g (1, C)   x (B, T, C)   g (B, 1)

| submodule | what its gate does                               | its gate reads x, the input of |
|-----------|--------------------------------------------------|--------------------------------|
| prefix    | [g P_k ; K], [g P_v ; V]                         | the layer                      |
| LoRA      | W0 x + g B A x  (query and value share the gate) | the layer                      |
| adapter   | h + g (W_up phi(W_down h + b_down) + b_up)       | the feed-forward layer         |

Parameters per layer: the submodules' own, and C + 1 for each gate (1 without input).
    prefix 2 P H D   LoRA r (in + out) for each map   adapter 2 m C + C + m
`gates(tuner)` of parts/gates.py gives the gates by name, each with the `value` that it said last.

Departures.
(1) "We replace the constant s = alpha / r with the gate": so it is done, `lora_gate="replace"`.
    "scale" reads it as g alpha / r, a gate beside the constant.
(2) The mean is taken over a text's own tokens; the authors' code counts padding as well, so that
    a longer batch changes the answer.
(3) In a causal model the mean would tell a token its future, and change while one writes. There
    every token has its own gate for LoRA and adapter. The prefix, which all tokens share, has a
    gate without input, sigmoid(b_g).
(4) The authors' prefix comes out of an MLP; here it is free unless `hidden` is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipeft.methods.adapter import AdapterPatch
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.method import Method
from minipeft.methods.parts.gates import Gate, GatedMemory, GatedPatch, gates
from minipeft.methods.parts.input_tap import Listener, Note
from minipeft.methods.parts.prefix_options import kinds_of
from minipeft.methods.parts.validation import check_choice, check_layers, check_names, check_number
from minipeft.methods.prefix import PrefixEncoder, PrefixPatch


@dataclass(frozen=True)
class UniPELT(Method):
    """Any of adapter, prefix and LoRA, gated.

    Args:
        bottleneck: m of the adapter behind the feed-forward layer; 0 for no adapter.
        length: P of the prefix; 0 for none.  hidden: of its MLP, None for none.
        rank: r of LoRA; 0 for none.  alpha: for `lora_gate="scale"` only.
        targets: what LoRA adapts.
        lora_gate: "replace" puts the gate in the place of alpha / r, "scale" beside it.
        layers: numbers of the layers, None for all.

    Raises:
        ValueError: when a value is impossible, or nothing is left.
    """

    bottleneck: int = 48
    length: int = 10
    rank: int = 8
    alpha: float = 16
    hidden: int | None = None
    targets: tuple[str, ...] = ("query", "value")
    lora_gate: str = "replace"
    layers: tuple[int, ...] | None = None

    identity_at_start = False

    def __post_init__(self) -> None:
        for name in ("bottleneck", "length", "rank"):
            check_number(self, name, "from 0", lambda n: n >= 0, whole=True)
        check_number(self, "alpha", "above 0", lambda a: 0 < a < float("inf"))
        if self.hidden is not None:
            check_number(self, "hidden", "from 1, or None", lambda k: k >= 1, whole=True)
        check_names(self, "targets")
        check_choice(self, "lora_gate", ("replace", "scale"))
        check_layers(self)
        if not (self.bottleneck or self.length or self.rank):
            raise ValueError("UniPELT needs an adapter, a prefix or a LoRA: all three are 0.")

    def install(self, tuner) -> None:
        causal = tuner.anatomy.is_causal
        if self.rank:
            own: dict[str, Gate] = {}  # one for all maps of one attention layer
            for place in tuner.find(self.targets, self.layers):
                layer = place.path.rpartition(".")[0]
                mode = "token" if causal(place) else "mean"
                gate = own.setdefault(layer, Gate(place.in_features, mode))
                alpha = self.rank if self.lora_gate == "replace" else self.alpha
                lora = LoRAPatch(place.in_features, place.out_features, self.rank, alpha)
                tuner.add(place, GatedPatch(lora, gate))
        if self.length:
            for seats in kinds_of(tuner.anatomy, self.layers).values():
                H, D, C = seats[0].heads, seats[0].head_width, seats[0].width
                encoder = PrefixEncoder(self.length, 2 * len(seats) * H * D, C, self.hidden, 0.02)
                for i, seat in enumerate(seats):
                    prefix = PrefixPatch(encoder, i, (H, D))
                    gate = Gate(C, "alone" if causal(seat) else "mean")
                    tuner.remember(seat, GatedMemory(prefix, gate))
        if self.bottleneck:
            notes: dict[tuple, Note] = {}
            for place in tuner.find(("up",), self.layers):
                notes[place.stack, place.layer] = Note()
                tuner.add(place, Listener(notes[place.stack, place.layer]))
            for place in tuner.find(("down",), self.layers):
                C = place.out_features
                adapter = AdapterPatch(C, self.bottleneck, skip=False)
                gate = Gate(C, "token" if causal(place) else "mean")
                note = notes[place.stack, place.layer]
                tuner.add(place, GatedPatch(adapter, gate, note))

    def look(self, tuner, batch: dict) -> None:
        """Tell the gates which tokens are padding."""
        mask = batch.get("attention_mask")  # (B, T)
        rows = tuner.model.minipeft.rows
        if mask is not None and rows is not None:
            mask = mask[[i for i, names in enumerate(rows) if tuner.name in names]]
        for gate in gates(tuner).values():
            gate.mask = mask
