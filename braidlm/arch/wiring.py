"""How a sublayer is wired to the residual stream: what belongs to a letter, not to its mixer."""

from __future__ import annotations

from typing import Literal

from braidlm.arch.config import Config


class Wiring(Config):
    """Fields of a letter that names a sublayer; a branch of a parallel sublayer has none."""

    norm_position: Literal["pre", "post"] = "pre"
    """pre: x + f(norm(x)); post: x + norm(f(x)), as in OLMo 2 and 3. Default: pre."""


WIRING = tuple(Wiring.model_fields)
"""Names of the fields, which stand beside those of the mixer or of the fusion."""
