"""UniPELT: adapter, prefix and LoRA in one layer, each behind a gate (Mao et al. 2022).

arXiv 2110.07577, in the memory door and the weights door.

Path: attach(model, UniPELT(...)) -> UniPELT.install -> tuner.add(place, GatedPatch) and
tuner.add_memory(site, GatedMemory) -> WeightDoor and MemoryDoor, which stand where a linear map (a
`place`) and an attention layer (a `site`) stood and call the patches in every pass. GatedPatch and
GatedMemory (parts/gates.py) call Gate.forward(x) and multiply by it what their submodule adds:

    LoRA     GatedPatch(x, y) = y + gate(x) * B A x
    adapter  GatedPatch(x, h) = h + gate(x of `up`) * (W_up phi(W_down h + b_down) + b_up)
    prefix   GatedMemory(x) = g P_k, g P_v, for softmax(Q [g P_k ; K]^T / sqrt D) [g P_v ; V]

h is what the map `down` of the feed-forward layer gives, before the residual sum. Its gate reads
what goes into `up`; a tap (parts/input_tap.py) keeps that until `down` is called. Before a pass
`before_pass` takes the last mask from the gates, and `before_forward` gives them that of the batch.

Section 3.2. One gate per submodule and layer opens it as far as the input asks (the numbers of the
equations are ours):

    g = mean over the tokens of sigmoid(W_g x + b_g)                                    (eq. 1)

    W_g (C,), b_g (1,) trained         x (N, T, C) -> (N, T, 1) -> g (N, 1, 1)
    modes: "mean" as written; "token" without the mean, g (N, T, 1); "alone", sigmoid(b_g) (1, 1, 1)

    LoRA: A (r, in), B (out, r)   adapter: W_down (m, C), b_down (m,), W_up (C, m), b_up (C,), phi a
    GELU   prefix: P_k, P_v (H, P, D) are cut from a table R (P, 2 L H D) of all L attention layers
    (one R for each kind: encoder, decoder, cross) by PrefixPatch: rows = R[:, 2HDl : 2HD(l + 1)],
    P_k, P_v = rows.view(P, 2, H, D).permute(1, 2, 0, 3)                                all trained

    C = 64, r = 8, m = 48, P = 10, H = 4, D = 16, N rows of T tokens: LoRA x (N, T, 64) -> A x
    (N, T, 8) -> B A x (N, T, 64), adapter h (N, T, 64) -> (N, T, 48) -> (N, T, 64), each times
    g (N, 1, 1); g as (N, 1, 1, 1) times P_k (4, 10, 16) is (N, 4, 10, 16), put before the keys K
    (N, 4, T, 16): (N, 4, 10 + T, 16); P_v likewise.

| submodule | what its gate does                               | its gate reads x, the input of |
|-----------|--------------------------------------------------|--------------------------------|
| prefix    | [g P_k ; K], [g P_v ; V]                         | the layer                      |
| LoRA      | W0 x + g B A x  (query and value share the gate) | the layer                      |
| adapter   | h + g (W_up phi(W_down h + b_down) + b_up)       | the feed-forward layer         |

`gates(tuner)` of parts/gates.py gives the gates by name, each with the `value` that it said last.

Start: W_g and R are N(0, 0.02^2) and b_g 0, so every gate is about half open. LoRA adds nothing yet
(B = 0), the adapter next to nothing (its maps are N(0, 0.01^2), cut at two sigma, its biases 0);
the prefix takes its share of attention, so that the first answer is not the base's. dL/dA = 0 at
the first step, as is the gradient of LoRA's gate.

Merge: impossible. Gates depend on x, the adapter has a GELU, and a prefix is no weight.

Parameters per layer, trained and stored: the submodules' own, and C + 1 for each gate (1 without
input). Prefix 2 P H D, LoRA r (in + out) for each map, adapter 2 m C + C + m. With `hidden` k the
prefix is P C + k C + k + 2 (k + 1) L H D for all layers together.

Departures.
(1) Scale of LoRA. Paper: the gate takes the place of alpha / r. PEFT: has no UniPELT. Here: as the
    paper; `lora_gate="scale"` keeps both. Shown by test_unipelt.py::test_lora_behind_its_gate
(2) Padding. Paper: its code counts it in the mean, so that a longer batch changes the answer. PEFT:
    none. Here: the mean is over a text's own tokens; over all where the mask is not (N, T).
    Shown by test_unipelt.py::test_padding_does_not_open_a_gate
(3) Causal models. Paper: BERT only. PEFT: none. Here: a mean would tell a token its future, so
    every token has a gate of its own for LoRA and adapter, and the prefix, which all tokens share,
    a gate without input, sigmoid(b_g).
    Shown by test_unipelt.py::test_a_causal_gate_knows_its_own_token_only
(4) Prefix. Paper: out of an MLP. PEFT: none. Here: free rows unless `hidden` is given.
    Shown by test_unipelt.py::test_counts
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minipeft.methods.adapter import AdapterPatch
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.method import Method
from minipeft.methods.parts.gates import GatedMemory, GatedPatch, gates
from minipeft.methods.parts.input_tap import Taps
from minipeft.methods.parts.prefix_options import kinds_of
from minipeft.methods.parts.validation import check_choice, check_layers, check_names, check_number
from minipeft.methods.prefix import PrefixEncoder, PrefixPatch


class Gate(nn.Module):
    """How far a submodule is open, between 0 and 1.

    Args:
        width: C.
        mode: "mean" over a text's tokens (N, 1, 1), one for each "token" (N, T, 1), or "alone",
            without input (1, 1, 1).

    Attributes:
        mask: (N, T) of the batch that comes; tokens with a 0 do not count in the mean.
        value: what it said last, without gradient.
    """

    def __init__(self, width: int, mode: str) -> None:
        super().__init__()
        self.weight = None if mode == "alone" else nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(1))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)
        self.mode = mode
        self.mask: Tensor | None = None
        self.value: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            g = torch.sigmoid(self.bias).view(1, 1, 1)
        else:
            x = x.to(self.weight.dtype)
            g = torch.sigmoid(x @ self.weight + self.bias)[..., None]  # eq. 1: by token, (N, T, 1)
        if self.mode == "mean":
            counts = torch.ones_like(g)
            if self.mask is not None and self.mask.shape == x.shape[:2]:
                counts = self.mask.to(g)[..., None]  # 1 for a text's own tokens, 0 for padding
            total = counts.sum(dim=1, keepdim=True).clamp(min=1)
            g = (g * counts).sum(dim=1, keepdim=True) / total  # eq. 1: by text, (N, 1, 1)
        self.value = g.detach()
        return g


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

    default_rate = 3e-3  # 3 to 7 points above 1e-3 on banking77, WNUT-17 and E2E

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
            # one for all maps of an attention layer that read the same number of features
            gate_of_layer: dict[tuple[str, int], Gate] = {}
            for place in tuner.find(self.targets, self.layers):
                layer = (place.path.rpartition(".")[0], place.in_features)
                mode = "token" if causal(place) else "mean"
                gate = gate_of_layer.setdefault(layer, Gate(place.in_features, mode))
                alpha = self.rank if self.lora_gate == "replace" else self.alpha
                lora = LoRAPatch(place.in_features, place.out_features, self.rank, alpha)
                tuner.add(place, GatedPatch(lora, gate))
        if self.length:
            for sites in kinds_of(tuner.anatomy, self.layers).values():
                H, D, C = sites[0].heads, sites[0].head_width, sites[0].width
                encoder = PrefixEncoder(self.length, 2 * len(sites) * H * D, C, self.hidden, 0.02)
                for i, site in enumerate(sites):
                    prefix = PrefixPatch(encoder, i, (H, D))
                    gate = Gate(C, "alone" if causal(site) else "mean")
                    tuner.add_memory(site, GatedMemory(prefix, gate))
        if self.bottleneck:
            taps = Taps(tuner, self.layers)
            for place in tuner.find(("down",), self.layers):
                C = place.out_features
                adapter = AdapterPatch(C, self.bottleneck, skip=False)
                gate = Gate(C, "token" if causal(place) else "mean")
                tuner.add(place, GatedPatch(adapter, gate, taps.of(place)))

    def before_pass(self, tuner) -> None:
        for gate in gates(tuner).values():
            gate.mask = None

    def before_forward(self, tuner, batch: dict) -> None:
        """Tell the gates which tokens are padding."""
        mask = batch.get("attention_mask")  # (B, T)
        rows = tuner.model.minipeft.routing
        if mask is not None and rows is not None:
            each = max(1, len(mask) // len(rows))  # rows of the batch for one name: choices
            named = [tuner.name in names for names in rows for _ in range(each)]
            mask = mask[[row for row, acts in enumerate(named) if acts]]
        for gate in gates(tuner).values():
            gate.mask = mask
