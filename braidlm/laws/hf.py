"""A causal language model of transformers under judgement, by its own forward and its own cache."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from braidlm.arch import Spec
from braidlm.laws.hf_accounts import predicted
from braidlm.laws.hf_initial import drawn
from braidlm.laws.subject import Account, Drawn, NotApplicableError, rechunked
from braidlm.laws.widened import Widened

ATTENTION_SPAN = 16
"""What lengths are laid around where a model has neither chunks nor windows."""
FIXED_CHUNK = 64
"""Chunk of the gated delta rules in transformers, which no configuration changes."""
CHUNK_FIELDS = ("chunk_size", "mamba_chunk_size")


class Seen(NamedTuple):
    """A cache, and the mask of all tokens that it has seen."""

    cache: Any
    mask: Tensor
    """(B, tokens seen) bool."""


class TransformersSubject:
    """Calls a model as `generate` does: mask of all tokens, positions that do not count padding."""

    continues_right_padding = False

    def __init__(
        self,
        model: Any,
        name: str,
        loading: dict[str, Any] | None = None,
        spec: Spec | str = "no declaration was given",
    ) -> None:
        """Take a model, what loading it has told, and its declaration or why there is none."""
        self.model = model.eval()
        self.name = name
        self.loading, self.spec = loading, spec
        self.vocab_size = model.config.get_text_config().vocab_size
        self.device = next(model.parameters()).device
        self.span = _span(model.config)
        self._inputs = set(inspect.signature(model.forward).parameters)
        self._memory = "cache_params" if "cache_params" in self._inputs else "past_key_values"
        self._is_wide = next(model.parameters()).dtype == torch.float64

    def __call__(
        self, tokens: Tensor, mask: Tensor | None = None, cache: Any = None, keep: bool = True
    ) -> tuple[Tensor, Any]:
        """Continue from a cache; without one, and without `keep`, as training calls it."""
        here = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        whole = here if cache is None else torch.cat([cache.mask, here], dim=1)
        inputs = {"input_ids": tokens, "use_cache": keep, **self._places(whole, tokens.shape[1])}
        if cache is not None:
            inputs[self._memory] = cache.cache
        # Models whose cache is a state alone take the mask of the prefill only, as `generate` does.
        if not whole.all() and (cache is None or self._memory == "past_key_values"):
            inputs["attention_mask"] = whole.to(torch.int64)
        out = self._run(inputs)
        return out.logits, Seen(out[self._memory], whole) if keep else None

    def pack(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Describe the documents in every way that transformers documents for packed rows."""
        if "position_ids" not in self._inputs:
            raise NotApplicableError("its forward takes no position_ids, and documents no packing")
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        bounds = torch.tensor(starts, dtype=torch.int32, device=self.device)
        inputs = {
            "input_ids": tokens,
            "use_cache": False,
            "position_ids": torch.cat([torch.arange(n) for n in lengths])[None].to(self.device),
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
            "seq_idx": _indices(lengths).to(self.device),
        }
        try:
            return self._run(inputs).logits
        except (RuntimeError, ValueError, TypeError) as error:
            raise NotApplicableError(f"it refuses packed rows: {error}") from None

    def rechunked(self, chunk_size: int) -> TransformersSubject:
        """Return a copy whose mixers work in chunks of this size."""
        return self._like(rechunked(self.model, chunk_size))

    def typed(self, dtype: torch.dtype) -> TransformersSubject:
        """Return a copy in another dtype, but for what the family itself keeps in fp32."""
        if {p.dtype for p in self.model.parameters()} == {dtype}:
            return self
        model = copy.deepcopy(self.model)
        if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # the grouped product has no fp64
        kept = () if dtype == torch.float64 else _kept(model)
        narrowed = model.named_buffers() if dtype == torch.bfloat16 else ()
        for name, tensor in (*model.named_parameters(), *narrowed):
            if tensor.is_floating_point() and not any(part in name for part in kept):
                tensor.data = tensor.data.to(dtype)
        return self._like(model)

    def _like(self, model: Any) -> TransformersSubject:
        return TransformersSubject(model, self.name, self.loading, self.spec)

    def drawn(self, seed: int) -> Iterator[Drawn]:
        """Yield the dynamics of a fresh model beside their published ranges."""
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = AutoModelForCausalLM.from_config(self.model.config, trust_remote_code=False)
        found = list(drawn(fresh))
        if not found:
            raise NotApplicableError("no mixer has a step size or a decay")
        yield from found

    def accounts(self, n_tokens: int) -> Iterator[Account]:
        """Yield whether a file has what its configuration builds, and what is built that
        declaration predicts."""
        if self.loading is None and not isinstance(self.spec, Spec):
            raise NotApplicableError(
                f"its weights are random, and no family says what it holds: {self.spec}"
            )
        if isinstance(self.spec, Spec):
            tokens = torch.zeros(1, n_tokens, dtype=torch.int64, device=self.device)
            yield from predicted(self.spec, self.model, self(tokens)[1].cache, n_tokens)
        for key in ("missing_keys", "unexpected_keys") if self.loading else ():
            names = sorted(map(str, (self.loading or {})[key]))
            named = f" ({', '.join(names[:3])})" if names else ""
            yield Account(f"{key.replace('_keys', '')} weights{named}", 0, len(names))

    def _places(self, whole: Tensor, n_new: int) -> dict[str, Tensor]:
        """Positions of the new tokens, in every form that the forward takes."""
        positions = (whole.cumsum(1) - 1).clamp_min(0)[:, -n_new:]
        columns = torch.arange(whole.shape[1] - n_new, whole.shape[1], device=self.device)
        places = {"position_ids": positions, "cache_position": columns}
        return {name: value for name, value in places.items() if name in self._inputs}

    def _run(self, inputs: dict[str, Any]) -> Any:
        with Widened() if self._is_wide else contextlib.nullcontext():
            return self.model(**inputs)


def _span(config: Any) -> int:
    fields = config.get_text_config().to_dict()
    sizes = [fields.get(name) for name in (*CHUNK_FIELDS, "sliding_window")]
    if "linear_conv_kernel_dim" in fields:
        sizes.append(FIXED_CHUNK)
    return max([n for n in sizes if isinstance(n, int) and n > 0], default=ATTENTION_SPAN)


def _indices(lengths: Sequence[int]) -> Tensor:
    """(1, T) int32: the document of each token."""
    order = torch.arange(len(lengths), dtype=torch.int32)
    return torch.repeat_interleave(order, torch.tensor(lengths))[None]


def _kept(model: nn.Module) -> tuple[str, ...]:
    """Parts of names of what the family never casts below fp32, rotary frequencies included."""
    found = {"inv_freq"}
    for field in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
        found |= set(getattr(model, field, None) or ())
    return tuple(found)
