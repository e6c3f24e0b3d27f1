"""The one table of tolerances. Each was measured, then sealed a little above."""

EXACT_FP64 = 1e-9
"""Largest absolute difference of two fp64 forms, outputs and gradients (seen: 1e-11)."""
FORMS_FP64 = {"rtol": 1e-9, "atol": EXACT_FP64}
"""For `torch.testing.assert_close` of two fp64 forms."""
FORMS_FP32 = {"rtol": 1e-4, "atol": 1e-4}
"""For two fp32 forms of one operator on inputs of unit scale (seen: 2e-5)."""
BF16_L2 = {
    "ssd": 1.5e-2,
    "conv": 4e-3,
    "attention": 5e-3,
    "rms_norm": 3e-3,
    "gated_rms_norm": 3e-3,
    "rope": 3e-3,
    "loss": 6e-3,
}
"""Largest relative L2 error against fp64 of any result or gradient, inputs quantised first."""
