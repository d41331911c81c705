"""Train `tiny` on the text that corpus.py writes: python -m llamacli.builtin.train TEXT.jsonl CHECKPOINT.pt

Needs PyTorch 2.6 or later and numpy. Matrices are trained by Muon (Jordan et al. 2024, "Muon: an optimizer for hidden
layers in neural networks"), the rest by AdamW.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamacli.builtin import vocabulary as v
from llamacli.builtin.vocabulary import Vocabulary

#: The shape; export.py writes it into the GGUF.
LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD = 5, 256, 512, 4, 2, 64
CONTEXT, EPSILON, ROPE_BASE = 1024, 1e-5, 10_000.0
VOCABULARY = 1792
#: Documents from which the vocabulary is learnt.
VOCABULARY_SAMPLE = 20_000
#: How much a token counts in the loss: of a plain story, and of what is given (by user or system). An answer of n
#: tokens counts 6 √n in all, so that short answers are not drowned by long ones. What is looked up is a name.
STORY_WEIGHT, GIVEN_WEIGHT, ANSWER_WEIGHT, LOOKUP_WEIGHT = 0.25, 0.03, 6.0, 2.0
#: Tokens in one step, and the lengths of rows: a document goes into rows of the first length that holds it.
STEP_TOKENS, LENGTHS = 4096, (256, 512, CONTEXT)


class Attention(nn.Module):
    """Causal self-attention with grouped queries; a document sees only itself where `bias` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.v = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.o = nn.Linear(HEADS * HEAD, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q = _rotate(self.q(x).view(rows, length, HEADS, HEAD), cos, sin).transpose(1, 2)
        k = _rotate(self.k(x).view(rows, length, KV_HEADS, HEAD), cos, sin).transpose(1, 2)
        value = self.v(x).view(rows, length, KV_HEADS, HEAD).transpose(1, 2)
        k = k.repeat_interleave(HEADS // KV_HEADS, 1)
        value = value.repeat_interleave(HEADS // KV_HEADS, 1)
        # Written out: faster on a CPU in bfloat16 than the fused kernel, whose backward pass is slow there.
        weights = ((q * HEAD**-0.5) @ k.transpose(-1, -2) + bias).softmax(-1)
        return self.o((weights.to(value.dtype) @ value).transpose(1, 2).reshape(rows, length, HEADS * HEAD))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE over pairs (i, i + HEAD / 2); export.py reorders them to llama.cpp's. x: (rows, length, heads, HEAD)."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class Block(nn.Module):
    """Attention, then SwiGLU, each on RMSNorm's output and added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.RMSNorm(WIDTH, EPSILON), nn.RMSNorm(WIDTH, EPSILON)
        self.attention = Attention()
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, bias)
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """The model; its output matrix is its embedding."""

    def __init__(self, n_vocab: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_vocab, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, EPSILON)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if deep else 0.02)

    def forward(self, tokens: Tensor, targets: Tensor, weights: Tensor, apart: Tensor) -> Tensor:
        """The weighted sum of the losses. All arguments: (rows, length); `apart` numbers the documents of a row."""
        length = tokens.shape[1]
        angles = torch.arange(length)[:, None] * ROPE_BASE ** (-torch.arange(0, HEAD, 2) / HEAD)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        seen = (apart[:, :, None] == apart[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
        bias = torch.where(seen, 0.0, -1e4)[:, None].to(torch.bfloat16)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin, bias)
        logits = F.linear(self.norm(x), self.embedding.weight)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        return (losses * weights.flatten()).sum()


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal before each step. Without decay the matrices grow until attention is
    so sharp that nothing new is learnt; with it no singular value comes above max(1, √(rows / columns)) / weight_decay.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.2
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(buffer, group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, _orthogonal(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)


def _orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, by five Newton-Schulz steps. (n, rows, columns)"""
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def encode(document: dict[str, Any], vocabulary: Vocabulary) -> tuple[list[int], list[float]]:
    """A document's tokens, and how much each counts as a target."""
    tokens, weights = [vocabulary.number(v.BOS)], [0.0]

    def add(numbers: list[int], weight: float) -> None:
        tokens.extend(numbers)
        weights.extend([weight] * len(numbers))

    def mark(token: str, weight: float = GIVEN_WEIGHT) -> None:
        add([vocabulary.number(token)], weight)

    def answer(numbers: list[int]) -> None:
        add(numbers, ANSWER_WEIGHT / math.sqrt(len(numbers)))

    if "text" in document:
        add(vocabulary.encode(document["text"]), STORY_WEIGHT)
        mark(v.EOS, STORY_WEIGHT)
    elif "lookups" in document:
        add(vocabulary.encode(document["given"]), GIVEN_WEIGHT)
        for key, found in document["lookups"]:
            add(vocabulary.encode(key), GIVEN_WEIGHT)
            add(vocabulary.encode(found), LOOKUP_WEIGHT)
            add(vocabulary.encode("."), GIVEN_WEIGHT)
        mark(v.EOS)
    elif "parts" in document:
        before, after, middle = map(vocabulary.encode, document["parts"])
        for token, numbers in ((v.FIM_PREFIX, before), (v.FIM_SUFFIX, after)):
            mark(token)
            add(numbers, GIVEN_WEIGHT)
        mark(v.FIM_MIDDLE)
        answer([*middle, vocabulary.number(v.EOS)])
    else:
        for role, content in document["turns"]:
            numbers = [*vocabulary.encode(content), vocabulary.number(v.TURN_END)]
            mark(v.TURN)
            add(vocabulary.encode(role + "\n"), GIVEN_WEIGHT)
            if role == "assistant":
                answer(numbers)
            else:
                add(numbers, GIVEN_WEIGHT)
            add(vocabulary.encode("\n"), GIVEN_WEIGHT)
    return tokens, weights


def texts(documents: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Everything that is written in the documents."""
    for document in documents:
        if "turns" in document:
            yield from (content for _, content in document["turns"])
        else:
            yield from document.get("parts", (document.get("text", document.get("given", "")),))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


#: tokens, targets, weights of the targets, numbers of the documents: each (rows, length)
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class Documents:
    """Encoded documents, and rows that are filled with them."""

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        tokens, weights, starts = [], [], [0]
        for document in read(path):
            numbers, counts = encode(document, vocabulary)
            tokens.append(np.array(numbers, dtype=np.int16))
            weights.append(np.array(counts, dtype=np.float16))
            starts.append(starts[-1] + len(numbers))
        self.tokens, self.weights = np.concatenate(tokens), np.concatenate(weights)
        self.starts = np.array(starts)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Endless batches, each with rows of one length; the lengths come as often as their documents have tokens."""
        sizes = np.diff(self.starts)
        shares, sources = [], []
        for below, length in zip((0, *LENGTHS), LENGTHS, strict=False):
            chosen = (sizes > below) & (sizes <= length)
            shares.append(float(sizes[chosen].sum()))
            sources.append(self._filled(np.flatnonzero(chosen).tolist(), length, seed))
        rng = random.Random(seed)
        while True:
            yield next(rng.choices(sources, shares)[0])

    def _filled(self, order: list[int], length: int, seed: int, pool_size: int = 256) -> Iterator[Batch]:
        """Whole documents, shuffled; of those that come next, each row takes the longest that still fits."""
        rng = random.Random(seed)

        def forever() -> Iterator[int]:
            while order:
                rng.shuffle(order)
                yield from order

        indices = forever()
        sizes = np.diff(self.starts)
        pool = sorted(itertools.islice(indices, pool_size), key=sizes.__getitem__)
        while pool:
            n_rows = STEP_TOKENS // length
            tokens, targets, numbers = (np.zeros((n_rows, length), dtype=np.int64) for _ in range(3))
            weights = np.zeros((n_rows, length), dtype=np.float32)
            for row in range(n_rows):
                used = number = 0
                # The first is drawn, so that no document waits for ever.
                place = rng.randrange(len(pool))
                while place >= 0:
                    index = pool.pop(place)
                    size, start, number = sizes[index], self.starts[index], number + 1
                    tokens[row, used : used + size] = self.tokens[start : start + size]
                    targets[row, used : used + size - 1] = self.tokens[start + 1 : start + size]
                    weights[row, used : used + size - 1] = self.weights[start + 1 : start + size]
                    numbers[row, used : used + size] = number
                    used += size
                    bisect.insort(pool, next(indices), key=sizes.__getitem__)
                    place = bisect.bisect_right(pool, length - used, key=sizes.__getitem__) - 1
            yield tuple(map(torch.from_numpy, (tokens, targets, weights, numbers)))  # type: ignore[misc]


def rate(step: int, steps: int, level: float) -> float:
    """The learning rate's factor: up to `level` in 100 steps, then down to 0 in a straight line."""
    return level * min((step + 1) / 100, 1 - step / steps)


def train(
    model: Llama,
    batches: Iterator[Batch],
    vocabulary: Vocabulary,
    path: Path,
    *,
    steps: int,
    begin: int = 0,
    level: float = 1.0,
) -> None:
    """Train from step `begin` on, print how it goes, and write the checkpoint now and then."""
    matrices = [each for name, each in model.named_parameters() if each.ndim == 2 and "embedding" not in name]
    norms = [each for each in model.parameters() if each.ndim != 2]
    groups = [{"params": norms, "weight_decay": 0.0}, {"params": [model.embedding.weight], "weight_decay": 1.0}]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (Muon(matrices, lr=0.02), 0.02),
        (torch.optim.AdamW(groups, lr=0.002, betas=(0.9, 0.95)), 0.002),
    ]
    compiled = torch.compile(model, dynamic=False)
    began, mean = time.time(), 0.0
    for step in range(begin, steps):
        tokens, targets, weights, numbers = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(tokens, targets, weights, numbers) / weights.sum()
        loss.backward()
        total = loss.item()
        for optimizer, lr in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(step, steps, level)
            optimizer.step()
            optimizer.zero_grad()
        mean = total if step == begin else 0.99 * mean + 0.01 * total
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}, loss {mean:.4f}, {time.time() - began:.0f} s", flush=True)
        if (step + 1) % 500 == 0:
            save(model, vocabulary, path, step + 1)
    save(model, vocabulary, path, steps)


def save(model: Llama, vocabulary: Vocabulary, path: Path, step: int) -> None:
    """Weights in float32, the tokens, and how many steps were made."""
    torch.save({"model": model.state_dict(), "tokens": list(vocabulary.tokens), "step": step}, path)


def main() -> None:
    """Learn the vocabulary, encode the text, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=10_500, help=f"of {STEP_TOKENS} tokens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="start", type=Path, metavar="GGUF", help="go on with these weights and tokens")
    parser.add_argument("--level", type=float, default=1.0, help="of the learning rate")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of a run that was stopped")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    begin, model = 0, Llama(VOCABULARY)
    if arguments.resume:
        stored = torch.load(arguments.checkpoint, weights_only=True)
        begin, vocabulary = stored["step"], Vocabulary(tuple(stored["tokens"]))
        model.load_state_dict(stored["model"])
    elif arguments.start is not None:
        from llamacli.builtin import export

        weights, tokens = export.load(arguments.start, model.state_dict())
        vocabulary = Vocabulary(tokens)
        model.load_state_dict(weights)
    else:
        vocabulary = v.learn(texts(itertools.islice(read(arguments.text), VOCABULARY_SAMPLE)), VOCABULARY)
    documents = Documents(arguments.text, vocabulary)
    n_parameters = sum(each.numel() for each in model.parameters())
    print(f"{n_parameters:,} parameters, {len(documents.tokens):,} tokens", flush=True)
    batches = documents.batches(arguments.seed + begin)
    path, steps, level = arguments.checkpoint, arguments.steps, arguments.level
    train(model, batches, vocabulary, path, steps=steps, begin=begin, level=level)


if __name__ == "__main__":
    main()
