"""Sequences of tokens with common beginnings, each evaluated once: log-probabilities of what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from llamacli.engine.context import Context
from llamacli.engine.logits import Batch, log_sum_exp, rows
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.types import ContextOptions

#: Sequences of one context, llama.cpp's LLAMA_MAX_SEQ.
MOST_SEQUENCES = 256
#: Cells of a KV cache are made in steps of this many.
_STEP = 256


@dataclass(frozen=True)
class Branch:
    """Tokens, int32, of which those from `start` (at least 1) to `stop` are scored, each given all before it."""

    tokens: np.ndarray
    start: int
    stop: int

    @property
    def n_read(self) -> int:
        """Tokens to evaluate: the last one predicts nothing that is scored."""
        return self.stop - 1


def shared(sequences: Sequence[np.ndarray]) -> int:
    """The length of the longest beginning of all."""
    first, *others = sequences
    n = len(first)
    for other in others:
        n = min(n, len(other))
        differs = first[:n] != other[:n]
        n = int(differs.argmax()) if differs.any() else n
    return n


def n_tokens(tree: Sequence[Branch]) -> int:
    """What there is to evaluate, the common beginning once."""
    common = shared([branch.tokens for branch in tree])
    return common + sum(max(branch.n_read - common, 0) for branch in tree)


class _Piece(NamedTuple):
    """Tokens from `begin` to `end` of `tokens`, evaluated for these sequences; logits are wanted from `wanted` on."""

    tokens: np.ndarray
    begin: int
    end: int
    sequences: range
    wanted: int


class Branches:
    """Evaluates groups of trees: a tree is branches that begin alike. Close it, or use it as a context manager.

    What all branches of a group have in common is kept for the next group. Knows nothing of text.
    """

    def __init__(self, model: Model, options: ContextOptions, n_sequences: int) -> None:
        """`options` gives all about the context but its size, which grows as it must."""
        self._model, self._options = model, replace(options, n_sequences=n_sequences)
        self._context: Context | None = None
        self._batch = Batch(options.n_batch, n_sequences)
        self._held = np.empty(0, np.int32)  # what is in the cache, for all sequences
        # The state of a recurrent model is that after its last token: nothing of it can be shared or taken back.
        self._shares = not (C.llama_model_is_recurrent(model.handle) or C.llama_model_is_hybrid(model.handle))

    def __enter__(self) -> Branches:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def adopt(self, context: Context) -> None:
        """Go on in a context, which is then closed with this: what its sequence 0 holds is not evaluated again.

        It must have `n_sequences` sequences in one cache.
        """
        self._context = context
        if self._shares:
            for sequence in range(1, self._options.n_sequences):
                context.copy_sequence(0, sequence)
            self._held = np.array(context.tokens, np.int32)

    def evaluate(self, trees: Sequence[Sequence[Branch]]) -> list[list[np.ndarray]] | None:
        """Log-probabilities of the scored tokens of each branch of each tree, float64.

        None if a signal came in between. Raises ContextFull, EngineError, OutOfMemory.
        """
        if not trees:
            return []
        self.reserve(trees)
        context = self._context
        assert context is not None
        pieces, places = self._plan(trees)
        kept = pieces[0].begin
        if self._shares and kept:
            C.llama_memory_seq_rm(C.llama_get_memory(context.handle), -1, kept, -1)
        else:
            context.clear()
        self._held = np.empty(0, np.int32)
        picked = self._decode(context, pieces, np.concatenate(places[0]), np.concatenate(places[1]))
        if picked is None:
            return None
        if self._shares:
            self._held = pieces[0].tokens[: pieces[0].end]
        sizes = iter(np.split(picked, np.cumsum([len(place) for place in places[0]])))
        return [[next(sizes) for _ in tree] for tree in trees]

    def _plan(
        self, trees: Sequence[Sequence[Branch]]
    ) -> tuple[list[_Piece], tuple[list[np.ndarray], list[np.ndarray]]]:
        """What to evaluate: the trunk first; and for each branch its rows, as places in the pieces, and targets."""
        every = [branch for tree in trees for branch in tree]
        trunk = self._common(every)
        first = min(branch.start for branch in every) - 1
        kept = min(shared([self._held, every[0].tokens[:trunk]]), first) if self._held.size else 0
        everybody = range(self._options.n_sequences) if self._shares else range(1)
        pieces = [_Piece(every[0].tokens, kept, trunk, everybody, first)]
        at = trunk - kept
        where: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        sequence = 0
        for tree in trees:
            prefix = max(self._common(tree), trunk)
            ids = range(sequence, sequence + len(tree))
            pieces.append(_Piece(tree[0].tokens, trunk, prefix, ids, min(branch.start for branch in tree) - 1))
            prefix_at, at = at, at + prefix - trunk
            for i, branch in enumerate(tree):
                end = max(branch.n_read, prefix)
                pieces.append(_Piece(branch.tokens, prefix, end, range(ids[i], ids[i] + 1), branch.start - 1))
                read = np.arange(branch.start - 1, branch.n_read)
                shift = np.where(read < trunk, -kept, np.where(read < prefix, prefix_at - trunk, at - prefix))
                where.append(read + shift)
                targets.append(branch.tokens[branch.start : branch.stop])
                at += end - prefix
            sequence += len(tree)
        return pieces, (where, targets)

    def _common(self, branches: Sequence[Branch]) -> int:
        if not self._shares:
            return 0
        return min(shared([branch.tokens for branch in branches]), min(branch.n_read for branch in branches))

    def fits(self, trees: Sequence[Sequence[Branch]]) -> bool:
        """Whether there is room for these."""
        return not trees or (self._context is not None and self._cells(trees) <= self._context.n_ctx)

    def reserve(self, trees: Sequence[Sequence[Branch]]) -> None:
        """Make room for these. Only the main thread can. Raises OutOfMemory, EngineError."""
        if not self.fits(trees):
            self.close()
            size = -(-self._cells(trees) // _STEP) * _STEP
            self._context = Context(self._model, replace(self._options, n_ctx=size))
            self._held = np.empty(0, np.int32)

    def _cells(self, trees: Sequence[Sequence[Branch]]) -> int:
        """Of the KV cache: at most as many as these have tokens where they share nothing with each other."""
        return sum(n_tokens(tree) if self._shares else sum(branch.n_read for branch in tree) for tree in trees)

    def _decode(
        self, context: Context, pieces: Sequence[_Piece], where: np.ndarray, targets: np.ndarray
    ) -> np.ndarray | None:
        """Evaluate the pieces in batches; the log-probability of each target, given the row at its place."""
        picked = np.empty(len(where))
        capacity = min(len(self._batch.token), context.n_batch)
        n = begun = 0  # tokens in the batch; and those before it
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            begin = piece.begin
            while begin < piece.end or (last and n):
                end = min(piece.end, begin + capacity - n)
                self._fill(n, piece, begin, end)
                n += end - begin
                begin = end
                if n == capacity or (last and begin == piece.end):
                    if not self._evaluate(context, n, begun, where, targets, picked):
                        return None
                    begun, n = begun + n, 0
        return picked

    def _fill(self, at: int, piece: _Piece, begin: int, end: int) -> None:
        batch, to = self._batch, at + end - begin
        batch.token[at:to] = piece.tokens[begin:end]
        positions = np.arange(begin, end)
        batch.pos[at:to] = positions
        batch.n_seq[at:to] = len(piece.sequences)
        batch.seq[at:to, : len(piece.sequences)] = piece.sequences
        batch.wanted[at:to] = positions >= piece.wanted

    def _evaluate(
        self, context: Context, n: int, begun: int, where: np.ndarray, targets: np.ndarray, picked: np.ndarray
    ) -> bool:
        """One batch. Returns False if a signal came in between."""
        if not self._batch.decode(context, n):
            return False
        mine = (where >= begun) & (where < begun + n)
        if mine.any():
            wanted = self._batch.wanted[:n] != 0
            row = np.cumsum(wanted) - 1
            logits = rows(context, int(wanted.argmax()), int(wanted.sum()))
            picks = row[where[mine] - begun]
            picked[mine] = logits[picks, targets[mine]] - log_sum_exp(logits)[picks]
        return True
