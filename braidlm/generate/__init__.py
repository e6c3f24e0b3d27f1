"""Sampling from a model: batches of prompts, explicit states, streams of tokens and of text."""

from braidlm import verb
from braidlm.generate.decode import Sampling, generate, stream_tokens
from braidlm.generate.text import TextStream

verb.make_callable(__name__)

__all__ = ["Sampling", "TextStream", "generate", "stream_tokens"]
