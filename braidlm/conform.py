"""The laws held against a model: `braidlm.conform.check`, for a test, a CI job or `braid conform`.

from braidlm.conform import check

check("runs/mine").raise_if_failed()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from braidlm import interop
from braidlm.arch.config import nearest
from braidlm.arch.recipe import load_spec
from braidlm.checkpoint import load_model
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.foreign import is_gguf
from braidlm.interop.choose import of_config
from braidlm.laws import hf_load
from braidlm.laws.catalogue import Law, choose, tolerance_of
from braidlm.laws.gap import Plan, lengths_around
from braidlm.laws.hf import TransformersSubject
from braidlm.laws.hf_load import is_ours
from braidlm.laws.hf_tiny import TINY
from braidlm.laws.hybrid import HybridSubject
from braidlm.laws.lively import enliven
from braidlm.laws.subject import Subject
from braidlm.laws.verdict import Verdict, judge
from braidlm.model import HybridLM
from braidlm.provenance import capture_env

FORMAT_VERSION = 1
N_DRIFT = 512
"""Tokens over which fp32 and bf16 are held against fp64: a sum in too few bits shows with them."""
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


class LawBrokenError(AssertionError):
    """At least one law fails; the message is the report."""


@dataclass(frozen=True)
class Report:
    """What every law says of one model."""

    model: str
    settings: dict[str, Any]
    """Lengths, seed, dtype, device, and the model's span."""
    verdicts: tuple[Verdict, ...]
    env: dict[str, Any] = field(default_factory=dict)
    """Versions and machine."""

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The laws that fail, causes before effects."""
        return tuple(v for v in self.verdicts if v.status == "fail")

    @property
    def ok(self) -> bool:
        """Whether no law fails."""
        return not self.failed

    def __getitem__(self, law: str) -> Verdict:
        """Return the verdict of a law by its name.

        Raises:
            KeyError: it was not asked.
        """
        for verdict in self.verdicts:
            if verdict.law == law:
                return verdict
        raise KeyError(law)

    def raise_if_failed(self) -> None:
        """Raise where a law fails.

        Raises:
            LawBrokenError: its message names every failing law, its error, place and hint.
        """
        if self.failed:
            raise LawBrokenError("\n".join([self.model, *map(sentence, self.failed)]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, every verdict in full."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": "conformance",
            "model": self.model,
            "ok": self.ok,
            "settings": self.settings,
            "verdicts": [asdict(v) for v in self.verdicts],
            "env": self.env,
        }


def check(
    model: Any,
    *,
    laws: Sequence[str] | None = None,
    device: str = "auto",
    dtype: str = "fp32",
    lengths: Sequence[int] | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    random_weights: bool = False,
    tiny: bool = False,
    on_law: Callable[[Verdict], None] | None = None,
) -> Report:
    """Hold the laws against a model.

    Args:
        model: a `HybridLM`, a causal model of transformers, a `Subject`, or the path of a run, of
            a checkpoint, of a folder of transformers, or of a GGUF file; with random weights also a
            recipe, a pattern, a `config.json`, or the name of a family such as "mamba2".
        laws: names, see `braidlm.laws.catalogue`; None: all.
        device: where a model that is loaded runs; a model that is passed stays where it is.
        dtype: "fp32", "fp64" (throughout) or "bf16" weights.
        lengths: tokens of the sequences; None: below, at and beyond several chunks.
        seed: of the tokens, and of a fresh model's weights.
        tolerance: in units of the logits' spread, instead of the dtype's own.
        random_weights: draw the weights of a declaration; nothing but it is read.
        tiny: shrink a configuration of transformers to odd widths of about 20.
        on_law: is told each verdict as it is reached.

    Raises:
        InputError: no such model, law, dtype or length.
    """
    chosen = choose(laws)
    _check_settings(dtype, lengths, seed, tolerance)
    subject = _subject(model, device, seed, random_weights, tiny)
    _check_finite(subject)
    subject = subject.typed(DTYPES[dtype])
    plan = _plan(subject, lengths, seed)
    verdicts: list[Verdict] = []
    for law in chosen:
        allowed = tolerance_of(law, dtype, tolerance)
        verdict = judge(law, subject, plan, allowed, exact=dtype == "fp32")
        verdicts.append(_with_cause(verdict, law, verdicts))
        if on_law is not None:
            on_law(verdicts[-1])
    return Report(
        subject.name,
        {
            "lengths": list(plan.lengths),
            "seed": seed,
            "dtype": dtype,
            "device": subject.device.type,
            "span": subject.span,
        },
        tuple(verdicts),
        capture_env(threads=torch.get_num_threads(), device=subject.device.type, precision=dtype),
    )


def _check_finite(subject: Subject) -> None:
    """Refuse weights with which no law could say anything."""
    for name, weight in subject.model.named_parameters():
        if weight.numel() and not weight.detach().sum(dtype=torch.float64).isfinite():
            raise InputError(f"{subject.name}: weight '{name}' holds NaN or infinity")


def _with_cause(verdict: Verdict, law: Law, before: list[Verdict]) -> Verdict:
    """Note the laws that failed before and may be why this one fails."""
    causes = [v.law for v in before if v.law in law.follows and v.status == "fail"]
    if verdict.status != "fail" or not causes:
        return verdict
    return replace(verdict, reason=f"perhaps only because of {' and '.join(causes)}")


def sentence(verdict: Verdict) -> str:
    """Return one line: status, law, error, tolerance, place and hint."""
    status = "FAIL" if verdict.status == "fail" else verdict.status
    return f"{status:<15} {verdict.law:<15} {_told(verdict)}"


def _told(v: Verdict) -> str:
    if v.status == "not applicable":
        return v.reason
    also = f" ({v.reason})" if v.reason else ""
    if v.error is None:
        return v.hint + also
    size = f"{v.error:.2g} {v.unit}, tolerance {v.tolerance:.2g}"
    if v.status == "pass":
        return size + also
    place = f", first at position {v.first_position}" if v.first_position is not None else ""
    again = f", {v.in_fp64:.2g} in fp64" if v.in_fp64 is not None else ""
    return f"{size}{again}{place}: {v.case}; {v.hint}{also}"


def _plan(subject: Subject, lengths: Sequence[int] | None, seed: int) -> Plan:
    if lengths:
        return Plan(tuple(lengths), seed)
    around = lengths_around(subject.span)
    return Plan(around, seed, max(*around, N_DRIFT))


def _check_settings(
    dtype: str, lengths: Sequence[int] | None, seed: int, tolerance: float | None
) -> None:
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}: allowed are {', '.join(DTYPES)}")
    if lengths is not None and (not lengths or min(lengths) < 2):
        raise InputError(f"lengths = {list(lengths)}: each must be at least 2 tokens")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed = {seed}: must be from 0 to 2^63 - 1")
    if tolerance is not None and not tolerance >= 0:
        raise InputError(f"tolerance = {tolerance}: must be 0 or more")


def _subject(model: Any, device: str, seed: int, is_random: bool, is_tiny: bool) -> Subject:
    if isinstance(model, HybridLM):
        return HybridSubject(model)
    if not isinstance(model, (str, Path)):
        is_foreign = hasattr(model, "config") and hasattr(model, "generate")
        return _declared(TransformersSubject(model, type(model).__name__)) if is_foreign else model
    if is_tiny and not is_random:
        raise InputError("--tiny: weights of another size do not fit; give --random-weights too")
    if is_ours(model):
        if is_tiny:
            hint = nearest(str(model), list(TINY))
            raise InputError(f"--tiny: {model} is no configuration of transformers{hint}")
        return _drawn(model, device, seed) if is_random else _loaded(model, device)
    place = choose_device(device)
    found = hf_load.draw(model, place, seed, is_tiny) if is_random else hf_load.load(model, place)
    return _declared(found)


def _declared(subject: TransformersSubject) -> TransformersSubject:
    """Give a model of transformers our declaration of it, which predicts what it holds."""
    config = subject.model.config.to_dict()
    try:
        subject.spec = of_config(config, "its configuration").spec(config)
    except InputError as error:
        subject.spec = str(error)
    return subject


def _loaded(path: str | Path, device: str) -> Subject:
    if is_gguf(path):
        loaded = interop.load(path).model
        return HybridSubject(loaded.to(choose_device(device)), f"{path} (GGUF)")
    model, recipe = load_model(path, choose_device(device))
    return HybridSubject(model, f"{recipe.name} ({path})")


def _drawn(source: str | Path, device: str, seed: int) -> Subject:
    try:
        spec = interop.spec_of(source) if is_gguf(source) else load_spec(source)
    except InputError as error:
        if Path(source).is_file():
            raise
        told = f"{source}: no file, no family of transformers and no pattern"
        raise InputError(f"{told}: {error}") from None
    with torch.random.fork_rng(devices=[]):
        model = HybridLM(spec)
    enliven(model, seed)
    return HybridSubject(model.to(choose_device(device)), f"{source} (random weights)")
