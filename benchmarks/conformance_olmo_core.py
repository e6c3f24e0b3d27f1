"""The laws over one mixer of another library: `NemotronMamba2Mixer` of ai2-olmo-core 3.0.0.

    pip download --no-deps ai2-olmo-core==3.0.0
    unzip ai2_olmo_core-3.0.0-py3-none-any.whl 'olmo_core/nn/attention/recurrent.py'
    python benchmarks/conformance_olmo_core.py olmo_core/nn/attention/recurrent.py

Only the mixer's own classes and functions are read from the file, so that none of the library's
dependencies is needed. It stands between an embedding and a head; `Subject` is all that a law asks
for. The mixer has no cache, so that the laws of one call are held: causality, chunks, batch,
packed. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm import conform
from braidlm.laws.lively import enliven
from braidlm.laws.subject import Account, Drawn, NotApplicableError, rechunked

WANTED = {
    "_copy_into_tensor_or_dtensor",
    "_pad_tensor_by_size",
    "_reshape_into_chunks",
    "_segment_sum",
    "NemotronRMSNormGated",
    "NemotronMamba2Mixer",
}
LAWS = ["causality", "chunks", "batch", "packed"]
SIZES = {
    "d_model": 16,
    "ssm_state_size": 7,
    "conv_kernel": 4,
    "mamba_num_heads": 6,
    "mamba_head_dim": 5,
    "n_groups": 3,
}
STEPS = {"time_step_min": 0.001, "time_step_max": 0.1, "time_step_floor": 1e-4}


def mixer_class(path: Path) -> Any:
    """Return the mixer's class, made from its part of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [x for x in tree.body if getattr(x, "name", None) in WANTED]
    if len(parts) != len(WANTED):
        raise SystemExit(f"{path} lacks a part of the mixer")
    future = ast.parse("from __future__ import annotations").body
    module = ast.Module(body=[*future, *parts], type_ignores=[])
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "math": math, "DTensor": ()}
    names |= {"SequenceMixer": nn.Module, "Optional": Optional, "Any": Any}
    exec(compile(module, str(path), "exec"), names)
    return names["NemotronMamba2Mixer"]


class Model(nn.Module):
    """Embedding, the mixer in a residual stream, head."""

    def __init__(self, mixer: Any, chunk_size: int) -> None:
        super().__init__()
        settings = {**SIZES, **STEPS, "chunk_size": chunk_size, "layer_idx": 0}
        others = {"use_conv_bias": True, "use_bias": False, "layer_norm_epsilon": 1e-5}
        self.embedding = nn.Embedding(37, SIZES["d_model"])
        self.mixer = mixer(**settings, **others, dtype=torch.float32)
        self.head = nn.Linear(SIZES["d_model"], 37, bias=False)

    def forward(self, tokens: Tensor, **documents: Any) -> Tensor:
        """Return logits (B, T, 37)."""
        hidden = self.embedding(tokens)
        return self.head(hidden + self.mixer(hidden, **documents))


class OlmoSubject:
    """What a law asks of the model."""

    continues_right_padding = False
    vocab_size = 37
    device = torch.device("cpu")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = "ai2-olmo-core NemotronMamba2Mixer"
        self.span = model.mixer.chunk_size

    def __call__(
        self, tokens: Tensor, mask: Tensor | None = None, cache: Any = None, keep: bool = True
    ) -> tuple[Tensor, Any]:
        """Run all tokens; there is no cache."""
        return self.model(tokens), None

    def pack(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Give the boundaries as the library's own recurrent layers take them."""
        bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        return self.model(tokens, cu_doc_lens=torch.tensor(bounds, dtype=torch.int32))

    def rechunked(self, chunk_size: int) -> Self:
        """Return a copy with other chunks."""
        return type(self)(rechunked(self.model, chunk_size))

    def typed(self, dtype: torch.dtype) -> Self:
        """Return a copy in another dtype."""
        return type(self)(copy.deepcopy(self.model).to(dtype))

    def drawn(self, seed: int) -> Iterator[Drawn]:
        """Say nothing of initial values."""
        raise NotApplicableError("not asked")

    def accounts(self, n_tokens: int) -> Iterator[Account]:
        """Say nothing of sizes."""
        raise NotApplicableError("not asked")


def main() -> None:
    """Print a line per law, then the report as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--chunk-size", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Model(mixer_class(options.file), options.chunk_size)
    enliven(model)
    report = conform.check(OlmoSubject(model), laws=LAWS)
    for verdict in report.verdicts:
        print(conform.sentence(verdict))
    print(json.dumps(report.to_dict()))


if __name__ == "__main__":
    main()
