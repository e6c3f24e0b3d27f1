"""How a sublayer is wired to the residual stream: what belongs to a letter, not to its mixer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from braidlm.arch.config import Config


class Wiring(Config):
    """Fields of a letter that names a sublayer; a branch of a parallel sublayer has none."""

    norm_position: Literal["pre", "post"] = "pre"
    """pre: x + f(norm(x)); post: x + norm(f(x)), as in OLMo 2 and 3. Default: pre."""
    input: Literal["hidden", "hidden+embedding", "handed"] = "hidden"
    """What is read: the stream; stream and embedded tokens beside each other, 2 d_model wide
    (Zamba); or what the sublayer before has handed on. Default: hidden."""
    output: Literal["residual", "next_input"] = "residual"
    """Where the result goes: into the stream; or to the next sublayer, which reads the sum of
    stream and result while the stream stays as it is (Zamba). Default: residual."""
    shared: bool = False
    """Whether all uses of the letter have one set of weights, each with its own state (Zamba)."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of what each use of a shared letter adds to its input projections (Zamba2). 0: none."""
    use_projection: bool = False
    """Whether each use of a shared letter has a matrix (d_model, d_model) of its own behind the
    output projection (Zamba). Default: false."""


WIRING = tuple(Wiring.model_fields)
"""Names of the fields, which stand beside those of the mixer or of the fusion."""
PLAIN = Wiring()
