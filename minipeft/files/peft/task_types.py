"""🤗 PEFT's task_type: which of its classes opens the file, and so what becomes of a prompt.

Without a task_type PEFT opens a file of the prompt family (prefixes, soft prompts) and does not put
the prompt in. FEATURE_EXTRACTION puts it in front of any model and hands on what the model gives,
so that is what bare encoders, masked language models, double heads and frozen heads get.
"""

from __future__ import annotations

import inspect
import warnings

HEADS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
LANGUAGE = {
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "MTModel": "SEQ_2_SEQ_LM",  # Marian's
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
TASK_TYPES = (*HEADS.values(), *LANGUAGE.values(), "FEATURE_EXTRACTION")
# tiny_transformers open as models of the library: (kind, class of the head) -> task_type
TINY = {
    ("decoder", "LanguageHead"): "CAUSAL_LM",
    ("encoder-decoder", "LanguageHead"): "SEQ_2_SEQ_LM",
    ("encoder", "LanguageHead"): "FEATURE_EXTRACTION",
}


def task_type(tuner) -> str | None:
    """The task_type of a tuner in the weights door: which of PEFT's classes opens the file.

    With that of a head PEFT insists on finding the head in the file.
    """
    kinds = LANGUAGE | HEADS if trains_head(tuner) else LANGUAGE
    return _ending(tuner, kinds)


def trains_head(tuner) -> bool:
    """Is a task head among the layers that are trained whole?"""
    heads = [f"{path}." for path in tuner.anatomy.heads()]
    return any(f"{path}.".startswith(head) for path in tuner.copies for head in heads)


def prompt_task(tuner) -> str | None:
    """The task_type with which PEFT puts a soft prompt in front as we do; None: with none."""
    name, anatomy = type(tuner.model).__name__, tuner.anatomy
    if (anatomy.model_type or "").startswith("tiny-"):
        head = type(anatomy.modules.get("head")).__name__
        return None if tuner.copies else TINY.get((tuner.model.config.kind, head))
    head, task = _ending(tuner, HEADS), _ending(tuner, HEADS | LANGUAGE)
    theirs = isinstance(getattr(tuner.model, "base_model_prefix", None), str)  # transformers' class
    if not theirs or name.endswith("ForMultipleChoice"):
        return None
    if anatomy.is_encoder_decoder() and head:
        return None  # these take no vectors in place of ids
    if task == "SEQ_CLS" and anatomy.is_decoder() and tuner.method.compatibility != "peft":
        return None  # given vectors, they read the last column, be it padding or not
    return task if task and (trains_head(tuner) or not head) else "FEATURE_EXTRACTION"


def prefix_task(tuner) -> str | None:
    """The task_type with which PEFT puts a prefix in as we do; None: with none."""
    task, model = prompt_task(tuner), tuner.model
    if tuner.anatomy.is_encoder_decoder():  # PEFT gives the encoder a mask with P places too many
        return task if task == "SEQ_2_SEQ_LM" else None
    if (tuner.anatomy.model_type or "").startswith("tiny-"):
        return task
    if len(tuner.patches) < len(tuner.anatomy.blocks()):
        return None  # PEFT makes a cache for every layer, also for those without attention
    body = getattr(model, "base_model", model)
    names, inside = (inspect.signature(m.forward).parameters for m in (model, body))
    if "input_ids" in inside:  # a head may take a cache that the body does not
        names = inside
    return task if "past_key_values" in names else None


def not_in_peft(tuner) -> None:
    """Say that PEFT cannot open what was meant for it."""
    if tuner.method.compatibility == "peft":
        kind, model = type(tuner.method).__name__, type(tuner.model).__name__
        warnings.warn(
            f"PEFT cannot put a {kind} into a {model} as this tuner does, so {tuner.name!r} is "
            "saved in minipeft's own layout, which minipeft.load opens and PEFT does not.",
            UserWarning,
            stacklevel=5,
        )


def _ending(tuner, tasks: dict[str, str]) -> str | None:
    """What the end of the class's name says. Decoders that look or listen, such as Gemma 3, are
    called ForConditionalGeneration as well.
    """
    name, writes = type(tuner.model).__name__, tuner.anatomy.is_decoder()
    task = next((task for end, task in tasks.items() if name.endswith(end)), None)
    return "CAUSAL_LM" if task == "SEQ_2_SEQ_LM" and writes else task
