"""A `HybridLM` under judgement."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm import state as states
from braidlm.arch import Spec
from braidlm.arch.cost import cost, executed_matmul_flops
from braidlm.arch.mixers import BMojoFConfig, MixerConfig
from braidlm.checkpoint import cast_weights
from braidlm.laws.flops import UNKNOWN_TO_TORCH
from braidlm.laws.subject import Account, Drawn, NotApplicableError, rechunked
from braidlm.model import HybridLM
from braidlm.segments import Segments

ATTENTION_SPAN = 16
"""What lengths are laid around where a model has neither chunks nor windows."""
SHORTEST_SPAN = 4
"""A window of one token still needs sequences that can be cut."""


class HybridSubject:
    """Tokens, mask and state of a `HybridLM` as a law wants them."""

    continues_right_padding = True

    def __init__(self, model: HybridLM, name: str = "") -> None:
        self.model = model.eval()
        self.name = name or model.spec.pattern
        self.vocab_size = model.spec.vocab_size
        self.device = model.embedding.weight.device
        self.span = _span(model.spec)

    def __call__(
        self, tokens: Tensor, mask: Tensor | None = None, cache: Any = None, keep: bool = True
    ) -> tuple[Tensor, Any]:
        """Continue from a state."""
        segments = None if mask is None else Segments.from_mask(mask)
        out = self.model(tokens, segments, cache, return_state=keep)
        return self.model.head(out.hidden), out.state

    def pack(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Run documents in one row under one `Segments`."""
        segments = Segments.from_lengths([list(lengths)]).to(self.device)
        return self.model.head(self.model(tokens, segments, return_state=False).hidden)

    def rechunked(self, chunk_size: int) -> HybridSubject:
        """Return a copy whose mixers work in chunks of this size."""
        return HybridSubject(rechunked(self.model, chunk_size), self.name)

    def typed(self, dtype: torch.dtype) -> HybridSubject:
        """Return a copy in another dtype; A_log, D and dt_bias stay in fp32 beside bf16."""
        model = copy.deepcopy(self.model)
        if dtype == torch.float64:
            model.to(dtype)
        else:
            cast_weights(model, dtype)
        return HybridSubject(model, self.name)

    def drawn(self, seed: int) -> Iterator[Drawn]:
        """Yield dt, A and D of a fresh model beside the ranges that its spec declares."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = HybridLM(self.model.spec)
        found = list(_dynamics(fresh))
        if not found:
            raise NotApplicableError("no mixer has a step size or a decay")
        yield from found

    def accounts(self, n_tokens: int) -> Iterator[Account]:
        """Yield parameters, the bytes of a prefill's states and, on a CPU, its FLOPs."""
        spec = self.model.spec
        width = torch.finfo(self.model.embedding.weight.dtype).bits // 8
        tokens = torch.zeros(1, n_tokens, dtype=torch.int64, device=self.device)
        predicted = cost(spec, n_tokens, kv_dtype_bytes=width, state_dtype_bytes=max(4, width))
        n_params = sum(p.numel() for p in self.model.parameters())
        yield Account("parameters", predicted.n_params, n_params)
        memory = states.tensors(self.model(tokens).state)
        # Counters of a cache's length are no memory that grows with the model.
        held = sum(t.numel() * t.element_size() for t in memory if t.is_floating_point())
        yield Account("bytes of KV caches and states", predicted.cache_bytes, held)
        if self.device.type == "cpu":
            executed = executed_matmul_flops(spec, 1, n_tokens)
            yield Account("FLOPs of matrix products", executed, self._counted(tokens))

    def _counted(self, tokens: Tensor) -> int:
        from torch.utils.flop_counter import FlopCounterMode  # imports triton where it is installed

        with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
            self.model.head(self.model(tokens, return_state=False).hidden)
        counts = counter.get_flop_counts().get("Global", {})
        return sum(n for op, n in counts.items() if "convolution" not in str(op))


def _span(spec: Spec) -> int:
    branches = [branch for sublayer in spec.sublayers for branch in sublayer.branches]
    sizes = [
        getattr(mixer, field, None)
        for branch in branches
        for mixer in (branch, _recurrence(branch))
        for field in ("chunk_size", "window")
    ]
    return max([max(n, SHORTEST_SPAN) for n in sizes if n], default=ATTENTION_SPAN)


def _recurrence(mixer: MixerConfig) -> MixerConfig:
    """The mixer inside another one, or itself."""
    return mixer.ssm if isinstance(mixer, BMojoFConfig) else mixer


def _dynamics(model: HybridLM) -> Iterator[Drawn]:
    for name, value in model.named_parameters():
        if not name.startswith("blocks."):
            continue
        _, index, _, part, *rest = name.split(".")
        branches = model.spec.sublayers[int(index)].branches
        config: Any = _recurrence(branches[int(rest[0]) if part == "branches" else 0])
        if not hasattr(config, "dt_min"):
            continue
        where, _, leaf = name.rpartition(".")
        of = f"{where.removesuffix('.dynamics')}: "
        source = "its configuration"
        if leaf == "dt_bias":
            low = max(config.dt_min, config.dt_init_floor)
            yield Drawn(f"{of}dt", F.softplus(value), low, config.dt_max, source)
        elif leaf == "A_log" and hasattr(config, "A_init_min"):
            A = torch.exp(value)
            yield Drawn(f"{of}A", A, config.A_init_min, config.A_init_max, source)
        elif leaf == "A_log":  # Mamba-1 begins every channel with 1 ... d_state
            A = torch.exp(value) / torch.arange(1, value.shape[-1] + 1)
            yield Drawn(f"{of}A / (1 ... {value.shape[-1]})", A, 1.0, 1.0, "Mamba")
        elif leaf == "D":
            yield Drawn(f"{of}D", value, 1.0, 1.0, "Mamba")
