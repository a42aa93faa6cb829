"""The usual mistakes of `AdapterPatch`."""

from __future__ import annotations

from minipeft.checks.framework import OMIT, mistake

SUM = "y + change if self.skip else change"
LOW = "self.phi(self.down(h.to(self.down.weight.dtype)))"
LINEAR = "self.down(h.to(self.down.weight.dtype))"
UP = "self.scale * self.up(self.dropout(low))"
DRY = "self.scale * self.up(low)"
CAST = "h.to(self.down.weight.dtype)"


def gradient_of(name: str):
    return lambda view: view.difference.kind == "gradient missing" and view.difference.where == name


MISTAKES = [
    mistake(
        "the activation is always GELU: use self.phi, which the settings choose",
        (LOW, f"F.gelu({LINEAR})"),
    ),
    mistake(
        "the activation is always ReLU: use self.phi, which the settings choose",
        (LOW, f"F.relu({LINEAR})"),
    ),
    mistake("phi is missing: without it two maps are one, and could be merged", (LOW, LINEAR)),
    mistake(
        "phi comes too early: W_down h first, then phi",
        (LOW, "self.down(self.phi(h.to(self.down.weight.dtype)))"),
    ),
    mistake(
        "phi comes after W_up: it belongs between the two maps",
        (LOW, LINEAR),
        (UP, "self.scale * self.phi(self.up(self.dropout(low)))"),
    ),
    mistake(
        "phi comes a second time, after W_up: it belongs between the two maps only",
        (UP, "self.scale * self.phi(self.up(self.dropout(low)))"),
    ),
    mistake(
        "phi is added to W_down h: it takes its place",
        (LOW, f"{LINEAR} + self.phi({LINEAR})"),
    ),
    mistake(
        "phi gates W_down h: it takes its place, nothing is multiplied with it",
        (LOW, f"{LINEAR} * self.phi({LINEAR})"),
    ),
    mistake(
        "W_down is reshaped where it should be transposed: self.down(h) does it",
        (LINEAR, f"{CAST} @ self.down.weight.reshape(h.shape[-1], -1) + self.down.bias"),
    ),
    mistake(
        "W_down and W_up have changed places: self.down comes first",
        (LINEAR, f"{CAST} @ self.up.weight + self.down.bias"),
        (UP, "self.scale * (self.dropout(low) @ self.down.weight + self.up.bias)"),
    ),
    mistake(
        "a layer norm stands before W_down: the equation has none",
        (LINEAR, f"self.down(F.layer_norm({CAST}, h.shape[-1:]))"),
    ),
    mistake("b_down is missing", (LINEAR, "h.to(self.down.weight.dtype) @ self.down.weight.T")),
    mistake("b_up is missing", (UP, "self.scale * (self.dropout(low) @ self.up.weight.T)")),
    mistake(
        "b_up is not scaled: s multiplies all that is added",
        (UP, "self.scale * (self.dropout(low) @ self.up.weight.T) + self.up.bias"),
    ),
    mistake(
        "s is missing: multiply what is added by self.scale", (UP, "self.up(self.dropout(low))")
    ),
    mistake(
        "s is applied twice: once is enough",
        (SUM, "y + self.scale * change if self.skip else self.scale * change"),
    ),
    mistake(
        "h is scaled as well: s multiplies only what is added",
        (SUM, "self.scale * y + change if self.skip else change"),
    ),
    mistake(
        "s stands before phi: it multiplies what comes out of W_up",
        (LOW, "self.phi(self.scale * self.down(h.to(self.down.weight.dtype)))"),
        (UP, "self.up(self.dropout(low))"),
    ),
    mistake(
        "the skip is missing where skip is True: h is lost, only the change is given back",
        (SUM, "change"),
    ),
    mistake("skip=False is ignored: without the skip only the change is left", (SUM, "y + change")),
    mistake(
        "the change is subtracted: it is added to h", (SUM, "y - change if self.skip else change")
    ),
    mistake("nothing is added: forward gives y back as it came", (SUM, "y")),
    mistake(
        "without the skip y is given back as it came: then the change alone is left",
        (SUM, "y + change if self.skip else y"),
    ),
    mistake(
        "change adds h: that is the skip, which is the work of forward",
        (UP, f"h + {UP}"),
        (SUM, "change"),
    ),
    mistake(
        "the adapter reads x, what the frozen map has read: it reads y, what that gives back",
        (
            "self.change(y)",
            "self.change(x if x.shape[-1] == y.shape[-1] else y)",
        ),
    ),
    mistake(
        "x is the skip: it is y that is added to the change",
        (SUM, "(x if x.shape == y.shape else y) + change if self.skip else change"),
    ),
    mistake(
        "x is added beside y: the frozen map has read it, and it is not needed",
        (SUM, "(x + y if x.shape == y.shape else y) + change if self.skip else change"),
    ),
    mistake(
        "forward turns y into another dtype: give the sum back in y's dtype",
        when=lambda view: (
            view.difference.kind == "dtype"
            and "y" in view.inputs
            and view.case.get("y_dtype", "same") != "same"
        ),
    ),
    mistake(
        "change gives the dtype of the adapter's weights back, whatever h has",
        when=lambda view: view.difference.kind == "dtype" and "h" in view.inputs,
    ),
    mistake(
        "h has another dtype than the adapter's weights: turn it into theirs before W_down",
        when=lambda view: view.error is not None and "same dtype" in str(view.error),
    ),
    mistake("W_down gets no gradient: is something detached?", when=gradient_of("down.weight")),
    mistake("W_up gets no gradient: is something detached?", when=gradient_of("up.weight")),
    mistake(
        "y gets no gradient, so the layers below would not learn: do not detach",
        when=gradient_of("y"),
    ),
    mistake(
        "h gets no gradient, so the layers below would not learn: do not detach",
        when=gradient_of("h"),
    ),
    mistake("dropout is never applied in training", (UP, DRY)),
    mistake(
        "features are dropped in training with a dropout of 0: use self.dropout, it has the share",
        when=lambda view: (
            view.case.training
            and view.case.dropout in (OMIT, 0.0)
            and view.difference.kind == "value"
        ),
    ),
    mistake(
        "dropout falls before phi: drop hidden features, after phi",
        (LOW, f"self.phi(self.dropout({LINEAR}))"),
        (UP, DRY),
    ),
    mistake(
        "dropout drops all hidden features of a token together: give it the features themselves",
        (UP, "self.scale * self.up(low * self.dropout(torch.ones_like(low[..., :1])))"),
    ),
    mistake(
        "what is kept is not divided by 1 - p, so the mean shrinks: self.dropout does it",
        (UP, "self.scale * self.up(low * (torch.rand_like(low) >= self.dropout.p))"),
    ),
    mistake(
        "dropout falls twice, on the hidden features and on what is added: drop the first only",
        (UP, "self.dropout(self.scale * self.up(self.dropout(low)))"),
    ),
    mistake(
        "dropout falls on what is added: drop hidden features, before W_up",
        (UP, "self.dropout(self.scale * self.up(low))"),
    ),
    mistake(
        "dropout falls on h before W_down: drop hidden features, after phi",
        (LOW, "self.phi(self.down(self.dropout(h.to(self.down.weight.dtype))))"),
        (UP, DRY),
    ),
    mistake(
        "dropout falls on h + change: drop hidden features only",
        (UP, DRY),
        (SUM, "self.dropout(y + change if self.skip else change)"),
    ),
    mistake(
        "dropout falls on h + change as well: drop hidden features only",
        (SUM, "self.dropout(y + change if self.skip else change)"),
    ),
    mistake(
        "dropout stays on in eval mode: use self.dropout, which knows the mode",
        when=lambda view: (
            view.case.dropout not in (OMIT, 0.0)
            and not view.case.training
            and view.difference.kind == "value"
        ),
    ),
]
