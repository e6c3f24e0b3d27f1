"""Latent attention over a cache by absorption and by expansion: process time on one thread.

python benchmarks/latent_forms.py --entries 2048
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from braidlm.ops.attention import KVCache
from braidlm.ops.latent import latent_attention

N_HEADS, RANK, SHARED, OWN, VALUE = 8, 512, 64, 128, 128
"""DeepSeek-V3's sizes, with a sixteenth of its heads."""
QUERIES = (1, 16, 64, 128, 157, 192, 256, 512)


def milliseconds(n_new: int, n_entries: int, impl: str, rounds: int) -> float:
    """The median of `rounds` calls of `n_new` tokens over a cache of `n_entries`, after one."""
    width = RANK + SHARED
    q = torch.randn(1, n_new, N_HEADS, OWN + SHARED)
    latent = torch.randn(1, n_new, width)
    up = torch.randn(N_HEADS * (OWN + VALUE), RANK) * RANK**-0.5
    held = torch.randn(1, n_entries + n_new, 1, width)
    cache = KVCache(held, held[..., :0], torch.tensor([n_entries]))
    times = []
    with torch.no_grad():
        for _ in range(rounds + 1):
            start = time.process_time()
            latent_attention(q, latent, up, rank=RANK, cache=cache, impl=impl)
            times.append(time.process_time() - start)
    return 1e3 * statistics.median(times[1:])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=2048, help="tokens that the cache holds")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| new tokens | absorb, ms | expand, ms |\n|---|---|---|")
    for n_new in QUERIES:
        absorb, expand = (
            milliseconds(n_new, args.entries, impl, args.rounds) for impl in ("absorb", "expand")
        )
        print(f"| {n_new} | {absorb:.1f} | {expand:.1f} |")


if __name__ == "__main__":
    main()
