"""Every way to fuse the two branches of {M*}: what it costs, and twenty steps of each.

All fusions read the same branches; they differ in parameters, in FLOPs, and in whether they keep a
KV cache of their own, so a fair comparison has to see all three. Twenty steps on one batch rank
nothing: for a comparison with seeds and error bars, use `braid study`.
"""

from typing import Any

import torch

from braidlm import HybridLM, Spec
from braidlm.arch.cost import cost

FUSIONS = {
    "mean": {"combine": "mean"},
    "mean, joint": {"combine": "mean", "projection": "joint"},
    "scaled add": {"combine": "add", "scale": "learned"},
    "subtract": {"combine": "subtract", "norm": "group"},
    "concat": {"combine": "concat"},
    "gate": {"combine": "gate"},
    "gate per token": {"combine": "gate", "gate": "token"},
    "cross-attention": {"combine": "cross_attention"},
    "cross, SSM asks": {"combine": "cross_attention", "cross": {"query": "recurrent"}},
    "merge-attention": {"combine": "merge_attention"},
}
CONTEXT = 32


def declare(fusion: dict[str, Any]) -> Spec:
    """Declare two parallel sublayers of equal branches, with this fusion."""
    return Spec.of(
        {
            "pattern": "({M*}-)2",
            "d_model": 64,
            "vocab_size": 64,
            "mixers": {
                "M": {"expand": 1, "head_dim": 16, "d_state": 16},
                "*": {"head_dim": 16},
                "-": {"d_ff": 128},
            },
            "fusion": fusion,
        }
    )


def losses(spec: Spec, steps: int = 20) -> list[float]:
    """Train on one fixed batch; return every step's loss in nats."""
    torch.manual_seed(0)
    model = HybridLM(spec)
    row = torch.randint(spec.vocab_size, (4, CONTEXT + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    found = []
    for _ in range(steps):
        loss = model.loss(row[:, :-1], row[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def main() -> None:
    """Print one row per fusion."""
    torch.set_num_threads(1)
    print(f"{'fusion':16} {'parameters':>10} {'train/token':>14} {'KV/token':>9}   loss")
    for name, fusion in FUSIONS.items():
        spec = declare(fusion)
        c = cost(spec, CONTEXT)
        found = losses(spec)
        print(
            f"{name:16} {c.n_params:10,} {c.training_flops_per_token:8,} FLOP "
            f"{c.kv_bytes_per_token:7,} B   {found[0]:.2f} -> {found[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
