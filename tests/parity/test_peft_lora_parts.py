"""What 🤗 PEFT puts beside a LoRA on linear maps, file by file, in float64: biases, embeddings,
the head, rows of the vocabulary.

A file of PEFT's opens with PEFT's logits, trains on with PEFT's numbers, is saved so that PEFT
opens it, and is merged, or refused in a sentence where a merge would change more than was trained.
"""

import json
import warnings

import pytest
import torch
import zoo
from closeness import close
from whole import part_of

import minipeft as mp

peft = pytest.importorskip("peft")

PARTS = {  # settings of PEFT's; words and head: these are targets too
    "bias all": dict(bias="all"),
    "bias of the adapted": dict(bias="lora_only"),
    "bias inside": dict(lora_bias=True),
    "words": dict(words=True),
    "words, own ranks": dict(words=True, rank_pattern=True, use_rslora=True),
    "head": dict(head=True),
    "tokens": dict(trainable_token_indices=[5, 3, 17]),
    "tokens and words' head": dict(trainable_token_indices=[5, 3], head=True),
    "words and biases": dict(words=True, bias="all"),
    "orthogonal": dict(r=4, init_lora_weights="orthogonal"),
}
# the query map, the embedding, the head, and whether the last two share their matrix
MODELS = {
    "gpt2": ("c_attn", "wte", "lm_head", True),
    "llama": ("q_proj", "embed_tokens", "lm_head", False),
    "qwen2": ("q_proj", "embed_tokens", "lm_head", False),
    "bert": ("query", "word_embeddings", None, True),
    "bart": ("q_proj", "embed_tokens", None, True),
    "t5": ("q", "embed_tokens", None, True),
    "opt": ("q_proj", "embed_tokens", "lm_head", True),
    "gpt_neox": ("query_key_value", "embed_in", "embed_out", False),
}
EVERY = [
    (name, part)
    for name, (_, _, head, tied) in MODELS.items()
    for part, options in PARTS.items()
    if not ("head" in options and (head is None or tied and "trainable_token_indices" in options))
    and not (name == "bert" and "trainable_token_indices" in options)
]
pairs = pytest.mark.parametrize("name, part", part_of(EVERY, 24))


def build(name: str):
    return zoo.build(name).double()


def settings(name: str, part: str) -> dict:
    options = dict(PARTS[part])
    query, words, head, _ = MODELS[name]
    targets = [query]
    targets += [words] if options.pop("words", False) else []
    targets += [head] if options.pop("head", False) else []
    if options.get("rank_pattern"):
        options["rank_pattern"], options["alpha_pattern"] = {words: 2}, {words: 5}
    return dict(r=3, lora_alpha=6, target_modules=targets) | options


def with_peft(name: str, part: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(build(name), peft.LoraConfig(**settings(name, part))).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise, alpha=0.1)
    return model.eval()


def opened_by_peft(name: str, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(build(name), folder, **options).double().eval()


def saved(theirs, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(folder)
    return folder


@pairs
def test_their_file_opens_is_saved_and_is_merged(tmp_path, name, part):
    theirs, batch = with_peft(name, part), zoo.batch(name)
    expected, base = zoo.logits(theirs, batch), zoo.logits(build(name), batch)
    assert (expected - base).abs().max() > 1e-3
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tuner = mp.load(model, saved(theirs, tmp_path / "theirs"))
    close(zoo.logits(model, batch), expected)
    tuner.save(tmp_path / "ours")
    close(zoo.logits(opened_by_peft(name, tmp_path / "ours"), batch), expected)
    fresh = build(name)
    mp.load(fresh, tmp_path / "ours")
    close(zoo.logits(fresh, batch), expected)
    tied = MODELS[name][3]
    if tied and part in ("words", "words, own ranks", "head", "tokens", "words and biases"):
        with pytest.raises(ValueError, match="is shared with"):
            tuner.merge()
    elif part == "bias inside" and name in ("llama", "t5"):  # whose maps have no bias
        with pytest.raises(ValueError, match="adds a bias"):
            tuner.merge()
    else:
        tuner.merge()
        close(zoo.logits(model, batch), expected)
        tuner.unmerge()
    close(zoo.logits(model, batch), expected)
    tuner.detach()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pairs
def test_it_trains_on_with_the_same_numbers(tmp_path, name, part):
    """Five steps of AdamW without decay, from the same file: the same losses and logits."""
    saved(with_peft(name, part), tmp_path)
    model = build(name)
    tuner = mp.load(model, tmp_path)
    theirs = opened_by_peft(name, tmp_path, is_trainable=True)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    losses = []
    for net, parameters in ((model, tuner.parameters()), (theirs, trained)):
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
        losses.append([])
        for seed in range(5):
            loss = net(**zoo.batch(name, seed=seed)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)
    close(zoo.logits(model, zoo.batch(name)), zoo.logits(theirs, zoo.batch(name)))
    counts = [sum(p.numel() for p in parameters) for parameters in (tuner.parameters(), trained)]
    assert counts[0] == counts[1]


OURS = {
    "words": (mp.LoRA(rank=2), mp.LoRAEmbedding(rank=3, alpha=5)),
    "tokens": (mp.LoRA(rank=2), mp.TokenRows((5, 3, 17))),
    "all": (mp.LoRABias(rank=2), mp.LoRAEmbedding(rank=2, targets=("wpe",)), mp.TokenRows((5,))),
    "inside": (mp.LoRABias(rank=2, bias="detour"), mp.TokenRows((5,))),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("parts", OURS)
def test_ours_open_there_or_are_in_our_layout(tmp_path, name, parts):
    if parts == "all" and name != "gpt2":
        return
    model, batch = build(name), zoo.batch(name)
    tuner = mp.attach(model, mp.Combined(OURS[parts]), seed=0)
    zoo.shake(tuner)
    tuner.save(tmp_path)
    ours = zoo.logits(model, batch)
    fresh = build(name)
    mp.load(fresh, tmp_path)
    close(zoo.logits(fresh, batch), ours)
    kind = json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"]
    # one detour for the embeddings of encoder and decoder; a head with a bias
    not_in_peft = (parts == "words" and name in ("bart", "t5")) or (
        parts != "words" and name == "bert"
    )
    assert (kind == "MINIPEFT") == not_in_peft
    if not not_in_peft:
        close(zoo.logits(opened_by_peft(name, tmp_path), batch), ours)


def test_rows_of_words_whose_head_has_a_bias_are_refused(tmp_path):
    """PEFT leaves the bias of BERT's head out where it trains rows of the matrix they share."""
    config = peft.LoraConfig(target_modules=["query"], trainable_token_indices=[5])
    saved(peft.get_peft_model(build("bert"), config), tmp_path)
    with pytest.raises(ValueError, match="a head with a bias shares"):
        mp.load(build("bert"), tmp_path)


def test_eva_starts_elsewhere_and_is_a_plain_lora(tmp_path):
    config = settings("gpt2", "orthogonal") | dict(
        init_lora_weights="eva", eva_config=peft.EvaConfig(rho=2.0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(build("gpt2"), peft.LoraConfig(**config)).double().eval()
        peft.initialize_lora_eva_weights(theirs, [zoo.batch("gpt2", seed=i) for i in range(4)])
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    model, batch = build("gpt2"), zoo.batch("gpt2")
    mp.load(model, saved(theirs, tmp_path))
    close(zoo.logits(model, batch), zoo.logits(theirs, batch))


def test_olora_opens_once_its_change_of_the_base_is_undone(tmp_path):
    """PEFT knows it in fp32 only, so that the logits are equal up to rounding."""
    options = settings("llama", "orthogonal") | dict(init_lora_weights="olora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(
            zoo.build("llama", dtype=torch.float32), peft.LoraConfig(**options)
        ).eval()
        config, first = theirs.peft_config["default"], tmp_path / "first"
        config.init_lora_weights = True  # the start of the conversion must not change the base too
        theirs.save_pretrained(first)
        config.init_lora_weights = "olora"
        with torch.no_grad():
            for parameter in theirs.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        saved(theirs, tmp_path / "plain")
        expected = zoo.logits(theirs, zoo.batch("llama"))
        theirs.save_pretrained(
            tmp_path / "converted", path_initial_model_for_weight_conversion=str(first)
        )
    model, batch = zoo.build("llama", dtype=torch.float32), zoo.batch("llama")
    with pytest.raises(ValueError, match=r"'olora', which changes .* have PEFT convert it"):
        mp.load(model, tmp_path / "plain")
    mp.load(model, tmp_path / "converted")
    close(zoo.logits(model, batch), expected)


HEADS = {"bert": "query", "roberta": "query", "electra": "query", "distilbert": "q_lin"}


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("name", [*HEADS, "gpt2"])
def test_a_classifier_s_file_with_biases_opens(tmp_path, name, bias):
    """PEFT stores the biases of the head three times: its own, and those of its wrapper."""
    target = HEADS.get(name, "c_attn")
    model, batch = zoo.build(name, "classification"), zoo.batch(name, "classification")
    options = dict(task_type="SEQ_CLS", target_modules=[target], r=2, bias=bias)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(model, peft.LoraConfig(**options)).double().eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise, alpha=0.1)
    expected = zoo.logits(theirs, batch)
    fresh = zoo.build(name, "classification")
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    tuner = mp.load(fresh, saved(theirs, tmp_path / "theirs"))
    close(zoo.logits(fresh, batch), expected)
    tuner.save(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = peft.PeftModel.from_pretrained(zoo.build(name, "classification"), tmp_path / "ours")
    close(zoo.logits(again.double().eval(), batch), expected)
    tuner.detach()
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize(
    "options, what",
    [
        (dict(use_dora=True, bias="all"), "use_dora=True and bias='all'"),
        (dict(use_dora=True, lora_bias=True), "use_dora=True and lora_bias=True"),
        (dict(bias="lora_only", lora_bias=True), "lora_bias=True and bias='lora_only'"),
        (dict(use_dora=True, words=True), "use_dora=True and an embedding"),
    ],
)
def test_variants_that_are_not_known_together_are_named(tmp_path, options, what):
    name = "opt"
    words = [MODELS[name][1]] if options.pop("words", False) else []
    chosen = dict(r=2, target_modules=[MODELS[name][0], *words]) | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = peft.get_peft_model(build(name), peft.LoraConfig(**chosen))
        except ValueError:  # PEFT knows them no more than we do
            return
    saved(theirs, tmp_path)
    model = build(name)
    before = zoo.logits(model, zoo.batch(name))
    with pytest.raises(ValueError, match=f"The file has {what}.* known alone but not together"):
        mp.load(model, tmp_path)
    assert torch.equal(zoo.logits(model, zoo.batch(name)), before)
