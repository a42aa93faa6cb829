"""Settings of 🤗 PEFT's that make a file more than we compute: each refused by its name.

What a setting does is known, or the file is refused: an option that PEFT gets tomorrow is on no
list here, and so it is refused as well, not misread.
"""

from __future__ import annotations

from minipeft.methods.parts.validation import shorten

# Settings that decide nothing once the tensors are there.
IGNORED = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
    *("fan_in_fan_out", "megatron_config", "megatron_core", "modules_to_save", "task_type"),
    "qalora_group_size",
}
REASONS = {
    "layer_replication": "builds a deeper model out of copies of the base's layers",
    "target_parameters": "adapts bare parameters (of experts, say), which are no linear maps",
    "alora_invocation_tokens": "acts from certain tokens on only (aLoRA)",
    "trainable_token_indices": "trains rows of the vocabulary",
    "arrow_config": "chooses among several adapters (Arrow)",
    "ensure_weight_tying": "ties what is trained at the words to what is trained at the head",
    "use_qalora": "groups the inputs of its maps (QALoRA)",
    "bias": "trains biases of the base",
}
OPEN = "open it with PEFT"
MERGE = f"{OPEN} and save what its merge_and_unload() gives, a plain base"
# PEFT refuses to merge these, cannot save what it merged, or changes what tied weights compute
NOT_MERGED = {"alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "layer_replication"}
# starts that leave the base as it is; any other changes its weights, so that A and B fit those only
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "pissa")
CONVERT = "have PEFT convert it (path_initial_model_for_weight_conversion of save_pretrained)"


def check_options(settings: dict, known: set[str], what: str, merges: bool = True) -> None:
    """Every setting that is on must be among `known` or IGNORED.

    merges: does PEFT merge this kind of tuner?

    Raises:
        ValueError: one is not; the sentence names it.
    """
    for key, value in settings.items():
        if not value or key in known | IGNORED or (key, value) == ("bias", "none"):
            continue
        reason = REASONS.get(key, f"is none of the settings of {what} that are known here")
        advice = MERGE if merges and key not in NOT_MERGED else OPEN
        raise ValueError(f"The file sets {key}={shorten(value)}, which {reason}: {advice}.")


def check_start(start: object) -> None:
    """`init_lora_weights` must be one that leaves the base as it is."""
    if not isinstance(start, bool | str | None) or start not in STARTS:
        raise ValueError(
            f"The file was started with init_lora_weights={shorten(start)}, which changes the "
            f"base's weights before training, and those are not in the file: {CONVERT}."
        )


def check_stacks(settings: dict, pair: bool) -> None:
    """`num_transformer_submodules` is 2 for encoder-decoders only; PEFT gives other models twice as
    many virtual tokens with it.
    """
    stacks = settings.get("num_transformer_submodules")
    if stacks not in (None, 1) and not pair:
        raise ValueError(
            f"The file sets num_transformer_submodules={shorten(stacks)}, a prompt for an encoder "
            f"and one for a decoder, and this model has one stack: {OPEN}."
        )


def check_together(settings: dict, embeddings: bool) -> None:
    """Refuse variants of LoRA that are known alone, in one file.

    embeddings: are there LoRAs on embeddings?
    """
    dora, bias = bool(settings.get("use_dora")), settings.get("bias") or "none"
    inside = bool(settings.get("lora_bias"))
    has = {
        "use_dora=True": dora,
        "init_lora_weights='pissa'": settings.get("init_lora_weights") == "pissa",
        "lora_bias=True": inside,
        f"bias={shorten(bias)}": bias != "none",
        "an embedding among its target_modules": dora and embeddings,
    }
    together = [what for what, is_there in has.items() if is_there]
    if len(together) > 1:
        raise ValueError(
            f"The file has {' and '.join(together)}, each of which is known alone but not "
            f"together: {OPEN if inside or embeddings else MERGE}."
        )
