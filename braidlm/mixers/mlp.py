"""The MLP, gated or not: a mixer of channels, without memory."""

from __future__ import annotations

from torch import Tensor, nn

from braidlm.arch.mixers import MLPConfig
from braidlm.ops.activation import ACTIVATIONS
from braidlm.ops.rows import Ending, Read, product
from braidlm.ops.scaled import scaled
from braidlm.ops.swiglu import swiglu, swiglu_linear
from braidlm.segments import Segments


class MLP(nn.Module):
    """u = act(m gate) * up if gated, else act(up); the block's projection goes down."""

    compiles = True
    projects_first = True

    def __init__(self, config: MLPConfig, d_model: int) -> None:
        super().__init__()
        self.gated = config.gated
        self.activation_name, self.activation = config.activation, ACTIVATIONS[config.activation]
        self.gate_multiplier = config.gate_multiplier
        self.in_proj = nn.Linear(d_model, config.in_proj_width, bias=config.in_bias)

    def reset_parameters(self, std: float) -> None:
        """Draw the initial weights."""
        nn.init.normal_(self.in_proj.weight, std=std)
        if self.in_proj.bias is not None:
            nn.init.zeros_(self.in_proj.bias)

    def row_parts(self) -> dict[str, tuple[int, ...]]:
        """Name the matrices that lie above each other in one weight, by their rows: gate, up."""
        rows = self.in_proj.out_features
        return {"in_proj.weight": (rows // 2,) * 2 if self.gated else (rows,)}

    def forward(
        self, x: Tensor, segments: Segments | None, state: None, return_state: bool
    ) -> tuple[Tensor, None]:
        """Map x (B, T, d_model) to u (B, T, d_ff); each token by itself."""
        return self.projected(self.in_proj(x), segments, state, return_state)

    def projected(
        self, p: Tensor, segments: Segments | None, state: None, return_state: bool
    ) -> tuple[Tensor, None]:
        """Go on from p, what the input projection gives."""
        if not self.gated:
            return self.activation(p), None
        if self.activation_name == "silu":
            return swiglu(p, self.gate_multiplier), None
        gate, up = p.chunk(2, dim=-1)
        return self.activation(scaled(gate, self.gate_multiplier)) * up, None

    def through(self, x: Tensor, weight: Tensor) -> Tensor | None:
        """`forward` and the product with `weight`^T behind it, without u being kept between them;
        None where there is no such form."""
        if not self.gated or self.activation_name != "silu":
            return None
        return swiglu_linear(self.in_proj(x), weight, self.gate_multiplier)

    def reads_rows(self, is_step: bool, state: None) -> bool:
        """Whether `from_rows` can go on from this state: it has none, and knows no documents."""
        del is_step
        return state is None and self.gate_multiplier == 1.0

    def from_rows(self, read: Read, state: None) -> tuple[Read, None]:
        """Take each row, before its norm, to u (n, d_ff)."""
        ending = Ending(activation=self.activation_name, gated=self.gated)
        return Read(product(read, self.in_proj.weight, self.in_proj.bias, ending)), state
