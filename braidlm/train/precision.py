"""In which precision a run multiplies, decided once and recorded."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from braidlm.errors import InputError


@dataclass(frozen=True)
class Precision:
    """What was resolved. Weights, optimizer and reductions stay in fp32 either way."""

    name: str
    """"fp32" or "bf16" (autocast)."""
    device_type: str
    """"cpu" or "cuda"."""
    reason: str
    """Why, in one sentence, for the log and env.json."""

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of a forward pass; its weight cache ends with it."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)


def cpu_flags(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
    """Return the processor's feature flags; none where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def cpu_bf16_unit() -> str | None:
    """Return which unit of this CPU multiplies bf16 (AMX or AVX-512 BF16), or None."""
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2"):
        return None
    flags = cpu_flags()
    if "amx_bf16" in flags:
        return "AMX"
    return "AVX-512 BF16" if "avx512_bf16" in flags else None


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """Return what "auto", "fp32" or "bf16" means on `device`.

    Raises:
        InputError: "bf16" on a GPU that has none.
    """
    unit, name = _bf16_unit(device)
    if precision == "fp32":
        return Precision("fp32", device.type, "fp32, as asked")
    if unit is not None:
        why = "as asked" if precision == "bf16" else "chosen by auto"
        return Precision("bf16", device.type, f"bf16 autocast, {why}: {name} has {unit}")
    if precision == "auto":
        return Precision("fp32", device.type, f"fp32, chosen by auto: {name} has no bf16 unit")
    if device.type == "cuda":
        raise InputError(f'precision = "bf16": {name} has no bf16; allowed: "auto", "fp32"')
    reason = f"bf16 autocast, as asked: {name} has no bf16 unit, so this is slower than fp32"
    return Precision("bf16", device.type, reason)


def _bf16_unit(device: torch.device) -> tuple[str | None, str]:
    """Return the unit that multiplies bf16 (or None) and the device's name."""
    if device.type == "cpu":
        return cpu_bf16_unit(), "this CPU"
    name = torch.cuda.get_device_name(device)
    return ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else None), name
