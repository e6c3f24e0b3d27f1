"""What a recurrent state holds: its effective rank, its size, and what a linear map reads from it.

Effective rank of a matrix with singular values s: exp(H(s / sum s)), H the entropy in nats; 1 for
rank one, n for n equal ones. Source: Roy and Vetterli 2007, "The effective rank".

Linear read-out: n prompts show the same K keys in random order, each with a random one of V values.
For every key, ridge regression maps the flattened state to the key's value, as one-hot vectors less
their mean; the largest of V outputs is the guess. Its penalty is the best of a grid by the exact
leave-one-out error of the training prompts. Pairs that are recovered, chance taken away::

    recovered = sum_k (accuracy_k - 1/V) / (1 - 1/V)                    0 .. K pairs

A linear map of few prompts finds less than is there: read it as a lower bound.

Source: linear probes, Alain and Bengio 2016 (arXiv 1610.01644); leave-one-out of ridge regression:
    Golub, Heath and Wahba 1979.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PENALTIES = tuple(10.0**k for k in range(-6, 3))
"""Of ridge regression, times the mean of the features' squared lengths."""


def effective_rank(matrices: Tensor) -> Tensor:
    """Return exp of the entropy of the normalised singular values of (..., P, N); nan for zeros."""
    s = torch.linalg.svdvals(matrices.double())
    p = s / s.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def heads_of(memory: Tensor) -> Tensor:
    """Return a state's matrix part as (n_docs, n_heads, P, N); one of Mamba-1 is a single head."""
    return memory if memory.dim() == 4 else memory[:, None]


class ReadOut(NamedTuple):
    """What a linear map found of each held-out prompt."""

    hits: Tensor
    """(n_test, K) float64: whether each key's value was guessed."""
    n_values: int

    @property
    def recovered(self) -> Tensor:
        """(n_test,): pairs recovered of each prompt, see the formula above; below 0 by bad luck."""
        chance = 1 / self.n_values
        return ((self.hits - chance) / (1 - chance)).sum(1)


def read_out(
    train: Tensor, train_values: Tensor, test: Tensor, test_values: Tensor, n_values: int
) -> ReadOut:
    """Fit the read-out on some prompts' states and try it on others.

    Args:
        train: (n, F) flattened states.
        train_values: (n, K) int64: the value of each key, 0 .. n_values - 1.
        test: (m, F).
        test_values: (m, K).
        n_values: V.
    """
    mean, scale = train.mean(0), train.std().clamp_min(1e-30)
    x, y = ((part - mean) / scale for part in (train, test))
    gram, cross = (x @ x.T).double(), (y @ x.T).double()
    wanted = torch.nn.functional.one_hot(train_values, n_values).double()  # (n, K, V)
    centre = wanted.mean(0)
    targets = (wanted - centre).flatten(1)
    duals = _best(gram, targets)
    guessed = ((cross @ duals).unflatten(1, centre.shape) + centre).argmax(-1)
    return ReadOut((guessed == test_values).double(), n_values)


def _best(gram: Tensor, targets: Tensor) -> Tensor:
    """Dual weights (n, outputs) under the penalty with the least leave-one-out error.

    With H = G (G + l)^-1 the error of row i, left out, is (Y - H Y)_i / (1 - H_ii).
    """
    values, vectors = torch.linalg.eigh(gram)
    values, turned = values.clamp_min(0), vectors.T @ targets
    best, least = turned, float("inf")
    for penalty in PENALTIES:
        lam = max(penalty * float(values.mean()), 1e-12)
        kept = lam / (values + lam)  # of 1 - H
        left = (vectors.square() * kept).sum(1, keepdim=True).clamp_min(1e-12)
        error = float((vectors @ (kept[:, None] * turned) / left).square().sum())
        if error < least:
            best, least = vectors @ (turned / (values + lam)[:, None]), error
    return best
