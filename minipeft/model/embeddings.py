"""Tables that are looked up: embeddings of tokens and of positions."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cached_property

from torch import nn

from minipeft.doors.door import bottom
from minipeft.model.families import COUNT_OWN_TOKENS, FAMILIES
from minipeft.model.libraries import is_library_model, is_of_library
from minipeft.model.names import Names
from minipeft.model.sites import EmbeddingSite, Place


class Embeddings(Names):
    """The words door's part of an `Anatomy`."""

    def words(self) -> EmbeddingSite:
        """The token embedding; in an encoder-decoder the encoder's."""
        return self.embeddings()[0]

    def embeddings(self) -> list[EmbeddingSite]:
        """Every token embedding, the one first that reads the input.

        Some models keep several which share one matrix; a classifier made of an encoder-decoder
        hands the input to both.
        """
        family = self._known_family("words")
        ends = tuple(f".{name}" for name in family.words)
        paths = [p for p, m in self.modules.items() if f".{p}".endswith(ends)]
        paths = [p for p in paths if hasattr(self.modules[p], "num_embeddings")]
        if not paths:
            raise ValueError(
                f"This model has no token embedding called {' or '.join(family.words) or '?'}: "
                "describe it with attach(..., family=minipeft.Family(..., words=(...)))."
            )
        paths.sort(key=lambda path: ".encoder." not in f".{path}" or ".decoder." in f".{path}")
        modules = [self.modules[path] for path in paths]
        return [
            EmbeddingSite(path, m, m.embedding_dim) for path, m in zip(paths, modules, strict=True)
        ]

    def check_decoder_words(self) -> None:
        """Where new words in the input come to the decoder too, its table must be one of them.

        Raises:
            ValueError: it is not named (of T5Gemma's taggers, say).
        """
        ask = getattr(self.model, "get_output_embeddings", None)
        if self.kind != "encoder-decoder" or ask is None or ask() is not None:
            return
        known = {site.path: site.module.weight.shape for site in self.embeddings()}
        for path, module in self.modules.items():
            if ".decoder." not in f".{path}" or path in known or not self._is_table(path):
                continue
            if module.weight.shape in known.values():
                raise ValueError(
                    f"The decoder of a {type(self.model).__name__} reads the input too, and looks "
                    f"it up in {path}: name that table among the family's words as well."
                )

    def other_readers(self) -> list[tuple[str, nn.Module]]:
        """(path, module) of what may be given ids and knows no new words: tables beside those of
        words, layers that take input_ids (DeepSeek V4 chooses experts by them). None in a model of
        the list, where there are none.
        """
        if self.family in FAMILIES:
            return []
        words = {site.path for site in self.embeddings()}
        tables = {*words, *filter(self._is_table, self.modules)}
        around = {path[:i] for path in tables for i, sign in enumerate(path) if sign == "."}
        known = {*words, *around, "", *(path for path, _ in self.position_layers())}
        return [
            (path, module)
            for path, module in self.modules.items()
            if path not in known and not is_library_model(module)
            if "Position" not in type(module).__name__
            if self._is_table(path) or "input_ids" in inspect.signature(module.forward).parameters
        ]

    def vocabulary(self) -> int | None:
        """How many tokens the model knows; None where it has no table of them.

        A model whose words nobody named is asked for its table itself.
        """
        if self.family is not None and self.family.words:
            return self.words().module.num_embeddings
        ask = getattr(self.model, "get_input_embeddings", None)
        try:
            return getattr(bottom(ask()) if ask else None, "num_embeddings", None)
        except NotImplementedError:  # so say models that have none
            return None

    def tables(self, targets: Iterable[str]) -> list[Place]:
        """Embeddings by their names, "words" for those of tokens, as places in the weights door.

        Raises ValueError for a target that names none.
        """
        places = []
        for target in targets:
            if target == "words":
                paths = [site.path for site in self.embeddings()]
            else:
                paths = [p for p in self.matching(target, f"*.{target}") if self._is_table(p)]
            if not paths:
                have = ", ".join(path for path in self.modules if self._is_table(path)) or "none"
                raise ValueError(f"{target!r} is no embedding of this model; it has {have}.")
            places += [self._table(target, path) for path in paths]
        return places

    def tied(self, place: Place) -> list[Place]:
        """The other modules that compute with the matrix of an embedding: the head, as a rule."""
        paths = self.uses()[place.module.weight]
        return [self._table(place.target, path) for path in paths if path != place.path]

    def _is_table(self, path: str) -> bool:
        return isinstance(self.modules[path], nn.Embedding)

    def _table(self, target: str, path: str) -> Place:
        module = self.modules[path]
        size = tuple(module.weight.shape)  # (V, C)
        return Place(target, path, module, None, *size, *self._where(path))

    def position_layers(self) -> list[tuple[str, nn.Module]]:
        """(path, module) where positions are looked up; empty where there are none (T5)."""
        ends = tuple(f".{name}" for name in self._known_family("positions").positions)
        return [(p, m) for p, m in self.modules.items() if ends and f".{p}".endswith(ends)]

    @cached_property
    def limit(self) -> int | None:
        """How many tokens of input the table of positions is for; None where there is no table."""
        if self.family is None:
            return None
        sizes = []
        for _, module in self.position_layers():
            rows = getattr(module, "num_embeddings", None)
            if rows is not None:
                kept = getattr(module, "offset", None)  # rows that no token uses: BART, RoBERTa
                if not isinstance(kept, int):
                    kept = 0 if module.padding_idx is None else module.padding_idx + 1
                sizes.append(rows - kept)
        if str(self.model_type).startswith("tiny-"):
            sizes = [self.config.positions]
        return min(sizes, default=None)

    def positions(self) -> int | None:
        """How many numbers position_ids may have, from 0; None where there is no table."""
        tables = [m for _, m in self.position_layers() if isinstance(m, nn.Embedding)]
        offsets = [getattr(table, "offset", None) or 0 for table in tables]  # OPT adds 2 by itself
        rows = [t.num_embeddings - o for t, o in zip(tables, offsets, strict=True)]
        return min(rows, default=None)

    def takes_positions(self) -> bool:
        """Must the model be told positions where a row's own tokens are to count, from 0?"""
        models, names = [self.model], inspect.signature(self.model.forward).parameters
        # the one inside may take them; a model that also listens hands them on to it unnamed
        if not is_of_library(type(self.model)) or (self.kind == "decoder" and "kwargs" in names):
            models += [module for module in self.modules.values() if is_library_model(module)]
        takes = ("position_ids" in inspect.signature(m.forward).parameters for m in models)
        return any(takes) and not self.counts_own_tokens()

    def counts_own_tokens(self) -> bool:
        """Does the model count a row's own tokens by itself, whatever the side of the padding?

        So do those that have a row for padding in their table of positions, as RoBERTa has.
        """
        if self.model_type in COUNT_OWN_TOKENS:
            return True
        tables = self.position_layers() if self.family else []
        return any(getattr(table, "padding_idx", None) is not None for _, table in tables)

    def padding(self) -> int:
        """The id of a padding token, or one that does no harm."""
        config = self.config
        return getattr(config, "pad_token_id", None) or 0

    def uses(self) -> dict[nn.Parameter, list[str]]:
        """Every parameter of the model itself -> the modules that use it, the first one first."""
        uses: dict[nn.Parameter, list[str]] = {}
        for path, module in self.modules.items():
            for parameter in module._parameters.values():
                if parameter is not None:
                    uses.setdefault(parameter, []).append(path)
        return uses
