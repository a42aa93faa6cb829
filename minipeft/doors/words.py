"""The words door: a soft prompt is new vocabulary.

    WordDoor    stands where the token embedding stood. Ids below V are looked up in it, ids from V
                on in the patches: a patch called without arguments gives its words' vectors (n, C).

So prompts are ids in the batch, and templates, prompts after <bos>, rows of different tasks,
generation, padding and positions need no special case. Who puts the ids there is `wrap`:

    batch = tuner.wrap(batch)      ids, a mask of ones and labels of -100 where the prompt stands

`wrap` leaves a batch alone that has the ids already. A model with tuners calls it by itself when it
is given a batch without them (passes/word_placing.py), as do `train` and `generate`.

Shapes: B batch, T tokens, V vocabulary, P prompt length, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.doors.door import Door
from minipeft.model.devices import batch_on_host, moved, on_host, on_processor


class WordDoor(Door):
    """A token embedding with more words than it was made for."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.spans: dict[str, range] = {}  # name -> the ids of its words
        self.aliases: dict[
            int, int
        ] = {}  # an id of these -> the word of the base that it stands for

    def reserve(self, name: str, count: int) -> range:
        """The first `count` ids from V on that are still free."""
        first = max([self.base.num_embeddings, *(span.stop for span in self.spans.values())])
        self.spans[name] = range(first, first + count)
        return self.spans[name]

    def remove(self, name: str) -> None:
        super().remove(name)
        for id in self.spans.pop(name, ()):
            self.aliases.pop(id, None)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, T) -> vectors (B, T, C)."""
        V = self.base.num_embeddings
        given, ids = ids, on_host(ids)
        for alias, word in self.aliases.items():
            ids = ids.masked_fill(ids == alias, word)
        given = moved(ids, given.device) if self.aliases else given
        x = self.base(given.clamp(max=V - 1))  # (B, T, C)
        new = ids >= V
        for mark in self.marks.values():
            mark.skipped = True
        if not bool(new.any()):
            return x
        known = torch.zeros_like(new)
        for name, patch in self.patches.items():
            span = self.spans[name]
            its_words = (ids >= span.start) & (ids < span.stop)
            if name in self.off or not bool(its_words.any()):
                continue
            known |= its_words
            self.marks[name].read = True
            self.marks[name].lengths.add(ids.shape[1])
            place = place_vectors if x.device == ids.device else place_known
            x = place(x, ids, span.start, patch())
        if not torch.equal(known, new):
            stray = ids[new & ~known][0].item()
            raise ValueError(
                f"The id {stray} is no word of this model ({V}) and of no prompt that is enabled: "
                "wrap the batch anew with the tuners that are attached and enabled."
            )
        return x


def refuse_new_words(path: str, known: int, _, args: tuple, kwargs: dict) -> None:
    """Before a module beside the embedding is called: of ids (B, T) it knows those below `known`.

    Raises:
        ValueError: it is given those of new words.
    """
    for ids in (*args, kwargs.get("input_ids")):
        whole = isinstance(ids, Tensor) and not ids.is_floating_point()
        if whole and bool((on_host(ids) >= known).any()):
            raise ValueError(
                f"{path} reads the ids of the input too, and knows no new words: if it is a table "
                "of words, name it among the family's words as well; otherwise take a method of "
                "another door, such as LoRA."
            )


def place_vectors(x: Tensor, ids: Tensor, first: int, vectors: Tensor) -> Tensor:
    """The embedded text with the vectors of a prompt where its words stand.

    The words of this prompt have the ids first, first + 1, .. first + n - 1. Every other id, below
    or above, is somebody else's: its vector stays as it is.

    Args:
        x: (B, T, C), what the embedding gave. It is left as it is: a new tensor is given back.
        ids: (B, T). The words of the prompt may stand anywhere, in any order, or nowhere.
        vectors: (n, C), in x's dtype or another.

    Returns:
        (B, T, C) in the dtype of x. Gradients reach both x and `vectors`.
    """
    its_words = (ids >= first) & (ids < first + len(vectors))  # (B, T)
    return x.index_put((its_words,), vectors.to(x.dtype)[ids[its_words] - first])


def place_known(x: Tensor, ids: Tensor, first: int, vectors: Tensor) -> Tensor:
    """As `place_vectors`, for ids (B, T) on the processor, x and vectors on an accelerator, which
    is not waited for: it is told the places.
    """
    its_words = (ids >= first) & (ids < first + len(vectors))  # (B, T)
    rows, columns = its_words.nonzero(as_tuple=True)  # (m,), (m,)
    places = torch.stack([rows, columns, ids[its_words] - first])  # (3, m)
    rows, columns, numbers = moved(places, x.device)
    return x.index_put((rows, columns), vectors.to(x.dtype)[numbers])


@on_processor
def insert(batch: dict, ids: Tensor, at: int | str | Tensor = 0, aligned: bool = True) -> dict:
    """New words into every row: ids (P,) or (B, P).

    at: how many of a row's own tokens stand before them, one number or one per row (B,); or "end"
    for behind the last one. Padding stays on the side where it is; only "front" is before all of
    it.  aligned: labels stand at the input's tokens (in an encoder-decoder they do not).
    """
    B, T = batch["input_ids"].shape
    device = batch["input_ids"].device
    ids = ids.to(device).expand(B, -1)  # (B, P)
    P = ids.shape[1]
    mask = mask_of(batch)  # (B, T)
    count = mask.sum(dim=1)  # (B,) own tokens
    first = mask.int().argmax(dim=1)  # (B,) where they begin
    if isinstance(at, str):
        place = {"end": first + count, "front": torch.zeros_like(first)}[at]  # (B,)
    else:
        at = on_host(at) if isinstance(at, Tensor) else at
        place = first + count.clamp(max=at)  # (B,)
    old = torch.arange(T, device=device).expand(B, T)
    old = torch.where(old >= place[:, None], old + P, old)  # (B, T) where each token goes
    new = place[:, None] + torch.arange(P, device=device)  # (B, P)

    def widened(values: Tensor, fill: Tensor) -> Tensor:
        whole = values.new_zeros(B, T + P).scatter(1, old, values)
        return whole.scatter(1, new, fill.to(values.dtype))

    like = torch.ones_like(ids)
    fills = {"input_ids": ids, "attention_mask": like, "labels": -100 * like}
    batch = {**batch, "attention_mask": mask}
    return {
        key: widened(value, fills.get(key, 0 * like))
        if along_tokens(key, value, (B, T), aligned)
        else value
        for key, value in batch.items()
    }


def insert_as_peft(tuner, batch: dict, ids: Tensor) -> dict:
    """New words as 🤗 PEFT puts them: in front of everything, padding on the left included.

    PEFT gives its models vectors, so what looks for the id of padding (where a row's last word is,
    how RoBERTa counts) finds none. Here the tuner's last word, which has the vector of padding,
    takes its place.
    """
    old = batch["input_ids"]
    old = old.masked_fill(old == tuner.anatomy.padding(), tuner.words[-1])
    return insert(batch | {"input_ids": old}, ids, "front", not tuner.anatomy.is_encoder_decoder())


def own_columns(batch: dict) -> list[list[int]]:
    """For every row the columns of its own tokens, padding left out."""
    rows = mask_of(batch_on_host(batch)).tolist()
    return [[column for column, one in enumerate(row) if one] for row in rows]


def answer_begins(batch: dict) -> Tensor:
    """How many of a row's own tokens stand before the first that has a label: (B,); all of them
    where there are no labels. In a decoder's row the answer begins there.
    """
    batch = batch_on_host(batch)
    real = mask_of(batch) != 0  # (B, T)
    labels = batch.get("labels")
    if labels is None or labels.shape != real.shape:
        return real.sum(dim=1)
    asked = ((labels != -100) & real).cumsum(dim=1) > 0  # (B, T) from the first label on
    return (real & ~asked).sum(dim=1)


@on_processor
def arrange(batch: dict, rows: Sequence[Sequence[int]], padding: int, aligned: bool = True) -> dict:
    """Every row anew: column t of row b shows the old column rows[b][t], or, where that is
    negative, the new word -1 - rows[b][t]. Padding is on the side where it was.
    """
    B, T = batch["input_ids"].shape
    device, N = batch["input_ids"].device, max(map(len, rows))
    left = is_left_padded(batch)
    paddings = [[T] * (N - len(row)) for row in rows]  # T: a column of padding behind the others
    plan = [
        filler + [*row] if left else [*row] + filler
        for row, filler in zip(rows, paddings, strict=True)
    ]
    source = torch.tensor(plan, device=device)  # (B, N)
    outside = {"input_ids": padding, "labels": -100}
    words = {"input_ids": -1 - source, "attention_mask": 1, "labels": -100}
    whole = {}
    for key, value in {**batch, "attention_mask": mask_of(batch)}.items():
        if along_tokens(key, value, (B, T), aligned):
            longer = F.pad(value, (0, 1), value=outside.get(key, 0))  # (B, T + 1)
            value = longer.gather(1, source.clamp(min=0))  # (B, N)
            new = torch.as_tensor(words.get(key, 0), dtype=value.dtype, device=device)
            value = torch.where(source < 0, new, value)
        whole[key] = value
    return whole


def choice_by_choice(batch: dict, wrap: Callable[[dict], dict]) -> dict:
    """Wrap a batch of multiple choice, ids (B, choices, T), as B * choices rows of T tokens."""
    B, N = batch["input_ids"].shape[:2]
    rows = {
        key: value.flatten(0, 1)  # (B * choices, T)
        for key, value in batch.items()
        if isinstance(value, Tensor) and value.dim() > 2 and value.shape[:2] == (B, N)
    }
    return batch | {key: value.unflatten(0, (B, N)) for key, value in wrap(rows).items()}


def mask_of(batch: dict) -> Tensor:
    """The batch's attention mask (B, T) in whole numbers, ones where it has none."""
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones_like(batch["input_ids"])
    return mask.long() if mask.is_floating_point() else mask


def check_mask(batch: dict) -> None:
    """Refuse a mask that new words cannot be put into.

    Raises:
        ValueError: the attention_mask has not one number per token, (B, T).
    """
    mask, shape = batch.get("attention_mask"), tuple(batch["input_ids"].shape)
    if mask is not None and (not isinstance(mask, Tensor) or tuple(mask.shape) != shape):
        what = f"has the shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else "is no tensor"
        raise ValueError(
            f"The attention_mask {what}, and a tuner's words can be put only into one with a "
            f"number per token, {shape}: give such a mask, or disable the tuner."
        )


def check_entries(batch: dict) -> None:
    """Refuse a batch that says of every token what nobody knows of new words.

    Raises:
        ValueError: an entry has several numbers for each token, (B, T, n), such as bbox.
    """
    shape = batch["input_ids"].shape
    for key, value in batch.items():
        if key == "labels" or not isinstance(value, Tensor) or value.dim() != 3:
            continue
        numbers = not value.is_floating_point() or key == "bbox"
        if numbers and value.shape[:2] == shape:
            raise ValueError(
                f"{key} has {value.shape[2]} numbers for each token of the input, and nobody knows "
                "those of a tuner's words: leave it out, or take a method of another door, such as "
                "LoRA."
            )


def along_tokens(key: str, value, shape: tuple[int, int], aligned: bool) -> bool:
    """Has this entry of a batch one number per input token, (B, T)?"""
    if key.startswith("decoder_") or (key == "labels" and not aligned):
        return False
    return isinstance(value, Tensor) and value.shape == shape and not value.is_floating_point()


def together(
    batches: Sequence[dict],
    rows: Sequence[Sequence[int]],
    left: bool,
    padding: int,
    aligned: bool = True,
) -> dict:
    """Batches of some rows each -> one batch of all rows in their order, padded to the longest.

    left: padding goes to the left.  padding: the id of a padding token.
    """
    T = max(batch["input_ids"].shape[1] for batch in batches)
    fill = {"input_ids": padding, "labels": -100}
    order = torch.tensor([row for part in rows for row in part]).argsort()

    def stretched(key: str, batch: dict) -> Tensor:
        value, shape = batch[key], batch["input_ids"].shape
        if not along_tokens(key, value, shape, aligned):
            return value
        room = T - shape[1]
        return F.pad(value, (room, 0) if left else (0, room), value=fill.get(key, 0))

    whole = {}
    for key, value in batches[0].items():
        if isinstance(value, Tensor) and value.dim():
            whole[key] = torch.cat([stretched(key, b) for b in batches])[order.to(value.device)]
        else:
            whole[key] = value
    return whole


def is_left_padded(batch: dict) -> bool:
    """Does a row begin with padding?"""
    mask = batch.get("attention_mask")
    if not isinstance(mask, Tensor):  # none, or one for every kind of layer, made by generate
        return False
    return mask.dim() == 2 and bool((on_host(mask)[:, 0] == 0).any())


def positions(mask: Tensor) -> Tensor:
    """Mask (B, T) -> positions (B, T), counted over a row's own tokens only, from 0."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def cached_tokens(cache) -> int:
    """How many tokens stand in a cache: transformers' or a tiny_transformer's."""
    if isinstance(cache, list):
        return cache[0]["self"]["key"].shape[2] if cache and cache[0] else 0
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
