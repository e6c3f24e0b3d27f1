"""Sampling from a model: batches of prompts, explicit states, streams of tokens and of text."""

from braidlm.generate.compiled import CompiledStep
from braidlm.generate.decode import generate, stream_tokens
from braidlm.generate.filters import Sampling
from braidlm.generate.graph import GraphStep, step_for
from braidlm.generate.text import TextStream

__all__ = [
    "CompiledStep",
    "GraphStep",
    "Sampling",
    "TextStream",
    "generate",
    "step_for",
    "stream_tokens",
]
