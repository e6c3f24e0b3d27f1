"""The gated delta rule beside the torch functions of transformers, one call after the other.

On a CPU it is process time on one thread, so that other work on the machine does not count. Each
round runs theirs and ours once; a ratio is taken inside a round, and the median over rounds is
printed. Results are compared before anything is timed. The last line is one JSON object.

python benchmarks/gated_delta_against_transformers.py --kind gated_deltanet --length 2048
python benchmarks/gated_delta_against_transformers.py --kind kda --length 512 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.kimi_linear import modeling_kimi_linear
from transformers.models.qwen3_next import modeling_qwen3_next

from braidlm.ops.gated_delta import gated_delta


def inputs(args: argparse.Namespace) -> list[Tensor]:
    """q, k, v, g, beta, with gradients."""
    rows, heads = (args.batch, args.length), args.heads
    q, k = F.normalize(torch.randn(2, *rows, heads, args.head_dim), dim=-1)
    v = torch.randn(*rows, heads, args.v_head_dim)
    channels = (args.head_dim,) if args.kind == "kda" else ()
    g, beta = -0.2 * torch.rand(*rows, heads, *channels), torch.rand(*rows, heads)
    return [x.clone().requires_grad_() for x in (q, k, v, g, beta)]


def theirs_of(kind: str) -> Callable[..., Tensor]:
    """The chunked function of transformers."""
    if kind == "kda":
        function: Any = modeling_kimi_linear.chunk_kimi_delta_attention
    else:
        function = modeling_qwen3_next.torch_chunk_gated_delta_rule
    return lambda *given: function(*given, initial_state=None, output_final_state=False)[0]


def ours(*given: Tensor) -> Tensor:
    """The same by us."""
    return gated_delta(*given, return_state=False)[0]


def timed(call: Callable[..., Tensor], given: list[Tensor]) -> tuple[float, float]:
    """Seconds of a forward pass without gradients, and of forward and backward."""
    times = [time.process_time()]
    with torch.no_grad():
        call(*given)
    times.append(time.process_time())
    torch.autograd.grad(call(*given).sum(), given)
    times.append(time.process_time())
    return times[1] - times[0], times[2] - times[1]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Print a line per pass, and the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("gated_deltanet", "kda"), default="gated_deltanet")
    for name, default in (("batch", 1), ("length", 2048), ("heads", 4), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--v-head-dim", type=int, default=128)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given, theirs = inputs(args), theirs_of(args.kind)
    with torch.no_grad():
        torch.testing.assert_close(ours(*given), theirs(*given), rtol=1e-3, atol=1e-4)
    rounds = [(timed(theirs, given), timed(ours, given)) for _ in range(args.rounds + 1)][1:]
    card: dict[str, Any] = vars(args) | {"torch": torch.__version__, "dtype": "float32"}
    for i, name in enumerate(("forward", "both")):
        pairs = [(a[i], b[i]) for a, b in rounds]
        card[f"{name}_theirs_sec"], card[f"{name}_ours_sec"] = map(min, zip(*pairs, strict=True))
        card[f"{name}_times_faster"] = statistics.median(a / b for a, b in pairs)
        print(
            f"{name}: theirs {1e3 * card[f'{name}_theirs_sec']:.1f} ms, "
            f"ours {1e3 * card[f'{name}_ours_sec']:.1f} ms, "
            f"{card[f'{name}_times_faster']:.2f} times faster"
        )
    print(json.dumps(card))
    return card


if __name__ == "__main__":
    main()
