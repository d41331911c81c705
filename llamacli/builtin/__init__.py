"""The built-in model. What made it, and how well it does, is in this folder's README."""

from pathlib import Path

#: The weights: a LLaMA of 3.4 million parameters, F16, 7 MB.
TINY = Path(__file__).with_name("tiny.gguf")
