"""The feed-forward layer: Vaswani et al. 2017, equation 2."""

from __future__ import annotations

from minipeft.checks.framework import OMIT, Check, Trial, call, mistake

RIGHT = "self.down(self.activation(self.up(x)))"


def feeding(sentence: str, wrong: str):
    return mistake(sentence, (RIGHT, wrong))


feed_forward = Check(
    "feed_forward",
    "tiny_transformer.layers:FeedForward",
    "phi(x W_up + b_up) W_down + b_down, at every token alone",
    [
        Trial(
            "the output of forward",
            lambda case, draw: {"x": draw.normal(case.B, case.T, case.width)},
            lambda layer, case, given: layer(given.x),
            build=lambda FeedForward, case: call(
                FeedForward, case.width, case.inner, activation=case.activation
            ),
            axes={
                "width": (4, 3, 1),
                "inner": (4, 6, 1),
                "activation": (OMIT, "gelu_tanh", "relu", "gelu"),
                "B": (2, 1, 3),
                "T": (5, 1, 2),
            },
        )
    ],
    [
        feeding("the activation is missing between up and down", "self.down(self.up(x))"),
        feeding(
            "the activation comes after down: it stands between the two maps",
            "self.activation(self.down(self.up(x)))",
        ),
        feeding(
            "there is an activation after down too",
            "self.activation(self.down(self.activation(self.up(x))))",
        ),
        feeding(
            "the activation comes before up: it stands between the two maps",
            "self.down(self.up(self.activation(x)))",
        ),
        feeding("x is added here: the block adds it, not the layer", f"x + {RIGHT}"),
        feeding("up and down have changed places", "self.up(self.activation(self.down(x)))"),
        feeding("down is missing", "self.activation(self.up(x))"),
        feeding(
            "the activation is always relu: use self.activation", "self.down(F.relu(self.up(x)))"
        ),
        feeding(
            "the activation is always the exact gelu: use self.activation",
            "self.down(F.gelu(self.up(x)))",
        ),
        feeding(
            "the activation is always gelu_tanh: use self.activation",
            "self.down(F.gelu(self.up(x), approximate='tanh'))",
        ),
        feeding(
            "the activation is applied twice",
            "self.down(self.activation(self.activation(self.up(x))))",
        ),
        feeding(
            "the biases are missing: call self.up(x) and self.down(...)",
            "self.activation(x @ self.up.weight.T) @ self.down.weight.T",
        ),
        feeding(
            "the bias of down is missing: call self.down(...)",
            "self.activation(self.up(x)) @ self.down.weight.T",
        ),
        feeding(
            "the bias of up is missing: call self.up(x)",
            "self.down(self.activation(x @ self.up.weight.T))",
        ),
        feeding(
            "tokens are mixed: the layer works at every token alone",
            "self.down(self.activation(self.up(x))).mean(1, keepdim=True).expand_as(x)",
        ),
    ],
    blank=("forward",),
)
