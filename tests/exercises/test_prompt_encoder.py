"""The exercises on P-tuning: the prompt encoder's forward, its parameters, a diagnosis."""

import pytest
import torch
from torch import nn

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks, tasks
from minipeft.checks.exercises.p_tuning_diagnosis import CAUSES, RIGHT
from minipeft.course import p_tuning
from minipeft.methods.p_tuning import PromptEncoder


class WithABatch(PromptEncoder):
    """A batch of one sequence in the middle, as torch's documentation shows it."""

    def forward(self):
        y = self.vectors
        if self.lstm is not None:
            y, _ = self.lstm(y.unsqueeze(1))  # (n, 1, 2 S)
            y = y.squeeze(1)
        return self.mlp(y)


class ByMaps(PromptEncoder):
    def forward(self):
        first, phi, second = self.mlp
        y = self.vectors if not self.lstm else self.lstm.forward(self.vectors, None)[0]
        return second(torch.clamp(first(y), min=0)) if phi is not None else None


class ByWeights(PromptEncoder):
    def forward(self):
        y = self.vectors
        if isinstance(self.lstm, nn.LSTM):
            y = self.lstm(y.clone())[0]
        low = torch.einsum("ni,oi->no", y, self.mlp[0].weight) + self.mlp[0].bias
        return torch.stack([self.mlp[2](row) for row in low.relu()])


class ByDirections(PromptEncoder):
    """Each token's output through the MLP by itself."""

    def forward(self):
        if self.lstm is None:
            return torch.cat([self.mlp(e[None]) for e in self.vectors])
        y, (states, cells) = self.lstm(self.vectors)
        return torch.cat([self.mlp(row)[None] for row in y.unbind(0)])


class Packed(PromptEncoder):
    """One sequence, packed as for a batch of unequal lengths."""

    def forward(self):
        y = self.vectors
        if self.lstm is not None:
            packed = self.lstm(nn.utils.rnn.pack_sequence([y]))[0]
            y = nn.utils.rnn.pad_packed_sequence(packed)[0][:, 0]  # (n, 1, 2 S) -> (n, 2 S)
        return self.mlp(y)


class FromZeros(PromptEncoder):
    """The first states are written out, and the MLP is gone through by its parts."""

    def forward(self):
        y = self.vectors
        if self.lstm is not None:
            zeros = y.new_zeros(4, self.lstm.hidden_size)  # 2 layers, 2 directions
            y = self.lstm(y, (zeros, zeros))[0]
        for part in self.mlp:
            y = part(y)
        return y


class Twins(PromptEncoder):
    """The same sequence twice as a batch, the first of the two answers."""

    def forward(self):
        y = torch.stack([self.vectors, self.vectors], 1)  # (n, 2, C)
        return self.mlp(y if self.lstm is None else self.lstm(y)[0])[:, 0]


class ByCells(PromptEncoder):
    """Both layers and both directions by their equations."""

    def forward(self):
        y = self.vectors
        for layer in range(2 if self.lstm is not None else 0):
            y = torch.cat([self.read(y, f"l{layer}"), self.read(y, f"l{layer}_reverse")], dim=1)
        return self.mlp(y)

    def read(self, y, name):
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        W, U, b, c = (getattr(self.lstm, f"{kind}_{name}") for kind in kinds)
        state = cell = y.new_zeros(U.shape[1])
        outputs = [state] * len(y)
        places = range(len(y))
        for t in reversed(places) if name.endswith("reverse") else places:
            i, f, g, o = (W @ y[t] + b + U @ state + c).chunk(4)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            state = outputs[t] = o.sigmoid() * cell.tanh()
        return torch.stack(outputs)


RIGHT_ENCODERS = [
    *(PromptEncoder, WithABatch, ByMaps, ByWeights, ByDirections, Packed, FromZeros, Twins, ByCells)
]


@pytest.mark.parametrize("candidate", RIGHT_ENCODERS)
def test_right_solutions_pass(candidate):
    checks.prompt_encoder(candidate)


def wrong(forward):
    """A PromptEncoder with this forward."""
    return type("PromptEncoder", (PromptEncoder,), {"forward": forward})


@torch.no_grad()
def without_gradients(e):
    return PromptEncoder.forward(e)


def detached(e):
    y = e.vectors.detach() if e.lstm is None else e.lstm(e.vectors.detach())[0]
    return e.mlp(y)


def seeds(e):
    torch.manual_seed(0)
    return PromptEncoder.forward(e)


def grows(e):
    with torch.no_grad():
        e.vectors += 0.1
    return PromptEncoder.forward(e)


def keeps(e):
    if not hasattr(e, "kept"):
        e.kept = PromptEncoder.forward(e).detach()
    return e.kept


def no_return(e):
    PromptEncoder.forward(e)


def of_one_row(e):
    """The n tokens as a batch of sequences of one token."""
    return e.mlp(e.vectors if e.lstm is None else e.lstm(e.vectors[None])[0][0])


def always_lstm(e):
    return e.mlp(e.lstm(e.vectors)[0])


def tuple_given(e):
    return e.mlp(e.vectors if e.lstm is None else e.lstm(e.vectors))


def last_states(e):
    if e.lstm is None:
        return e.mlp(e.vectors)
    last = e.lstm(e.vectors)[1][0][-2:].reshape(1, -1)  # (1, 2 S)
    return e.mlp(last.expand(len(e.vectors), -1))


def read(e):
    return e.vectors if e.lstm is None else e.lstm(e.vectors)[0]


def mixed_directions(e):
    y = read(e)
    if e.lstm is not None:
        y = y.view(len(y), 2, -1).transpose(1, 2).reshape(len(y), -1)
    return e.mlp(y)


def other_lstm(e):
    """A BiLSTM made at every call, which is never trained."""
    if e.lstm is None:
        return e.mlp(e.vectors)
    new = nn.LSTM(e.lstm.input_size, e.lstm.hidden_size, num_layers=2, bidirectional=True)
    return e.mlp(new(e.vectors)[0])


def carries_states(e):
    if e.lstm is None:
        return e.mlp(e.vectors)
    y, states = e.lstm(e.vectors, getattr(e, "states", None))
    e.states = tuple(state.detach() for state in states)
    return e.mlp(y)


def first_detached(e):
    answer = PromptEncoder.forward(e)
    return torch.cat([answer[:1].detach(), answer[1:]])


def one_at_a_time(e):
    """The tokens one after the other, the states carried along."""
    y, states = e.vectors, None
    if e.lstm is not None:
        outputs = []
        for vector in e.vectors:
            output, states = e.lstm(vector[None], states)
            outputs.append(output)
        y = torch.cat(outputs)
    return e.mlp(y)


def directions_added(e):
    y = read(e)
    if e.lstm is not None:
        forth, back = y.chunk(2, dim=1)
        y = torch.cat([forth + back, forth + back], dim=1)
    return e.mlp(y)


def only_back(e):
    y = read(e)
    return e.mlp(y if e.lstm is None else torch.cat([y.chunk(2, dim=1)[1]] * 2, dim=1))


WRONG = [
    (one_at_a_time, "read one at a time"),
    (directions_added, "the two directions are added"),
    (only_back, "from left to right is missing"),
    (lambda e: e.mlp[2](e.mlp[0](read(e)).sigmoid()), "has a sigmoid between"),
    (lambda e: PromptEncoder.forward(e)[:6], "shape"),  # the lesson's n
    (mixed_directions, "directions are mixed"),
    (other_lstm, "random numbers"),
    (carries_states, "kept between calls"),
    (first_detached, "gradient of vectors"),
    (lambda e: e.mlp(read(e).detach()), "e gets no gradient"),
    (lambda e: e.mlp(read(e).relu()), "relu before the MLP"),
    (lambda e: e.mlp[2](e.mlp[0](read(e)).tanh()), "has a tanh between"),
    (lambda e: e.mlp[2](nn.functional.gelu(e.mlp[0](read(e)))), "has a gelu between"),
    (lambda e: e.mlp[:2](read(e)) @ e.mlp[2].weight.T, "b_2"),
    (lambda e: e.mlp[2]((read(e) @ e.mlp[0].weight.T).relu()), "b_1"),
    (lambda e: PromptEncoder.forward(e).roll(1, 0), "off by one"),
    (lambda e: PromptEncoder.forward(e).T.reshape(len(e.vectors), -1), "transpose the axes"),
    (lambda e: PromptEncoder.forward(e.eval()), "changes the layer"),
    (lambda e: torch.tensor(PromptEncoder.forward(e).tolist()), "require grad"),
    (of_one_row, "do not see one another"),
    (last_states, "last states of the LSTM"),
    (lambda e: e.mlp(e.vectors if e.lstm is None else e.lstm(e.vectors.flip(0))[0].flip(0)),
     "backwards"),
    (lambda e: e.mlp(e.vectors if e.lstm is None else e.lstm(e.vectors.flip(0))[0]),
     "from the last to the first"),
    (lambda e: e.mlp[2](e.mlp[0](e.vectors if e.lstm is None else e.lstm(e.vectors)[0])),
     "relu between the two maps"),
    (lambda e: PromptEncoder.forward(e).relu(), "relu after the MLP"),
    (lambda e: PromptEncoder.forward(e).tanh(), "tanh after the MLP"),
    (lambda e: PromptEncoder.forward(e) + e.vectors, "e is added"),
    (lambda e: PromptEncoder.forward(e)[None], "shape"),
    (lambda e: PromptEncoder.forward(e).T, "interchanged"),
    (lambda e: PromptEncoder.forward(e)[0], "shape"),
    (always_lstm, "there is no BiLSTM"),
    (tuple_given, "gives two things"),
    (detached, "e gets no gradient"),
    (without_gradients, "no_grad"),
    (keeps, "require grad"),
    (seeds, "generator"),
    (grows, "changes the layer"),
    (no_return, "return missing"),
    (lambda e: 0.5 * PromptEncoder.forward(e), "a factor"),
    (lambda e: PromptEncoder.forward(e).double(), "float64"),
]  # fmt: skip


@pytest.mark.parametrize(("forward", "words"), WRONG)
def test_a_wrong_solution_is_told_its_mistake(forward, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.prompt_encoder(wrong(forward))
    print(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unwritten_solution_is_unfinished_not_wrong():
    def forward(e):
        raise NotImplementedError("PromptEncoder.forward is yours to write")

    with pytest.raises(checks.NotFinished, match="forward is yours to write"):
        checks.prompt_encoder(wrong(forward))


# ---- the numbers


def test_the_numbers_are_what_the_package_counts():
    base, tokenizer = tt.load("tiny-decoder-0.4m")
    tuner = mp.attach(base, mp.PTuning.from_template(p_tuning.AROUND, tokenizer), seed=0)
    report = tuner.report()
    right = checks.encoder_parameters.right
    assert right == {"trained": report.trainable, "stored": report.stored}
    checks.encoder_parameters(right)
    checks.encoder_parameters({"stored": 480.0, "trained": torch.tensor(91520), "more": 1})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"trained": 480, "stored": 480}, "in training there is an encoder"),
        ({"trained": 91_040, "stored": 480}, "e is missing"),
        ({"trained": 78_560, "stored": 480}, "the MLP is missing"),
        ({"trained": 13_440, "stored": 480}, "the BiLSTM is missing"),
        ({"trained": 52_480, "stored": 480}, "half of it"),
        ({"trained": 90_880, "stored": 480}, "two biases"),
        ({"trained": 91_520, "stored": 91_520}, "only what it gives is kept"),
        ({"trained": 91_520, "stored": 960}, "only h is kept"),
        ({"trained": 91_520, "stored": 1920}, "not bytes"),
        ({"trained": 91_521, "stored": 480}, "off by one"),
        ({"trained": 72_000, "stored": 480}, "those of a GRU"),
        ({"trained": 92_000, "stored": 480}, "only e is a parameter"),
        ({"trained": 91_520, "stored": 91_040}, "h is what is kept"),
        ({"trained": 91_520}, "has no stored"),
        (91_520, "should be a dict"),
        (None, "is a return missing"),
    ],
)
def test_a_wrong_number_is_told_where_it_comes_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.encoder_parameters(answer)


# ---- the diagnosis


def test_the_charts_are_those_of_the_mistakes():
    """What each patient's chart shows follows from its mistake, and the base is left as it was."""
    base, tokenizer = tt.load("tiny-decoder-0.4m")
    before = mp.fingerprint(base)
    table = p_tuning.charts(base, tokenizer, tasks.load("capital"), steps=2)
    rows = {row[0]: row for row in table.rows}
    assert mp.fingerprint(base) == before
    assert list(rows) == ["healthy", *RIGHT]
    moved = {name: row[4] for name, row in rows.items()}
    assert moved == {
        **{"healthy": "nothing", "A": "embedding", "B": "nothing"},
        **{"C": "nothing", "D": "all of it"},
    }
    assert [name for name, row in rows.items() if float(row[2]) == 0] == ["C"]
    assert rows["C"][1].endswith(") [P] [P] [P] [P] [P] [P]")
    assert rows["healthy"][1].count("(") == 1 and rows["healthy"][1].endswith(")")


@pytest.mark.parametrize("form", [str, str.upper, lambda c: f"({c})", lambda c: f" {c}. "])
def test_the_right_diagnosis_in_any_form(form):
    checks.p_tuning_diagnosis({patient: form(cause) for patient, cause in RIGHT.items()})


@pytest.mark.parametrize("patient", RIGHT)
def test_every_wrong_cause_is_explained(patient):
    for cause in set(CAUSES) - {RIGHT[patient]}:
        with pytest.raises(checks.CheckFailed, match=f"^{patient}: ") as caught:
            checks.p_tuning_diagnosis(RIGHT | {patient: cause})
        assert CAUSES[RIGHT[patient]] not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("c", "should be a dict"),
        ({"A": "c", "B": "a", "C": "b"}, "has no D"),
        (RIGHT | {"A": "z"}, "should be one of"),
        (RIGHT | {"A": 3}, "A should be one of"),
        (None, "is a return missing"),
    ],
)
def test_other_answers_are_refused_in_words(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.p_tuning_diagnosis(answer)
