"""Prefixes in 🤗 PEFT's layout, PREFIX_TUNING, which its P-tuning v2 is too.

One tensor `prompt_embeddings (P, 2 L C)`, what the MLP gave if there was one. Number

    [t, ((2 layer + kv) H + h) D + d]          kv 0: key, 1: value    H: key-value heads

which is how our rows lie. Layers of a trained head are `base_model.<layer>.weight`.

PEFT hands a prefix over as a cache: words stand P positions further back, an encoder-decoder has
it in the decoder only, decoder layer i reading the rows of layer 2i mod L, and T5 gives the slots
of the cache its relative position bias. A tuner that is read from such a file has
`compatibility="peft"` and does the same. Only such a tuner is written here; every other one would
change its meaning.
"""

from __future__ import annotations

from torch import Tensor

from minipeft.files.peft.common import BASE, common_settings, copied
from minipeft.files.peft.options import check_options, check_stacks
from minipeft.files.peft.task_types import not_in_peft, prefix_task
from minipeft.methods.prefix import Prefix
from minipeft.model.anatomy import Anatomy

TABLE = "prompt_embeddings"
KNOWN = {
    *("encoder_hidden_size", "init_weights", "num_attention_heads", "num_layers", "token_dim"),
    *("num_transformer_submodules", "num_virtual_tokens", "peft_type", "prefix_projection"),
}
MLP = "minipeft."  # what PEFT does not store and does not look at


def write_prefix(tuner) -> tuple[dict, dict[str, Tensor]] | None:
    """adapter_config.json and the tensors of a prefix in PEFT's layout; None for any other."""
    if tuner.method.compatibility != "peft":
        return None
    task = prefix_task(tuner)
    if task is None:
        return not_in_peft(tuner)
    anatomy, (place, patch) = tuner.anatomy, tuner.patches[0]
    table = patch.encoder().detach().contiguous()  # (P, 2 L C)
    tensors = {TABLE: table} | copied(tuner, BASE)
    if tuner.method.keep_mlp and patch.encoder.table is None:
        tensors |= {f"{MLP}{key}": t for key, t in patch.encoder.state_dict().items()}
    C = place.heads * place.head_width
    settings = common_settings(tuner, task=task) | {
        "encoder_hidden_size": C,
        "num_attention_heads": place.heads,
        "num_layers": table.shape[1] // (2 * C),
        "num_transformer_submodules": 2 if anatomy.is_encoder_decoder() else 1,
        "num_virtual_tokens": len(table),
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": False,  # there is no MLP any more
        "token_dim": C,
    }
    return settings, tensors


def read_prefix(
    settings: dict, tensors: dict[str, Tensor], anatomy: Anatomy, method: Prefix | None
) -> tuple[Prefix, dict[str, Tensor]]:
    """(method, values by our names). The method is the file's own, or read off the tensor."""
    if method is None:
        check_options(settings, KNOWN, "prefixes", merges=False)
        check_stacks(settings, anatomy.is_encoder_decoder())
    table = tensors.get(TABLE)
    if table is None or table.dim() != 2:
        raise ValueError(f"The file has no tensor {TABLE} (P, 2 L C): it is no prefix.")
    P, H = settings.get("num_virtual_tokens"), settings.get("num_attention_heads")
    if P != len(table) or type(H) is not int:
        raise ValueError(
            f"{TABLE} has {len(table)} rows, but adapter_config.json says {P!r} of {H!r} heads: "
            "the two files do not belong together."
        )
    pair = anatomy.is_encoder_decoder()
    if pair and settings.get("num_transformer_submodules") != 2:
        raise ValueError(
            "The file has a prefix for a single stack, and this model is an encoder-decoder: "
            "load the base that it was made for."
        )
    site = [s for s in anatomy.attentions() if s.target == "memory"][-1]
    if H != site.heads:
        raise ValueError(
            f"The file has a prefix for {H} key-value heads, but this model has {site.heads}: it "
            "belongs to another base."
        )
    first = next(s for s in anatomy.attentions() if (s.stack, s.target) == (site.stack, "memory"))
    encoder = f"{first.path}.memory.encoder."
    mlp = {f"{encoder}{k.removeprefix(MLP)}": t for k, t in tensors.items() if k.startswith(MLP)}
    if method is None:
        method = Prefix(length=len(table), hidden=None, compatibility="peft")
    else:
        method = method.import_state({})[0]
    values = mlp or {f"{encoder}table": table}
    for key, value in tensors.items():
        if key.startswith(BASE):
            values[key.removeprefix(BASE)] = value
        elif key != TABLE and not key.startswith(MLP):
            raise ValueError(f"The file has a tensor {key}, which is none of PEFT's prefix names.")
    return method, values
