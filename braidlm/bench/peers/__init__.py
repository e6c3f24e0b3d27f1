"""Other libraries' models of the same shapes, where they are installed and have one."""

from __future__ import annotations

from braidlm.bench.contender import Library
from braidlm.bench.peers import transformers

LIBRARIES: tuple[Library, ...] = (transformers.LIBRARY,)
"""In the order in which they are asked."""
