"""Declaration of how rotary frequencies are stretched for contexts beyond the trained one."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config

OF_YARN = ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim")


class RopeScaling(Config):
    """How rotary frequencies are stretched beyond the trained length.

    Source: linear: Chen et al. (arXiv 2306.15595); llama3: the published Llama 3.1 model; yarn:
        Peng et al. (arXiv 2309.00071), sections 3.2 to 3.4.
    """

    kind: Literal["linear", "llama3", "yarn"] = "linear"
    """linear divides all frequencies by `factor`; llama3 and yarn only the low ones, smoothly."""
    factor: float = Field(gt=0)
    """Stretch, e.g. 32 for Llama 3.2."""
    low_freq_factor: float = Field(default=1.0, gt=0)
    """llama3: wavelengths longer than original_length / this are divided by `factor`."""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """llama3: wavelengths shorter than original_length / this stay as they are."""
    original_length: int = Field(default=8192, gt=0)
    """llama3, yarn: tokens of context of the original training."""
    beta_fast: float = Field(default=32.0, gt=0)
    """yarn: channels that turn more often than this in original_length stay as they are."""
    beta_slow: float = Field(default=1.0, gt=0)
    """yarn: channels that turn less often than this in original_length are divided by `factor`."""
    truncate: bool = True
    """yarn: whether the two bounds are rounded outwards to whole channels. Default: true."""
    attention_factor: float | None = Field(default=None, gt=0)
    """yarn: factor on rotated queries and keys. Default: 0.1 ln(factor) + 1, or by `mscale`."""
    mscale: float | None = Field(default=None, gt=0)
    """yarn: the factor is (0.1 mscale ln(factor) + 1) / (0.1 mscale_all_dim ln(factor) + 1)."""
    mscale_all_dim: float | None = Field(default=None, gt=0)
    """yarn: of the divisor (DeepSeek-V3, 1 like its mscale). Default: none, as `mscale`."""

    @model_validator(mode="after")
    def _bands_are_ordered(self) -> Self:
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            if getattr(self, high) <= getattr(self, low):
                raise ValueError(
                    f"{high} = {getattr(self, high)}: must be greater than "
                    f"{low} = {getattr(self, low)}"
                )
        return self

    @model_validator(mode="after")
    def _yarns_fields_are_its_own(self) -> Self:
        usual = type(self).model_fields
        for name in OF_YARN:
            if self.kind != "yarn" and getattr(self, name) != usual[name].default:
                raise ValueError(f"{name} = {getattr(self, name)}: belongs to kind = 'yarn'")
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError(f"mscale = {self.mscale}: must be given together with mscale_all_dim")
        if self.attention_factor is not None and self.mscale is not None:
            raise ValueError(
                f"attention_factor = {self.attention_factor}: give it or mscale, not both"
            )
        return self

    @property
    def magnitude(self) -> float:
        """Factor on rotated channels of queries and of keys; only yarn has another than 1."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return self._growth(self.mscale or 1.0) / self._growth(self.mscale_all_dim or 0.0)

    def _growth(self, scale: float) -> float:
        return 0.1 * scale * math.log(max(self.factor, 1.0)) + 1.0

    def check_base(self, theta: float) -> None:
        """Refuse a base whose channels cannot be told apart by their turns.

        Raises:
            ValueError: naming it.
        """
        if self.kind == "yarn" and theta <= 1:
            raise ValueError(f"rope_theta = {theta}: must be greater than 1 with yarn")
