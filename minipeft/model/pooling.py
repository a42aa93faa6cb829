"""Mean pooling: a classifier reads the mean of a text's tokens in the place of its first token.

Reimers & Gurevych 2019 (Sentence-BERT, arXiv 1908.10084), section 3:

    u = sum_t m_t h_t / sum_t m_t         h (B, T, C) the body's last states, m (B, T) the mask

The classification heads of transformers' encoders read place 0, [CLS]. So u is put there, at the
end of the body, and goes through the body's pooler where it has one: head, loss, tuners and padding
need to know nothing. The words of a soft prompt are tokens of the text, and count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipeft.model.kind import kind_in


def mean_of_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """u (B, C) of states (B, T, C) and the attention mask (B, T)."""
    m = mask.to(states.dtype).unsqueeze(-1)  # (B, T, 1)
    return (m * states).sum(dim=1) / m.sum(dim=1)  # (B, C)


def pooled_by(body: nn.Module, states: Tensor) -> Tensor | None:
    """What the body's pooler makes of place 0 (B, C); None for a body without one."""
    pooler = getattr(body, "pooler", None)
    if not isinstance(pooler, nn.Module):
        return None
    activation = getattr(body, "pooler_activation", None)  # ALBERT's stands beside its map
    return pooler(states) if activation is None else activation(pooler(states[:, 0]))


def pool_by_mean(model: nn.Module) -> RemovableHandle:
    """Let the head of one of transformers' encoders read the mean; `.remove()` takes that back.

    Raises:
        ValueError: the model is no encoder of transformers with a head.
    """
    name = getattr(model, "base_model_prefix", "")
    body = getattr(model, name, None) if isinstance(name, str) and name else None
    if not isinstance(body, nn.Module) or kind_in(model.config) != "encoder":
        raise ValueError(
            f"{type(model).__name__} cannot be pooled by the mean: that is for an encoder of "
            "transformers with a classification head."
        )

    def put_mean_first(body: nn.Module, arguments: tuple, named: dict, output):
        states = output[0]  # (B, T, C)
        mask = named.get("attention_mask", arguments[1] if len(arguments) > 1 else None)
        if mask is None:
            mask = states.new_ones(states.shape[:2])
        if mask.shape != states.shape[:2]:
            raise ValueError(
                f"Mean pooling needs a mask of {tuple(states.shape[:2])}, one number for each "
                f"token, not {tuple(mask.shape)}."
            )
        mean = mean_of_tokens(states, mask).unsqueeze(1)  # (B, 1, C)
        states = torch.cat([mean, states[:, 1:]], dim=1)
        pooled = pooled_by(body, states)
        if isinstance(output, tuple):
            return (states, *output[1:]) if pooled is None else (states, pooled, *output[2:])
        output["last_hidden_state"] = states
        if pooled is not None:
            output["pooler_output"] = pooled
        return output

    return body.register_forward_hook(put_mean_first, with_kwargs=True)
