"""How much an output depends on the input d tokens before it: norms of Jacobians, and nudges.

For a causal map x (1, T, D) -> u (1, T, E) and one output token t::

    I(d)^2 = || d u_t / d x_{t-d} ||_F^2 = sum_e || d u_{t,e} / d x_{t-d} ||^2
           = E_p || d (p . u_t) / d x_{t-d} ||^2          p_e = -1 or 1, each as likely
           = lim D E_n || u_t(x + n at t-d) - u_t(x) ||^2 / || n ||^2       small normal n

The first line takes E vector-Jacobian products and is exact; the second is unbiased for any number
of random probes p; the third needs no gradient and, with n as large as x, tells of finite changes.

Source: Hutchinson 1989 (the trace of J J^T by random signs); Jacobian norms as a measure of memory:
    Pascanu, Mikolov and Bengio 2013 (arXiv 1211.5063).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Causal = Callable[[Tensor], Tensor]
"""x (1, T, D) -> u (1, T, E)."""


def squared_by_probe(
    function: Causal, x: Tensor, n_probes: int, generator: torch.Generator
) -> Tensor:
    """Return estimates of I(d)^2 for the last output token, one per probe.

    Args:
        function: causal and differentiable.
        x: (1, T, D).
        n_probes: vector-Jacobian products. From E on the result is exact: one row, no error.
        generator: of the random signs, on the CPU.

    Returns:
        (n_probes or 1, T): column d is of the input d tokens before the last.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        u = function(x)[0, -1]
        probes = _probes(len(u), n_probes, generator).to(u)
        last = len(probes) - 1
        squares = [
            torch.autograd.grad(u, x, p, retain_graph=i < last)[0][0].double().square().sum(-1)
            for i, p in enumerate(probes)
        ]
    found = torch.stack(squares).flip(-1).cpu()
    return found.sum(0, keepdim=True) if n_probes >= len(u) else found


def _probes(width: int, n: int, generator: torch.Generator) -> Tensor:
    if n >= width:
        return torch.eye(width)
    return 2.0 * torch.randint(2, (n, width), generator=generator) - 1


@torch.no_grad()
def squared_by_nudge(
    function: Causal,
    x: Tensor,
    distances: Sequence[int],
    n_probes: int,
    generator: torch.Generator,
    size: float = 1.0,
) -> Tensor:
    """Return D || u_t(x + n at t-d) - u_t(x) ||^2 / || n ||^2 of the last output token t.

    Args:
        function: causal.
        x: (1, T, D).
        distances: d, each below T.
        n_probes: random n for each distance.
        generator: of n, on the CPU.
        size: root mean square of n's entries over that of x's.

    Returns:
        (n_probes, len(distances)) float64. What is below about 1e-7 / size of u is rounding.
    """
    clean, width = function(x)[0, -1], x.shape[-1]
    scale = size * float(x.square().mean().sqrt())
    found = torch.empty(n_probes, len(distances), dtype=torch.float64)
    for column, distance in enumerate(distances):
        for row in range(n_probes):
            nudge = scale * torch.randn(width, generator=generator, dtype=torch.float64).to(x)
            other = x.clone()
            other[0, -1 - distance] += nudge
            change = (function(other)[0, -1] - clean).double().square().sum()
            found[row, column] = float(width * change / nudge.double().square().sum())
    return found


def half_distance(squares: Tensor) -> float:
    """Return the d within which half of sum_{d >= 1} I(d)^2 lies, of squares (T,); nan for none."""
    past = squares[1:].cumsum(0)
    if len(past) == 0 or not float(past[-1]) > 0:
        return float("nan")
    return float((past < past[-1] / 2).sum() + 1)
