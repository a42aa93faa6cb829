"""A head of one's own around a model: it is trained in a copy, or somebody said otherwise."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
import zoo
from closeness import close
from torch import nn
from torch.nn.utils import parametrizations, prune

import minipeft as mp

BERT = dict(vocab_size=zoo.WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
BERT |= dict(intermediate_size=32, max_position_embeddings=40)
IDS = torch.randint(3, zoo.WORDS, (3, 7), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "labels": torch.tensor([0, 1, 0])}


def answer(logits, labels):
    loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
    return SimpleNamespace(logits=logits, loss=loss)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = hf.BertModel(hf.BertConfig(**BERT))
        self.out = nn.Linear(16, 2)

    def forward(self, input_ids, labels=None):
        return answer(self.out(self.encoder(input_ids).last_hidden_state[:, 0]), labels)


class Deep(Around):
    """The model inside stands deeper, the head has parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"model": self.encoder, "norm": nn.LayerNorm(16)})
        self.out = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
        del self.encoder

    def forward(self, input_ids, labels=None):
        states = self.body["model"](input_ids).last_hidden_state[:, 0]
        return answer(self.out(self.body["norm"](states)), labels)


class Heir(hf.BertPreTrainedModel):
    def __init__(self, config=None) -> None:
        super().__init__(config or hf.BertConfig(**BERT))
        self.bert, self.out = hf.BertModel(self.config), nn.Linear(16, 2)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        return answer(self.out(self.bert(input_ids, attention_mask)[0][:, 0]), labels)


class Tiny(Around):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = zoo.build("tiny-encoder", dtype=torch.float32)

    def forward(self, input_ids, labels=None):
        return answer(self.out(self.encoder(input_ids).states[:, 0]), labels)


class Valued(hf.GPT2LMHeadModel):
    """A model of transformers with one part more."""

    def __init__(self) -> None:
        numbers = dict(vocab_size=zoo.WORDS, n_embd=16, n_layer=2, n_head=4, n_positions=32)
        super().__init__(hf.GPT2Config(**numbers))
        self.value = nn.Linear(16, 1)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        out = super().forward(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        values = self.value(out.hidden_states[-1][:, -1])
        return answer(torch.cat([values, -values], -1), labels)


class Scored(nn.Module):
    """A part of one's own with numbers, parts and another method than forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.map = nn.Parameter(torch.ones(16)), nn.Linear(16, 2)

    def score(self, x):
        return self.map(self.scale * x)

    def forward(self, x):
        raise AssertionError("nobody calls this")


class Methods(Around):
    def __init__(self) -> None:
        super().__init__()
        self.out = Scored()

    def forward(self, input_ids, labels=None):
        return answer(self.out.score(self.encoder(input_ids).last_hidden_state[:, 0]), labels)


class Shared(Around):
    """The head is the embedding's matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, zoo.WORDS, bias=False)
        self.out.weight = self.encoder.embeddings.word_embeddings.weight


HEADS = {
    Around: {"out"},
    Deep: {"out.0", "out.2", "body.norm"},
    Heir: {"out"},
    Tiny: {"out"},
    Valued: {"value"},
    Methods: {"out"},
}
METHODS = [mp.LoRA(rank=2), mp.Prefix(length=2), mp.PromptTuning(length=3)]


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def seeded(kind, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind().eval()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_head_of_ones_own_is_trained_and_comes_off(kind, method):
    model = seeded(kind)
    with torch.no_grad():
        base = model(IDS).logits
    state = {key: value.clone() for key, value in model.state_dict().items()}
    tuner = mp.attach(model, method, seed=0)
    assert set(tuner.copies) == HEADS[kind]
    mp.train(model, [BATCH], 3, 1e-2, progress=False)
    for path, twin in tuner.copies.items():
        first = {key: state[f"{path}.{key}"] for key in twin.state_dict()}
        assert any((value != first[key]).any() for key, value in twin.state_dict().items())
    assert tuner.report().head > 0
    tuner.detach()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, base)


@pytest.mark.parametrize("kind", [Around, Deep, Heir, Methods])
def test_a_file_has_the_head_and_goes_onto_another_one(kind, tmp_path):
    model = seeded(kind)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    mp.train(model, [BATCH], 3, 1e-2, progress=False)
    tuner.save(tmp_path / "t")
    with torch.no_grad():
        expected = model.eval()(IDS).logits
    other = seeded(kind)
    for path in HEADS[kind]:  # as every start of the program draws it anew
        for parameter in other.get_submodule(path).parameters():
            nn.init.normal_(parameter)
    mp.load(other, tmp_path / "t")
    with torch.no_grad():
        torch.testing.assert_close(other(IDS).logits, expected)


def test_the_file_opens_in_peft(tmp_path):
    import peft

    class Named(Around):  # PEFT would take "out" for the end of "dropout" as well
        def __init__(self) -> None:
            super().__init__()
            self.decide = self.out
            del self.out

        def forward(self, input_ids, labels=None):
            return answer(self.decide(self.encoder(input_ids)[0][:, 0]), labels)

    model = seeded(Named)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    mp.train(model, [BATCH], 3, 1e-2, progress=False)
    tuner.save(tmp_path / "t")
    with torch.no_grad():
        expected = model.eval()(IDS).logits
    theirs = peft.PeftModel.from_pretrained(seeded(Named), tmp_path / "t").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, expected, rtol=0, atol=1e-5)


def test_what_stays_as_it_is():
    for model in (zoo.build("bert"), zoo.build("gpt2"), zoo.build("tiny-encoder"), seeded(Shared)):
        assert not mp.attach(model, mp.LoRA(rank=2)).copies
    model = seeded(Around)
    assert not mp.attach(model, mp.LoRA(rank=2), head=False).copies
    model = seeded(Around)
    model.out.requires_grad_(False)  # the head, and nothing else, is frozen on purpose
    assert not mp.attach(model, mp.LoRA(rank=2)).copies
    model = seeded(Around).requires_grad_(False)  # a habit before attach
    assert set(mp.attach(model, mp.LoRA(rank=2)).copies) == {"out"}


def test_paths_name_what_is_trained():
    model = seeded(Deep)
    tuner = mp.attach(model, mp.LoRA(rank=2), head=("out.2",))
    assert set(tuner.copies) == {"out.2"}
    tuner.detach()
    for wrong in ("out", 3, None, (), ("out", 3)):
        with pytest.raises(ValueError, match='head must be "auto", True, False or paths'):
            mp.attach(model, mp.LoRA(rank=2), head=wrong)
    with pytest.raises(ValueError, match="This model has no module 'put'"):
        mp.attach(model, mp.LoRA(rank=2), head=["put"])
    assert not mp.tuners(model)


def test_numbers_beside_the_model_are_mentioned():
    model = seeded(Around)
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.warns(UserWarning, match="'scale' of Around stays frozen"):
        mp.attach(model, mp.LoRA(rank=2))


def test_a_copy_answers_for_more_than_a_call():
    model = seeded(Around)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    zoo.shake(tuner)
    copied = tuner.copies["out"].weight
    assert model.out.weight is copied and copy.deepcopy(model).out.weight is not copied
    with tuner.disabled():
        assert model.out.weight is not copied
    with mp.route(model, [None, "default", None]):
        assert model.out.weight is not copied


class WithoutBody(nn.Module):
    """Nothing in it is of a library, so nobody knows what its last layer is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x))


def test_the_last_layer_of_a_model_of_ones_own_is_mentioned():
    model = WithoutBody()
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("first",)))
    assert 'last is frozen: attach(..., head=("last",)) trains a copy' in str(tuner.report())
    tuner.detach()
    for tuner in (
        lambda: mp.attach(model, mp.LoRA(rank=2, targets=("first",)), head=("last",)),
        lambda: mp.attach(model, mp.LoRA(rank=2, targets=("first", "last"))),
        lambda: mp.attach(zoo.build("gpt2"), mp.LoRA(rank=2)),
        lambda: mp.attach(seeded(Around), mp.LoRA(rank=2)),
    ):
        tuner = tuner()
        assert "is frozen" not in str(tuner.report())
        tuner.detach()


@pytest.mark.parametrize("name", ["roberta", "electra"])
def test_a_name_that_the_head_has_too_means_the_layers(name, tmp_path):
    """As in PEFT, which puts nothing into a head that it trains a copy of."""
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["dense"], task_type="SEQ_CLS")
    theirs = peft.get_peft_model(zoo.build(name, "classification"), settings)
    adapted = {
        path.removeprefix("base_model.model.")
        for path, module in theirs.named_modules()
        if hasattr(module, "lora_A")
    }
    model, batch = zoo.build(name, "classification"), zoo.batch(name, "classification")
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("dense",)))
    assert {place.path for place, _ in tuner.patches} == adapted
    assert set(tuner.copies) == {"classifier.dense", "classifier.out_proj"}
    zoo.shake(tuner)
    logits = zoo.logits(model, batch)
    tuner.save(tmp_path)
    again = zoo.build(name, "classification")
    assert mp.load(again, tmp_path).method == tuner.method
    assert torch.equal(zoo.logits(again, batch), logits)
    opened = peft.PeftModel.from_pretrained(zoo.build(name, "classification"), tmp_path)
    close(zoo.logits(opened.eval(), batch), logits)
    frozen = zoo.build(name, "classification")
    tuner = mp.attach(frozen, mp.LoRA(rank=2, targets=("dense",)), head=False)
    assert {place.path for place, _ in tuner.patches} == {*adapted, "classifier.dense"}
    tuner.detach()
    with pytest.raises(ValueError, match="classifier.dense cannot be copied and patched at once"):
        mp.attach(frozen, mp.LoRA(rank=2, targets=("classifier.dense",)))


@pytest.mark.parametrize("kind", ["XLNet", "Flaubert"])
def test_a_head_of_another_name_is_what_stands_beside_the_body(kind, tmp_path):
    """XLNet's logits_proj, Flaubert's sequence_summary: they begin with random numbers."""
    sizes = dict(vocab_size=48, d_model=16, n_layer=1, n_head=2, d_inner=32, num_labels=3)
    sizes |= dict(emb_dim=16, n_layers=1, n_heads=2, dropout=0.0)
    config = getattr(hf, f"{kind}Config")(**sizes)

    def model():
        torch.manual_seed(0)
        return getattr(hf, f"{kind}ForSequenceClassification")(config).eval()

    classifier, batch = model(), {"input_ids": torch.arange(3, 9)[None]}
    tuner = mp.attach(classifier, mp.LoRA(rank=2, targets="all-linear"))
    beside = {name.split(".")[0] for name in tuner.copies}
    assert beside and "transformer" not in beside
    assert all(place.path.startswith("transformer.") for place, _ in tuner.patches)
    zoo.shake(tuner)
    tuner.save(tmp_path)
    again = model()
    mp.load(again, tmp_path)
    assert torch.equal(zoo.logits(again, batch), zoo.logits(classifier, batch))
    peft = pytest.importorskip("peft")
    theirs = peft.PeftModel.from_pretrained(model(), tmp_path).eval()
    close(zoo.logits(theirs, batch), zoo.logits(classifier, batch))


# ---- heads of every kind ----


class Listed(nn.Module):
    """Numbers in a container that is never called, inside a module that is."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = nn.ModuleList([nn.ParameterList([nn.Parameter(torch.randn(16, 3))])])

    def forward(self, x):
        return x @ self.lists[0][0]


class Functional(nn.Module):
    """Its weight is read, and it is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(16, 3)

    def forward(self, x):
        return nn.functional.linear(x, self.map.weight)


class Measured(nn.Module):
    """A recurrent part in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.out = nn.LSTM(16, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.read(x)[0])


KINDS = {  # the head, and whether route() can give each row its own
    "normalized": (lambda: nn.Sequential(nn.BatchNorm1d(7), nn.Linear(16, 3)), True),
    "recurrent": (Measured, False),
    "layer": (lambda: nn.TransformerEncoderLayer(16, 2, 8, batch_first=True), False),
    "spectral": (lambda: parametrizations.spectral_norm(nn.Linear(16, 3)), True),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(16, 3)), True),
    "by a hook": (lambda: nn.utils.weight_norm(nn.Linear(16, 3)), True),
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(16, 3), "weight", 0.5), True),
    "listed": (Listed, True),
    "functional": (Functional, False),
    "scaled": (lambda: Scaled(), True),
    "convolved": (lambda: nn.Sequential(nn.Conv1d(7, 7, 3), nn.Linear(14, 3)), True),
}


class Headed(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.encoder, self.head = zoo.build("tiny-encoder"), KINDS[kind][0]().double()

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.head(self.encoder(input_ids).states))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["head", "out"])
@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_every_kind_are_trained_saved_merged_and_routed(kind, name, tmp_path):
    def build():
        model = seeded(lambda: Headed(kind))
        if name != "head":  # which is what a tiny_transformer calls its own
            setattr(model, name, model.head)
            model.forward = lambda ids: SimpleNamespace(
                logits=getattr(model, name)(model.encoder(ids).states)
            )
            del model.head
        return model

    def logits():
        with torch.no_grad():
            return model(IDS).logits

    model, before = build(), build().state_dict()
    base = logits()
    tuner = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    copied = [p for copy in tuner.copies.values() for p in copy.parameters()]
    first = [p.detach().clone() for p in copied]
    optimizer = torch.optim.SGD(tuner.parameters(), 0.1)
    for _ in range(2):
        model(IDS).logits.square().mean().backward()
        optimizer.step()
    assert any(not torch.equal(*pair) for pair in zip(copied, first, strict=True))
    trained = logits()
    tuner.save(tmp_path)
    model = build()
    tuner = mp.load(model, tmp_path, "a")
    close(logits(), trained)
    tuner.merge()
    close(logits(), trained)
    tuner.unmerge()
    close(logits(), trained)
    with mp.route(model, ["a"] * 3):
        close(logits(), trained)
    if KINDS[kind][1]:
        with mp.route(model, ["a", None, "a"]):
            routed = logits()
        close(routed[[0, 2]], trained[[0, 2]])
        close(routed[1], base[1])
    else:
        with (
            pytest.raises(ValueError, match=r"route\(\) cannot tell the rows apart"),
            mp.route(model, ["a", None, "a"]),
        ):
            logits()
    tuner.detach()
    assert torch.equal(logits(), base)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Scaled(nn.Module):
    """Numbers of its own and layers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.map = nn.Parameter(torch.ones(16)), nn.Linear(16, 3)

    def forward(self, x):
        return self.map(x * self.scale)


@pytest.mark.parametrize("head", ["auto", ("head",), ("head", "head.map"), False])
def test_a_head_that_two_ask_for_is_copied_once(head, tmp_path):
    """HeadOnly asks for it, and so does attach."""
    model = seeded(lambda: Headed("scaled"))
    tuner = mp.attach(model, mp.HeadOnly(), "a", head=head)
    assert set(tuner.copies) == {"head"}
    zoo.shake(tuner)
    trained = model(IDS).logits
    tuner.save(tmp_path)
    fresh = seeded(lambda: Headed("scaled"))
    mp.load(fresh, tmp_path)
    assert torch.equal(fresh(IDS).logits, trained)


def test_numbers_in_a_container_are_mentioned_and_stay():
    model = seeded(lambda: Headed("listed"))
    model.head = model.head.lists[0]
    model.forward = lambda ids: SimpleNamespace(logits=model.encoder(ids).states @ model.head[0])
    with pytest.warns(UserWarning, match="'head.0' of Headed stays frozen"):
        tuner = mp.attach(model, mp.LoRA(rank=2))
    model(IDS)
    tuner.detach()
    with pytest.raises(ValueError, match="head is a ParameterList, whose numbers are read without"):
        mp.attach(model, mp.LoRA(rank=2), head=("head",))
    assert mp.tuners(model) == {}


def test_another_method_of_a_head_is_not_routed():
    model = seeded(Methods)
    mp.attach(model, mp.LoRA(rank=2), "a")
    with (
        pytest.raises(ValueError, match=r"route\(\) cannot tell the rows apart at out"),
        mp.route(model, ["a", None, "a"]),
    ):
        model(IDS)


@pytest.mark.parametrize("method", [mp.FullFineTuning(), mp.LoRA(rank=2), mp.Prefix(length=2)])
def test_averages_that_training_moves_are_mentioned_where_no_file_has_them(method, tmp_path):
    model = seeded(lambda: Headed("normalized"))
    tuner = mp.attach(model, method, head=False)
    tuner.save(tmp_path)
    model.train()
    model(IDS)
    model.eval()
    with pytest.warns(UserWarning, match="have changed head.0.running_mean of the base"):
        tuner.save(tmp_path)
    tuner.detach()
    tuner = mp.attach(model, mp.LoRA(rank=2))  # which trains a copy of the head
    model.train()
    model(IDS)
    tuner.save(tmp_path)
