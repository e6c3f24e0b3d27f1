"""Declare four 24-sublayer models in one line each and compare what they cost. No torch needed.

The last column is why hybrids exist: what one sequence keeps in memory at 32,768 tokens. Prints a
table, then the difference that one changed field makes, then how a mistake is answered.
"""

import sys

from braidlm.arch import Spec, allocate
from braidlm.arch.cost import cost
from braidlm.errors import InputError

CONTEXT = 32_768
MODELS = {
    "transformer": "(*-)12",
    "one in six": allocate.interleave(12, 2, "middle"),
    "parallel at two": allocate.at_layers(12, (3, 9), special="{M*}"),
    "pure mamba-2": "(M-)12",
}


def show(name: str, spec: Spec) -> None:
    """Print one model's row."""
    c = cost(spec, CONTEXT)
    print(
        f"{name:16} {c.n_params / 1e6:9.1f} M {c.training_flops_per_token / 1e9:9.2f} GFLOP "
        f"{c.kv_bytes_per_token:8,} B {c.cache_bytes / 2**20:9.1f} MiB   {spec.pattern}"
    )


def main() -> None:
    """Compare the models."""
    print(f"{'model':16} {'parameters':>11} {'train/token':>15} {'KV/token':>10} {'cache':>13}")
    for name, pattern in MODELS.items():
        show(name, Spec.parse(pattern, d_model=768, vocab_size=32_000))

    few_heads = {"pattern": "(*-)12", "d_model": 768, "mixers": {"*": {"n_kv_heads": 2}}}
    show("2 kv heads", Spec.of(few_heads))

    try:
        Spec.of({"pattern": "M-*-", "mixers": {"M": {"d_sate": 64}}})
    except InputError as error:
        print(f"\na mistake is answered: {error}")
    print(f"torch was imported: {'torch' in sys.modules}")


if __name__ == "__main__":
    main()
