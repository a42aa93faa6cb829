"""Writing text with a model: greedy, sampled, or by beam search; with a key-value cache.

One step asks the model for the log-probabilities of the next word. Without a cache every step runs
the whole sequence again, O(T) tokens; with one it runs the newest token only. Both give the same
words.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .models import EncoderDecoder


class Writer:
    """Holds what is needed to ask a model for the next word: ids so far, mask, cache.

    For a decoder the ids begin with the prompt; for an encoder-decoder with the start token, while
    the source has been read once into `encoder_states`.
    """

    def __init__(self, model, input_ids: Tensor, attention_mask: Tensor | None, use_cache: bool):
        self.model = model
        self.seq2seq = isinstance(model, EncoderDecoder)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if self.seq2seq:
            self.source_mask = attention_mask  # (B, S)
            self.encoder_states = model.encoder.run(input_ids, attention_mask)  # (B, S, C)
            start = model.config.decoder_start_token_id
            start = model.config.bos_token_id if start is None else start
            self.ids = torch.full_like(input_ids[:, :1], start)  # (B, 1)
            self.mask = torch.ones_like(self.ids)
        else:
            if not bool(attention_mask[:, -1].all()):
                raise ValueError(
                    "Prompts of a decoder must end at the last column; pad them on the left."
                )
            self.ids, self.mask = input_ids, attention_mask  # (B, T)
        self.cache = [] if use_cache else None

    def log_probabilities(self) -> Tensor:
        """(B, V): log p(next word | everything so far)."""
        ids = self.ids[:, -1:] if self.cache else self.ids
        if self.seq2seq:
            out = self.model(
                attention_mask=self.source_mask,
                encoder_states=self.encoder_states,
                decoder_input_ids=ids,
                decoder_attention_mask=self.mask,
                cache=self.cache,
            )
        else:
            out = self.model(ids, self.mask, cache=self.cache)
        return out.logits[:, -1].log_softmax(dim=-1)

    def append(self, words: Tensor) -> None:
        """Add one word (B,) to every row."""
        self.ids = torch.cat([self.ids, words[:, None]], dim=1)
        self.mask = torch.cat([self.mask, torch.ones_like(words[:, None])], dim=1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (N,), in this order; the cache follows."""
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self.seq2seq:
            self.source_mask = self.source_mask[rows]
            self.encoder_states = self.encoder_states[rows]
        for layer in self.cache or ():
            for pair in layer.values():
                for name in pair:
                    pair[name] = pair[name][rows]


@torch.no_grad()
def generate(
    model,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 20,
    beams: int = 1,
    sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    length_penalty: float = 1.0,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    eos_token_id: int | None = None,
) -> Tensor:
    """Continue prompts (decoder) or write targets (encoder-decoder).

    Args:
        model: a Decoder or EncoderDecoder with a LanguageHead.
        input_ids: (B, T) prompts, padded on the left, or (B, S) sources.
        attention_mask: (B, T), 0 at padding.
        max_new_tokens: the longest answer; shorter where the end token comes or positions run out.
        beams: more than 1 keeps that many candidates per row.
        sample: draw words instead of taking the best; `temperature`, `top_k`, `generator` shape it.
        length_penalty: a beam's score is its log-probability / length ** this.
        use_cache: keep keys and values; changes the time, never the words.
        eos_token_id: the end token; the model's own when None.

    Returns:
        (B, T + new) ids, or (B, 1 + new) with the start token; finished rows end in padding.
    """
    if beams < 1 or (beams > 1 and sample):
        raise ValueError("beams must be at least 1, and 1 when sample=True.")
    was_training = model.training
    model.eval()
    try:
        writer = Writer(model, input_ids, attention_mask, use_cache)
        room = model.config.positions - writer.ids.shape[1]
        if room < 1:
            raise ValueError(
                f"The prompt fills all {model.config.positions} positions; shorten the prompt."
            )
        end = model.config.eos_token_id if eos_token_id is None else eos_token_id
        pad = model.config.pad_token_id or 0
        steps = min(max_new_tokens, room)
        if beams > 1:
            return _beam(writer, steps, beams, length_penalty, end, pad)

        def choose(scores: Tensor) -> Tensor:
            if not sample:
                return scores.argmax(dim=-1)
            scores = scores / temperature
            if top_k is not None:
                least = scores.topk(top_k).values[:, -1:]  # (B, 1)
                scores = scores.masked_fill(scores < least, -torch.inf)
            return torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)[:, 0]

        return _one_by_one(writer, steps, choose, end, pad)
    finally:
        model.train(was_training)


def _one_by_one(writer: Writer, steps: int, choose, end: int | None, pad: int) -> Tensor:
    """Add the chosen word until every row has ended."""
    done = torch.zeros_like(writer.ids[:, 0], dtype=torch.bool)  # (B,)
    for _ in range(steps):
        words = choose(writer.log_probabilities())  # (B,)
        writer.append(words.masked_fill(done, pad))
        done = done | (words == end) if end is not None else done
        if bool(done.all()):
            break
    return writer.ids


def _beam(writer: Writer, steps: int, beams: int, penalty: float, end: int | None, pad: int):
    """Beam search: keep the `beams` best unfinished candidates of each row, and the best finished.

    A candidate that ends leaves the beam and is remembered with score / length ** penalty. A row is
    over when it remembers `beams` finished ones, or when the steps are used up.
    """
    B, T = writer.ids.shape
    writer.keep(torch.arange(B).repeat_interleave(beams))  # (B * beams) rows
    scores = torch.full((B, beams), -torch.inf)
    scores[:, 0] = 0.0  # all beams start equal: only the first may spread
    finished: list[list] = [[] for _ in range(B)]
    for step in range(1, steps + 1):
        new = writer.log_probabilities().view(B, beams, -1)  # (B, beams, V)
        V = new.shape[-1]
        total = (scores[:, :, None] + new).view(B, beams * V)
        best, index = total.topk(2 * beams, dim=1)  # twice as many: up to half may end here
        rows, words, kept = [], [], []
        for b in range(B):
            alive = []
            for rank, (score, i) in enumerate(
                zip(best[b].tolist(), index[b].tolist(), strict=True)
            ):
                row, word = b * beams + i // V, i % V
                if word == end:
                    if rank < beams and score > -torch.inf:
                        ids = torch.cat([writer.ids[row, T:], torch.tensor([word])])
                        finished[b].append((score / step**penalty, ids))
                elif len(alive) < beams:
                    alive.append((score, row, word))
            kept.append([score for score, _, _ in alive])
            rows += [row for _, row, _ in alive]
            words += [word for _, _, word in alive]
        writer.keep(torch.tensor(rows))
        writer.append(torch.tensor(words))
        scores = torch.tensor(kept)  # (B, beams)
        if all(len(ended) >= beams for ended in finished):
            break
    answers = []
    for b in range(B):
        if len(finished[b]) < beams:  # the unfinished may still be better than the few finished
            length = writer.ids.shape[1] - T
            for k in range(beams):
                ids = writer.ids[b * beams + k, T:]
                finished[b].append((scores[b, k].item() / length**penalty, ids))
        answers.append(max(finished[b], key=lambda pair: pair[0])[1])
    longest = max(len(ids) for ids in answers)
    text = torch.full((B, T + longest), pad)
    text[:, :T] = writer.ids[::beams, :T]
    for b, ids in enumerate(answers):
        text[b, T : T + len(ids)] = ids
    return text
