"""Writing text with a model: greedy, sampled, or by beam search; with a key-value cache.

One step asks the model for the log-probabilities of the next word. Without a cache every step runs
the whole sequence again, O(T) tokens; with one it runs the newest token only. Both give the same
words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .heads import LanguageHead
from .models import EncoderDecoder
from .tokenizer import padded


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
            self.ids = torch.full_like(input_ids[:, :1], model.start_token_id)  # (B, 1)
            self.mask = torch.ones_like(self.ids)
        else:
            if not bool(attention_mask[:, -1].all()):
                raise ValueError(
                    "Prompts of a decoder must end at the last column; pad them on the left."
                )
            self.ids, self.mask = input_ids, attention_mask  # (B, T)
        self.cache = [] if use_cache else None

    def log_probabilities(self) -> Tensor:
        """(B, V): log p(next word | everything so far), in float32."""
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
        return out.logits[:, -1].float().log_softmax(dim=-1)

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
    top_p: float | None = None,
    length_penalty: float = 1.0,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    eos_token_id: int | None = None,
    stream: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continue prompts (decoder) or write targets (encoder-decoder).

    Args:
        model: a Decoder or EncoderDecoder with a LanguageHead.
        input_ids: (B, T) prompts, padded on the left, or (B, S) sources.
        attention_mask: (B, T), 0 at padding.
        max_new_tokens: the longest answer; shorter where the end token comes or positions run out.
            The end token is never forced.
        beams: more than 1 keeps that many candidates per row, see `beam_search`.
        sample: draw words instead of taking the best; `temperature`, `top_k`, `top_p` (see
            `nucleus`) and `generator` shape it.
        length_penalty: a beam's score is its log-probability / length ** this.
        use_cache: keep keys and values; changes the time, never the words.
        eos_token_id: the end token; the model's own when None.
        stream: called with the newest word of every row (B,) as it is chosen, not with beams. Rows
            that have ended go on getting words, which count no more.

    Returns:
        (B, T + new) ids, or (B, 1 + new) with the start token; finished rows end in padding.

    Raises:
        ValueError: a model that writes no words, an impossible number, or no room for a word.
    """
    if not isinstance(model.head, LanguageHead) or model.config.kind == "encoder":
        raise ValueError("Only a Decoder or EncoderDecoder with a LanguageHead can write words.")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
    if beams < 1 or (beams > 1 and sample):
        raise ValueError("beams must be at least 1, and 1 when sample=True.")
    if temperature <= 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            "temperature must be above 0 and top_k at least 1; for greedy, sample=False."
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is a probability above 0 and at most 1, not {top_p}.")
    was_training = model.training
    model.eval()
    try:
        writer = Writer(model, input_ids, attention_mask, use_cache)
        room = model.config.positions - writer.ids.shape[1]
        if room < 1:
            raise ValueError(
                f"The prompt fills all {model.config.positions} positions; shorten the prompt."
            )
        steps = min(max_new_tokens, room)
        end = model.config.eos_token_id if eos_token_id is None else eos_token_id
        pad = model.config.pad_token_id or 0
        if beams > 1:
            return beam_search(writer, steps, beams, length_penalty, end, pad)

        def choose(scores: Tensor) -> Tensor:
            """Scores (B, V) -> words (B,)."""
            if not sample:
                return scores.argmax(dim=-1)
            scores = scores / temperature
            if top_k is not None:
                least = scores.topk(min(top_k, scores.shape[-1])).values[:, -1:]  # (B, 1)
                scores = scores.masked_fill(scores < least, -torch.inf)
            if top_p is not None and top_p < 1:
                scores = nucleus(scores, top_p)
            return torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)[:, 0]

        def aloud(scores: Tensor) -> Tensor:
            words = choose(scores)
            stream(words)
            return words

        return one_by_one(writer, steps, aloud if stream else choose, end, pad)
    finally:
        model.train(was_training)


def nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores (B, V), -inf but for the likeliest words, as few as have top_p together.

    A word stays where all words that are likelier have less than top_p together.
    """
    likeliest, order = scores.softmax(dim=-1).sort(descending=True, stable=True)  # (B, V)
    before = likeliest.cumsum(dim=-1) - likeliest  # (B, V): of the words that are likelier
    outside = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return scores.masked_fill(outside, -torch.inf)


def one_by_one(writer: Writer, steps: int, choose, end: int | None, pad: int) -> Tensor:
    """Add the chosen word until every row has ended."""
    done = torch.zeros_like(writer.ids[:, 0], dtype=torch.bool)  # (B,)
    for _ in range(steps):
        words = choose(writer.log_probabilities())  # (B,)
        writer.append(words.masked_fill(done, pad))
        done = done | (words == end) if end is not None else done
        if bool(done.all()):
            break
    return writer.ids


def beam_search(
    writer: Writer, steps: int, beams: int, penalty: float, end: int | None, pad: int
) -> Tensor:
    """Keep the `beams` best unfinished candidates of each row, and remember those that ended.

    A candidate that ends among the best `beams` leaves the beam and is remembered with
    log-probability / length ** penalty. A row is over when it remembers `beams` of them, or when
    the steps are used up: then the unfinished compete too. This is transformers' search with
    early_stopping=True; a row's answer never depends on the other rows of the batch.
    """
    B, T = writer.ids.shape
    device = writer.ids.device
    writer.keep(torch.arange(B, device=device).repeat_interleave(beams))  # (B * beams) rows
    scores = torch.full((B, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all beams start equal: only the first may spread
    finished: list[list] = [[] for _ in range(B)]  # per row: (score, new ids)
    for step in range(1, steps + 1):
        new = writer.log_probabilities()  # (B * beams, V)
        V = new.shape[-1]
        total = (scores.view(-1, 1) + new).view(B, beams * V)
        best, index = total.topk(min(2 * beams, beams * V), dim=1)  # twice: up to half may end here
        rows, words, kept = [], [], []
        for b in range(B):
            over, alive = len(finished[b]) >= beams, []
            for rank, (score, i) in enumerate(
                zip(best[b].tolist(), index[b].tolist(), strict=True)
            ):
                row, word = b * beams + i // V, i % V
                if word != end:
                    alive.append((score, row, word))
                elif rank < beams and score > -torch.inf and not over:
                    ids = [*writer.ids[row, T:].tolist(), word]
                    finished[b].append((score / step**penalty, ids))
            kept.append([score for score, _, _ in alive[:beams]])
            rows += [row for _, row, _ in alive[:beams]]
            words += [word for _, _, word in alive[:beams]]
        writer.keep(torch.tensor(rows, device=device))
        writer.append(torch.tensor(words, device=device))
        scores = torch.tensor(kept, device=device)  # (B, beams)
        if all(len(ended) >= beams for ended in finished):
            break
    answers = []
    for b in range(B):
        if len(finished[b]) < beams:  # the unfinished may still be better than the few finished
            for k in range(beams):
                ids = writer.ids[b * beams + k, T:].tolist()
                finished[b].append((scores[b, k].item() / len(ids) ** penalty, ids))
        answers.append(max(finished[b], key=lambda pair: pair[0])[1])
    new = padded(answers, pad).to(device)  # (B, longest)
    return torch.cat([writer.ids[::beams, :T], new], dim=1)  # (B, T + longest)
