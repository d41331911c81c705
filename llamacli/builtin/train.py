"""Train `tiny` on the text that corpus.py writes: python -m llamacli.builtin.train TEXT.jsonl CHECKPOINT.pt

Needs PyTorch 2.6 or later and numpy. Two cores with bfloat16 arithmetic take about an hour. Matrices are trained by
Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"), the rest by AdamW.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
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
#: How much a token counts in the loss, in the first stage and in the second: of a plain story, of what is given (by
#: user or system), and of an answer of n tokens. In the second stage short answers are not drowned by long ones.
STAGES: tuple[tuple[float, float, Callable[[int], float]], ...] = (
    (0.5, 0.1, lambda n: 1.0),
    (0.25, 0.03, lambda n: 6.0 / math.sqrt(n)),
)
#: Tokens in one step, and the lengths of its rows in the three phases: share of the steps, length, documents apart.
STEP_TOKENS, MICRO_TOKENS = 8192, 4096
PHASES = ((0.9, 256, True), (0.05, 1024, True), (0.05, 1024, False))


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
    """Momentum whose matrix is made orthogonal before each step."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

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


def encode(document: dict[str, Any], vocabulary: Vocabulary, stage: int = 0) -> tuple[list[int], list[float]]:
    """A document's tokens, and how much each counts as a target."""
    tokens, weights = [vocabulary.number(v.BOS)], [0.0]
    story, given, answer = STAGES[stage]

    def add(numbers: list[int], weight: float) -> None:
        tokens.extend(numbers)
        weights.extend([weight] * len(numbers))

    def mark(token: str, weight: float) -> None:
        add([vocabulary.number(token)], weight)

    if "text" in document:
        add(vocabulary.encode(document["text"]), story)
        mark(v.EOS, story)
    elif "parts" in document:
        before, after, middle = map(vocabulary.encode, document["parts"])
        for token, numbers in ((v.FIM_PREFIX, before), (v.FIM_SUFFIX, after)):
            mark(token, given)
            add(numbers, given)
        mark(v.FIM_MIDDLE, given)
        add([*middle, vocabulary.number(v.EOS)], answer(len(middle) + 1))
    else:
        for role, content in document["turns"]:
            numbers = [*vocabulary.encode(content), vocabulary.number(v.TURN_END)]
            mark(v.TURN, given)
            add(vocabulary.encode(role + "\n"), given)
            add(numbers, answer(len(numbers)) if role == "assistant" else given)
            add(vocabulary.encode("\n"), given)
    return tokens, weights


def texts(documents: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Everything that is written in the documents."""
    for document in documents:
        if "turns" in document:
            yield from (content for _, content in document["turns"])
        else:
            yield from document.get("parts", (document.get("text", ""),))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


class Documents:
    """Encoded documents, and rows that are filled with them."""

    def __init__(self, path: Path, vocabulary: Vocabulary, stage: int = 0) -> None:
        tokens, weights, starts = [], [], [0]
        for document in read(path):
            numbers, counts = encode(document, vocabulary, stage)
            tokens.append(np.array(numbers, dtype=np.int16))
            weights.append(np.array(counts, dtype=np.float16))
            starts.append(starts[-1] + len(numbers))
        self.tokens, self.weights = np.concatenate(tokens), np.concatenate(weights)
        self.starts = starts

    def batches(self, length: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Endless (tokens, targets, weights, document numbers), each (rows, length): whole documents, shuffled.

        Longer documents are left out.
        """
        rng = random.Random(seed)
        n_rows, row = MICRO_TOKENS // length, 0
        batch = self._empty(n_rows, length)
        used, number = 0, 0
        order = list(range(len(self.starts) - 1))
        while True:
            rng.shuffle(order)
            for index in order:
                start, end = self.starts[index], self.starts[index + 1]
                if end - start > length:
                    continue
                if used + end - start > length:
                    row, used, number = row + 1, 0, 0
                    if row == n_rows:
                        yield tuple(map(torch.from_numpy, batch))  # type: ignore[misc]
                        row, batch = 0, self._empty(n_rows, length)
                number += 1
                place = slice(used, used + end - start)
                batch[0][row, place] = self.tokens[start:end]
                batch[1][row, used : used + end - start - 1] = self.tokens[start + 1 : end]
                batch[2][row, used : used + end - start - 1] = self.weights[start + 1 : end]
                batch[3][row, place] = number
                used += end - start

    @staticmethod
    def _empty(rows: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.zeros((rows, length), dtype=np.int64),
            np.zeros((rows, length), dtype=np.int64),
            np.zeros((rows, length), dtype=np.float32),
            np.zeros((rows, length), dtype=np.int64),
        )


def rate(step: int, steps: int, level: float) -> float:
    """The learning rate's factor: up to `level` in 200 steps; 1 then holds until the last 45 %; all go down to 0."""
    return level * min(1.0, (step + 1) / 200, (steps - step) / (0.45 * steps if level == 1.0 else steps))


def train(
    model: Llama,
    documents: Documents,
    vocabulary: Vocabulary,
    path: Path,
    *,
    steps: int,
    stop: int,
    level: float,
    seed: int,
) -> None:
    """Train, print how it goes, and write the checkpoint now and then."""
    print(
        f"{sum(each.numel() for each in model.parameters()):,} parameters, {len(documents.tokens):,} tokens", flush=True
    )
    matrices = [each for name, each in model.named_parameters() if each.ndim == 2 and "embedding" not in name]
    others = [each for name, each in model.named_parameters() if each.ndim != 2 or "embedding" in name]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (Muon(matrices, lr=0.02), 0.02),
        (torch.optim.AdamW(others, lr=0.004, betas=(0.9, 0.95), weight_decay=0.0), 0.004),
    ]
    compiled = torch.compile(model, dynamic=False)
    began, step, mean = time.time(), 0, 0.0
    for phase, (share, length, apart) in enumerate(PHASES):
        batches = documents.batches(length, seed + phase)
        for _ in range(min(round(share * steps), stop - step)):
            micros = list(itertools.islice(batches, STEP_TOKENS // MICRO_TOKENS))
            counted = float(sum(micro[2].sum() for micro in micros))
            total = 0.0
            for tokens, targets, weights, numbers in micros:
                if not apart:
                    numbers = torch.zeros_like(numbers)
                with torch.autocast("cpu", torch.bfloat16):
                    loss = compiled(tokens, targets, weights, numbers) / counted
                loss.backward()
                total += loss.item()
            for optimizer, lr in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr * rate(step, steps, level)
                optimizer.step()
                optimizer.zero_grad()
            mean = total if step == 0 else 0.98 * mean + 0.02 * total
            step += 1
            if step % 50 == 0:
                print(f"step {step}/{steps}, loss {mean:.4f}, {time.time() - began:.0f} s", flush=True)
            if step % 500 == 0:
                save(model, vocabulary, path)
    save(model, vocabulary, path)


def save(model: Llama, vocabulary: Vocabulary, path: Path) -> None:
    """Weights in float32 and the tokens."""
    torch.save({"model": model.state_dict(), "tokens": list(vocabulary.tokens)}, path)


def main() -> None:
    """Learn the vocabulary, encode the text, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--from", dest="start", type=Path, help="a checkpoint of the first stage: train the second")
    parser.add_argument("--steps", type=int, default=6000, help=f"of {STEP_TOKENS} tokens")
    parser.add_argument("--stop", type=int, help="end after so many steps of the schedule")
    parser.add_argument("--level", type=float, default=1.0, help="of the learning rate")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    if arguments.start is None:
        stage, vocabulary = 0, v.learn(texts(itertools.islice(read(arguments.text), VOCABULARY_SAMPLE)), VOCABULARY)
        model = Llama(VOCABULARY)
    else:
        stored = torch.load(arguments.start, weights_only=True)
        stage, vocabulary = 1, Vocabulary(tuple(stored["tokens"]))
        model = Llama(len(vocabulary.tokens))
        model.load_state_dict(stored["model"])
    stop = arguments.stop or arguments.steps
    documents = Documents(arguments.text, vocabulary, stage)
    level = arguments.level
    path, seed = arguments.checkpoint, arguments.seed + stage
    train(model, documents, vocabulary, path, steps=arguments.steps, stop=stop, level=level, seed=seed)


if __name__ == "__main__":
    main()
