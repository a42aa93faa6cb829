"""The prompt encoder of P-tuning: Liu et al. 2021, a BiLSTM and an MLP, or the MLP alone."""

from __future__ import annotations

from torch import nn

from minipeft.checks.framework import OMIT, Case, Check, Trial, call, mistake

EQ_1 = "y = self.vectors if self.lstm is None else self.lstm(self.vectors)[0]"
EQ_2 = "return self.mlp(y)"
LSTM_ONLY = "else self.lstm(self.vectors)[0]"


ONE_AT_A_TIME = """y, states = self.vectors, None
        if self.lstm is not None:
            outputs = []
            for vector in self.vectors:
                output, states = self.lstm(vector[None], states)
                outputs.append(output)
            y = torch.cat(outputs)"""


def build(PromptEncoder: type, case: Case) -> nn.Module:
    """PromptEncoder(n, width, kind, hidden), without a BiLSTM for kind "mlp"."""
    return call(PromptEncoder, case.n, case.width, kind=case.kind, hidden=case.hidden)


def reading(sentence: str, wrong: str):
    """A mistake in the first line, which reads y from the BiLSTM."""
    return mistake(sentence, (LSTM_ONLY, f"else {wrong}"))


def mapping(sentence: str, wrong: str):
    """A mistake in the second line, which makes h of y."""
    return mistake(sentence, (EQ_2, f"return {wrong}"))


MISTAKES = [
    mistake(
        'of kind "mlp" there is no BiLSTM: self.lstm is None, and y is e',
        (EQ_1, "y = self.lstm(self.vectors)[0]"),
    ),
    reading(
        "the LSTM gives two things, its output at every place and its last states: take the first",
        "self.lstm(self.vectors)",
    ),
    reading(
        "the pseudo tokens do not see one another: the n vectors are one sequence, not n sequences "
        "of one token",
        "self.lstm(self.vectors[None])[0][0]",
    ),
    reading(
        "y is the last states of the LSTM, it should be its output at every pseudo token, the "
        "first of the two things that it gives",
        "self.lstm(self.vectors)[1][0].reshape(1, -1)[:, -2 * self.lstm.hidden_size :]"
        ".expand(len(self.vectors), -1)",
    ),
    reading(
        "every pseudo token gets the output of the last one: keep the output at every place",
        "self.lstm(self.vectors)[0][-1:].expand(len(self.vectors), -1)",
    ),
    reading(
        "every pseudo token gets the mean of all: keep the output at every place",
        "self.lstm(self.vectors)[0].mean(0, keepdim=True).expand(len(self.vectors), -1)",
    ),
    reading(
        "the LSTM reads the pseudo tokens from the last to the first: feed them in their order",
        "self.lstm(self.vectors.flip(0))[0]",
    ),
    reading(
        "the LSTM reads the pseudo tokens backwards: feed them in their order",
        "self.lstm(self.vectors.flip(0))[0].flip(0)",
    ),
    reading(
        "the two directions have changed places in y: take the LSTM's output as it is",
        "self.lstm(self.vectors)[0].roll(self.lstm.hidden_size, -1)",
    ),
    reading(
        "the direction from right to left is missing from y: it has 2 S numbers per pseudo token",
        "self.lstm(self.vectors)[0][:, : self.lstm.hidden_size].repeat(1, 2)",
    ),
    reading(
        "the direction from left to right is missing from y: it has 2 S numbers per pseudo token",
        "self.lstm(self.vectors)[0][:, self.lstm.hidden_size :].repeat(1, 2)",
    ),
    reading(
        "the two directions are added in y: they stand side by side, 2 S numbers per pseudo token",
        "self.lstm(self.vectors)[0].view(len(self.vectors), 2, -1).sum(1).repeat(1, 2)",
    ),
    mistake(
        "the pseudo tokens are read one at a time: from right to left the BiLSTM begins at the "
        "last one, so give it all n at once",
        (EQ_1, ONE_AT_A_TIME),
    ),
    mistake(
        "the BiLSTM is left out: y is its output, where there is one",
        (EQ_1, "y = self.vectors[:, : self.mlp[0].in_features]"),
    ),
    reading(
        "e is added to the LSTM's output: y is that output alone",
        "self.lstm(self.vectors)[0] + self.vectors[:, :1]",
    ),
    reading(
        "the two directions are mixed in y: a view cuts its numbers anew; take the LSTM's output "
        "as it is",
        "self.lstm(self.vectors)[0].view(len(self.vectors), 2, -1).mT.flatten(1)",
    ),
    reading(
        "the LSTM is applied twice",
        "self.lstm(self.lstm(self.vectors)[0].repeat(1, len(self.vectors[0]))"
        "[:, : len(self.vectors[0])])[0]",
    ),
    mapping(
        "the relu between the two maps of the MLP is missing: call self.mlp, which has it",
        "self.mlp[2](self.mlp[0](y))",
    ),
    mapping(
        "the MLP has a tanh between its two maps, it should be a relu: call self.mlp",
        "self.mlp[2](self.mlp[0](y).tanh())",
    ),
    mapping(
        "the MLP has a gelu between its two maps, it should be a relu: call self.mlp",
        "self.mlp[2](nn.functional.gelu(self.mlp[0](y)))",
    ),
    mapping(
        "the MLP has a sigmoid between its two maps, it should be a relu: call self.mlp",
        "self.mlp[2](self.mlp[0](y).sigmoid())",
    ),
    *(
        mapping(
            f"the MLP has {name} between its two maps, it should be a relu: call self.mlp",
            f"self.mlp[2](nn.functional.{name}(self.mlp[0](y)))",
        )
        for name in ("leaky_relu", "elu", "silu")
    ),
    mistake(
        "e is added to y: the MLP reads the LSTM's output alone",
        (EQ_2, "return self.mlp(y + self.vectors if y.shape == self.vectors.shape else y)"),
    ),
    reading(
        "the states of the LSTM begin at 1: give it none, then they begin at 0",
        "self.lstm(self.vectors, (torch.ones(4, self.lstm.hidden_size, dtype=self.vectors.dtype),)"
        " * 2)[0]",
    ),
    mapping(
        "there is a relu before the MLP too: W_1 reads y as it is",
        "self.mlp(y.relu())",
    ),
    mapping(
        "there is a relu after the MLP too: h may be negative",
        "self.mlp(y).relu()",
    ),
    mapping(
        "there is a tanh after the MLP, which is prefix-tuning's: h is what W_2 gives",
        "self.mlp(y).tanh()",
    ),
    mapping("e is added to the answer: h is what the MLP gives", "self.mlp(y) + self.vectors"),
    mapping(
        "the order of the pseudo tokens is turned round: h_1 belongs to e_1", "self.mlp(y).flip(0)"
    ),
    mistake(
        "the biases of the MLP are missing: call self.mlp",
        (EQ_2, "return (y @ self.mlp[0].weight.T).relu() @ self.mlp[2].weight.T"),
    ),
    mapping(
        "the bias b_2 of the MLP is missing: call self.mlp",
        "self.mlp[:2](y) @ self.mlp[2].weight.T",
    ),
    mapping(
        "the bias b_1 of the MLP is missing: call self.mlp",
        "self.mlp[2]((y @ self.mlp[0].weight.T).relu())",
    ),
    mistake(
        "e gets no gradient: is it detached, or copied with .data?",
        when=lambda view: (
            view.difference.kind == "gradient missing" and view.difference.where == "vectors"
        ),
    ),
]

prompt_encoder = Check(
    "prompt_encoder",
    "minipeft.methods.p_tuning:PromptEncoder",
    "h = MLP(BiLSTM(e)), and MLP(e) where there is no BiLSTM",
    [
        Trial(
            "h, the output of forward",
            lambda case, draw: {},
            lambda encoder, case, given: encoder(),
            build=build,
            axes={
                "n": (5, 1, 7),
                "width": (4, 6, 1),
                "kind": ("lstm", "mlp", OMIT),
                "hidden": (OMIT, 3, 1, None),
            },
            layouts=("plain",),
            gradients=("on", "off"),
        )
    ],
    MISTAKES,
    blank=("forward",),
)
