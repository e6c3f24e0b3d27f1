"""GGUF, the file form of llama.cpp: what a file says, its tensors as floats, its tokenizer."""

from braidlm.gguf.header import Header, read_header

__all__ = ["Header", "read_header"]
