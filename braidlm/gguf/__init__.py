"""GGUF, the file form of llama.cpp: what a file says, its tensors as floats, its tokenizer."""

from braidlm.gguf.header import SUFFIX, Header, is_gguf, read_header

__all__ = ["SUFFIX", "Header", "is_gguf", "read_header"]
