"""transformers' Trainer and accelerate take a model with a tuner attached as it is.

The oracle is a plain loop with the same AdamW: its losses and weights. Nothing is wrapped by hand,
since a model with tuners puts soft prompts in by itself.
"""

import warnings

import pytest
import torch
import zoo
from closeness import LOSS, close
from safetensors.torch import load_file

import minipeft as mp

METHODS = {
    "lora": mp.LoRA(rank=2),
    "prefix": mp.Prefix(length=3),
    "prompt": mp.PromptTuning(length=3),
}
KINDS = {"gpt2": "language", "bert": "classification"}
STEPS, ROWS = 3, 2

cases = pytest.mark.parametrize("method", METHODS)
kinds = pytest.mark.parametrize("name", KINDS)


def tuned(name: str, method: str):
    model = zoo.build(name, KINDS[name])
    tuner = mp.attach(model, METHODS[method], seed=0)
    zoo.shake(tuner, 0.05)
    return model, tuner


def rows(name: str) -> list[dict]:
    """One example per step and row, padding in some, as a data set gives them."""
    whole = [zoo.batch(name, KINDS[name], ROWS, seed=seed) for seed in range(STEPS)]
    for batch in whole if name == "gpt2" else ():  # nothing stands before the first word, so it
        batch["labels"][:, 0] = -100  # gets no loss, yet the Trainer would count it
    return [{k: v[i] for k, v in batch.items()} for batch in whole for i in range(ROWS)]


def trainer(model, folder, data, **options):
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(data)

    settings = dict(per_device_train_batch_size=ROWS, per_device_eval_batch_size=ROWS)
    settings |= dict(max_steps=STEPS, learning_rate=1e-2, lr_scheduler_type="constant", seed=0)
    settings |= dict(logging_steps=1, report_to=[], disable_tqdm=True, save_strategy="no")
    settings |= dict(weight_decay=0.0, use_cpu=True, adam_beta1=0.9, adam_beta2=0.999)
    settings |= dict(max_grad_norm=1.0, logging_strategy="steps", optim="adamw_torch")
    arguments = TrainingArguments(output_dir=str(folder), **(settings | options))
    return InOrder(model=model, args=arguments, train_dataset=data, eval_dataset=data)


def plain(name: str, method: str):
    """(losses, tuner) of a loop written out."""
    model, tuner = tuned(name, method)
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=1e-2, weight_decay=0.0)
    losses, data = [], rows(name)
    model.train()
    for step in range(STEPS):
        part = data[step * ROWS : (step + 1) * ROWS]
        batch = {k: torch.stack([row[k] for row in part]) for k in part[0]}
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, tuner


def frozen(model, tuner) -> dict:
    trained = set(tuner.parameters())
    return {n: p.detach().clone() for n, p in model.named_parameters() if p not in trained}


def same(ours, theirs) -> None:
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(a, b)


@kinds
@cases
def test_trainer_trains_as_a_plain_loop(tmp_path, name, method):
    losses, expected = plain(name, method)
    model, tuner = tuned(name, method)
    before = frozen(model, tuner)
    job = trainer(model, tmp_path, rows(name))
    job.train()
    logged = [entry["loss"] for entry in job.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, abs=1e-4)  # the Trainer rounds what it logs
    same(tuner, expected)
    after = dict(model.named_parameters())
    assert all(torch.equal(value, after[n]) for n, value in before.items())


@kinds
@cases
def test_trainer_evaluates_and_predicts(tmp_path, name, method):
    model, tuner = tuned(name, method)
    data = rows(name)
    job = trainer(model, tmp_path, data)
    with torch.no_grad():
        parts = [data[i : i + ROWS] for i in range(0, len(data), ROWS)]
        whole = [{k: torch.stack([row[k] for row in part]) for k in part[0]} for part in parts]
        losses = [model(**batch).loss.item() for batch in whole]
    close(
        job.evaluate()["eval_loss"], sum(losses) / len(losses), dtype=torch.float32, roundings=LOSS
    )
    output = job.predict(data)
    assert output.predictions.shape[0] == len(data) == output.label_ids.shape[0]
    longer = 3 if method == "prompt" and name == "gpt2" else 0
    if name == "gpt2":
        assert output.predictions.shape[1] == output.label_ids.shape[1] + longer


@kinds
@cases
def test_trainer_goes_on_from_its_checkpoint(tmp_path, name, method):
    _, expected = plain(name, method)
    model, _ = tuned(name, method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = dict(save_strategy="steps", save_steps=1)
        trainer(model, tmp_path, rows(name), **options).train()
        fresh, tuner = tuned(name, method)
        trainer(fresh, tmp_path, rows(name), **options).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )
    same(tuner, expected)
    tensors = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert len(tensors) >= len(tuner.named_tensors())


@cases
def test_accelerate_trains_as_a_plain_loop(method):
    from accelerate import Accelerator

    losses, expected = plain("gpt2", method)
    model, tuner = tuned("gpt2", method)
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=1e-2, weight_decay=0.0)
    loader = torch.utils.data.DataLoader(rows("gpt2"), batch_size=ROWS)
    engine = Accelerator(cpu=True)
    model, optimizer, loader = engine.prepare(model, optimizer, loader)
    model.train()
    accelerated = []
    for batch in loader:
        loss = model(**batch).loss
        engine.backward(loss)
        engine.clip_grad_norm_(tuner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        accelerated.append(loss.item())
    close(accelerated, losses, dtype=torch.float32, roundings=LOSS)
    same(tuner, expected)
    assert engine.unwrap_model(model).minipeft.tuners["default"] is tuner


@kinds
@cases
def test_a_checkpoint_of_the_trainer_opens_as_the_base(tmp_path, name, method):
    model, _ = tuned(name, method)
    job = trainer(model, tmp_path, rows(name), save_strategy="steps", save_steps=2)
    job.train()
    job.save_model(tmp_path / "last")
    batch, plain = zoo.batch(name, KINDS[name]), zoo.build(name, KINDS[name])
    for folder in (tmp_path / "checkpoint-2", tmp_path / "last"):
        how = dict(output_loading_info=True, dtype=torch.float64)
        again, said = type(model).from_pretrained(folder, **how)
        assert not said["missing_keys"]
        close(zoo.logits(again.eval(), batch), zoo.logits(plain, batch))


@cases
def test_trainer_takes_the_best_checkpoint_back(tmp_path, method):
    """ "Best" is the largest loss, so that the best checkpoint is not the last one."""
    model, tuner = tuned("gpt2", method)
    options = dict(save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1)
    best = dict(load_best_model_at_end=True, greater_is_better=True)
    job = trainer(model, tmp_path, rows("gpt2"), **options, **best)
    job.train()
    steps = int(job.state.best_model_checkpoint.rpartition("-")[2])
    assert steps < STEPS
    expected, other = tuned("gpt2", method)
    trainer(expected, tmp_path / "short", rows("gpt2"), max_steps=steps).train()
    assert all(map(torch.equal, tuner.parameters(), other.parameters()))


@cases
def test_accelerate_saves_and_loads_what_is_trained(tmp_path, method):
    from accelerate import Accelerator

    engine = Accelerator(cpu=True)
    model, tuner = tuned("gpt2", method)
    engine.prepare(model)
    engine.save_state(str(tmp_path / "state"))
    engine.save_model(model, str(tmp_path / "model"))
    kept = [p.detach().clone() for p in tuner.parameters()]
    zoo.shake(tuner, 1.0)
    engine.load_state(str(tmp_path / "state"))
    assert all(torch.equal(a, b) for a, b in zip(kept, tuner.parameters(), strict=True))
    tensors, base = load_file(tmp_path / "model" / "model.safetensors"), zoo.build("gpt2")
    base.load_state_dict(tensors, strict=False)
    assert torch.equal(base.lm_head.weight, tensors["transformer.wte.weight"])


def pruned(folder, callbacks, **options):
    """A tuner with AdaLoRA after a run of six steps."""
    model = zoo.build("gpt2")
    tuner = mp.attach(model, mp.AdaLoRA(init_rank=4, target_rank=2), seed=0)
    data = rows("gpt2") * 2
    job = trainer(model, folder, data, **(dict(max_steps=6) | options))
    for callback in callbacks:
        job.add_callback(callback)
    job.train()
    return tuner, [len(patch.Lambda) for _, patch in tuner.patches]


def test_the_callback_prunes(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not pruned")
        tuner, left = pruned(tmp_path, [mp.trainer_callback()])
    assert sum(left) == 2 * len(left)
    model = zoo.build("gpt2")
    plain = mp.attach(model, mp.AdaLoRA(init_rank=4, target_rank=2), seed=0)
    whole = [{k: torch.stack(v) for k, v in pair.items()} for pair in pairs(rows("gpt2"))]
    settings = dict(schedule="constant", warmup=0, progress=False, clip=None)
    mp.train(model, lambda step: whole[step % STEPS], 6, 1e-2, **settings)
    again, _ = pruned(tmp_path / "2", [mp.trainer_callback()], max_grad_norm=0.0)
    same(again, plain)


def pairs(data: list[dict]) -> list[dict]:
    parts = [data[i : i + ROWS] for i in range(0, len(data), ROWS)]
    return [{key: [row[key] for row in part] for key in part[0]} for part in parts]


def test_without_the_callback_it_is_said(tmp_path):
    with pytest.warns(UserWarning, match="'default' is not pruned.*trainer_callback"):
        _, left = pruned(tmp_path, [])
    assert left == [4] * len(left)


def test_the_callback_and_the_best_weights(tmp_path):
    options = dict(save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1)
    options |= dict(load_best_model_at_end=True, metric_for_best_model="loss")
    options |= dict(greater_is_better=True)  # so that the first step is the best
    with pytest.warns(UserWarning, match="The best weights of 'default' are those of step"):
        _, left = pruned(tmp_path, [mp.trainer_callback()], **options)
    assert sum(left) == 2 * len(left)


def test_the_callback_goes_without_anything_to_do(tmp_path):
    model, _ = tuned("gpt2", "lora")
    job = trainer(model, tmp_path, rows("gpt2"))
    job.add_callback(mp.trainer_callback())
    job.train()
