"""The one table of tolerances. Each was measured, then sealed a little above."""

from typing import NamedTuple


class Tolerance(NamedTuple):
    """Two numbers a, b agree if |a - b| <= atol + rtol * |b|."""

    rtol: float
    atol: float


FORMS_FP64 = Tolerance(rtol=1e-9, atol=1e-9)
"""Two fp64 forms of one operator, outputs and gradients (seen: 1e-11)."""
FORMS_FP32 = Tolerance(rtol=1e-4, atol=1e-4)
"""Two fp32 forms of one operator, or fp32 and fp64, on inputs of unit scale (seen: 2e-5)."""
EXACT = Tolerance(rtol=0.0, atol=0.0)
"""Bit by bit."""
BF16_L2 = {
    "ssd": 1.5e-2,
    "selective_scan": 5e-3,
    "conv": 4e-3,
    "attention": 5e-3,
    "attention options": 6.5e-3,
    "sink logit": 2e-2,
    "latent attention": 5e-3,
    "rms_norm": 3e-3,
    "gated_rms_norm": 3e-3,
    "gated_delta": 4e-3,
    "rope": 3e-3,
    "loss": 6e-3,
}
"""Largest relative L2 error against fp64 of any result or gradient, inputs quantised first."""
MODEL_BF16 = 2.5e-2
"""Largest relative L2 error of a small model's hidden states and states, bf16 autocast against
fp32 (seen: 2.0e-2, six models, 12 seeds each)."""
SSD_TRITON = 5e-5
"""Relative L2 error of SSD's Triton kernels in fp32 against fp64, any result or gradient (seen:
1.6e-5, the gradient of A)."""
GATED_DELTA_TRITON = 3e-5
"""The same of the gated delta rule's kernels (seen under the interpreter: 1.2e-5, the gradient of
the decays where one key comes again and again). In bf16 on an H200 at most 3.8e-3 was seen."""
TRITON_SMALL = 2e-6
"""The same of the kernels of norms and of the loss."""
SCAN_TRITON = 1e-5
"""The same of the kernels of the selective scan (seen: 3.1e-7 under the interpreter, 9.4e-7 on a
GPU, the gradient of A at 300 tokens)."""
