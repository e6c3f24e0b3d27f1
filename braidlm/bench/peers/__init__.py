"""Other libraries' models of the same shapes, where they are installed and have one."""

from __future__ import annotations

from braidlm.bench.contender import Library
from braidlm.bench.peers import fla, mamba_ssm, transformers

LIBRARIES: tuple[Library, ...] = (transformers.LIBRARY, mamba_ssm.LIBRARY, fla.LIBRARY)
"""In the order in which they are asked."""
