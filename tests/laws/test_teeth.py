"""Faults are planted in a small model; the right law finds each, at the right place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from braidlm import conform
from braidlm.laws.catalogue import LAWS, NAMES
from braidlm.laws.lively import enliven
from braidlm.mixers.mamba2 import Dynamics, Mamba2, Mamba2State
from braidlm.mixers.norm import RMSNorm
from braidlm.model import HybridLM
from tests.specs import ALL, spec

FOLLOWS = {law.name: set(law.follows) for law in LAWS}
PRECISION = ("fp32", "bf16")
SOUND = tuple(name for name in NAMES if name not in PRECISION)


class LeakPastChunk(Mamba2):
    """The last token of a chunk sees the first of the next."""

    def forward(self, x, segments, state, return_state):
        u, new = super().forward(x, segments, state, return_state)
        u = u.clone()
        n = (x.shape[1] - 1) // self.chunk_size
        last = torch.arange(1, n + 1) * self.chunk_size - 1
        u[:, last] += 0.1 * u[:, last + 1]
        return u, new


class LeakBetweenDocuments(Mamba2):
    """Documents that share a row share a state; padding alone is kept out."""

    def forward(self, x, segments, state, return_state):
        if segments is not None and segments.n_docs > x.shape[0]:
            return super().forward(x, None, state, return_state)
        return super().forward(x, segments, state, return_state)


class LeakFromTheLeft(Mamba2):
    """Padding before the text enters the outputs."""

    def forward(self, x, segments, state, return_state):
        u, new = super().forward(x, segments, state, return_state)
        if segments is not None and segments.n_docs == x.shape[0] and segments.starts.any():
            u = super().forward(x, None, state, False)[0]
        return u, new


class LeakFromTheRight(Mamba2):
    """Padding after the text enters the state."""

    def forward(self, x, segments, state, return_state):
        u, new = super().forward(x, segments, state, return_state)
        if segments is not None and segments.n_docs == x.shape[0] and not segments.starts.any():
            new = super().forward(x, None, state, return_state)[1]
        return u, new


class CacheOffByOne(Mamba2):
    """A step reads the convolution's window one token late."""

    def _step(self, x, state, return_state):
        return super()._step(x, state._replace(conv=state.conv.roll(1, dims=1)), return_state)


class StateFromNothing(Mamba2):
    """A call of several tokens starts from an empty state, as selective scans of others did."""

    def forward(self, x, segments, state, return_state):
        if state is not None and x.shape[1] > 1:
            state = Mamba2State(torch.zeros_like(state.ssm), state.conv)
        return super().forward(x, segments, state, return_state)


class StateNotHandedOn(Mamba2):
    """A continued call answers rightly, but the state that it leaves holds its own tokens alone."""

    def forward(self, x, segments, state, return_state):
        u, new = super().forward(x, segments, state, return_state)
        if state is not None and x.shape[1] > 1:
            new = super().forward(x, segments, None, return_state)[1]
        return u, new


class ClampInOnePath(Mamba2):
    """The step bounds dt from below and the scan does not."""

    is_stepping = False

    def _step(self, x, state, return_state):
        self.is_stepping = True
        told = super()._step(x, state, return_state)
        self.is_stepping = False
        return told

    def _rates(self, dt):
        dt, A = super()._rates(dt)
        return dt.clamp_min(1e-2) if self.is_stepping else dt, A


class NarrowSums(Mamba2):
    """The running sum of steps, whose differences are the decays, is kept in bf16."""

    def _rates(self, dt):
        is_narrow = dt.dtype == torch.bfloat16
        dt, A = super()._rates(dt)
        if not is_narrow:
            return dt, A
        sums = dt.cumsum(dim=1).to(torch.bfloat16).float()
        return sums.diff(dim=1, prepend=torch.zeros_like(sums[:, :1])), A


class LowRates(Mamba2):
    """Steps are cast below fp32 where the model is fp32."""

    def _rates(self, dt):
        is_fp32 = dt.dtype == torch.float32
        dt, A = super()._rates(dt)
        return (dt.half().float() if is_fp32 else dt), A


class NormOverRows(RMSNorm):
    """Subtracts a share of the mean over the batch."""

    def forward(self, x):
        x = super().forward(x)
        return x - 0.1 * (x.mean(dim=0, keepdim=True) - x)


def sound() -> Any:
    model = HybridLM(spec("M*"))
    enliven(model, 3)
    return model


def planted(fault: type, place: str = "blocks.0.mix.mixer") -> Any:
    model = sound()
    model.get_submodule(place).__class__ = fault
    return model


def only(report: conform.Report, law: str) -> Any:
    """The verdict of the law that must fail first; all else that fails must follow from it."""
    failed = [v.law for v in report.failed]
    assert failed, "nothing was found"
    assert failed[0] == law, failed
    for other in failed[1:]:
        causes = FOLLOWS[other] | {c for cause in FOLLOWS[other] for c in FOLLOWS[cause]}
        assert law in causes, failed
    return report[law]


def test_without_a_fault_nothing_is_found():
    assert conform.check(sound(), dtype="fp64").ok


@pytest.mark.parametrize(
    ("fault", "law", "position", "case"),
    [
        (LeakPastChunk, "causality", 7, "29 tokens, token 8 changed"),
        (LeakBetweenDocuments, "packed", 0, "document 1 of 1, 2, 8, 9 tokens"),
        (LeakFromTheLeft, "left_padding", 0, "row of 3 and a step, padded on the left to 5"),
        (LeakFromTheRight, "right_padding", 3, "row of 3 and a step, padded on the right to 5"),
        (CacheOffByOne, "steps", 1, "a prefill of 1, then 4 single steps"),
        (ClampInOnePath, "steps", 1, "a prefill of 1, then 4 single steps"),
        (StateFromNothing, "continuation", 1, "a prefill of 1, then 4 in one call"),
        (StateNotHandedOn, "carried", 12, "segments of 3, 1, 8, 2, 1, 9, 5 tokens"),
    ],
)
def test_a_fault_of_a_mixer_is_found(fault, law, position, case):
    verdict = only(conform.check(planted(fault), dtype="fp64", laws=SOUND), law)
    assert case in verdict.case
    assert verdict.first_position == position


def test_a_result_that_depends_on_the_batch_is_found():
    report = conform.check(planted(NormOverRows, "blocks.0.norm"), dtype="fp64", laws=SOUND)
    verdict = only(report, "batch")
    assert verdict.first_position == 0
    assert {v.law for v in report.failed} == {"batch", "left_padding", "right_padding"}


def test_a_wrong_initial_step_is_found(monkeypatch):
    inner = Dynamics.reset_parameters

    def ones(self):
        inner(self)
        self.dt_bias.data.fill_(1.0)

    model = sound()
    monkeypatch.setattr(Dynamics, "reset_parameters", ones)
    verdict = only(conform.check(model, dtype="fp64", laws=SOUND), "initialisation")
    assert "dt in 1.313 to 1.313, should be 0.001 to 0.1" in verdict.case
    assert verdict.first_position is None


def test_the_decay_of_a_selective_scan_is_held_to_its_ramp(monkeypatch):
    model = HybridLM(ALL["mamba1"])
    report = conform.check(model, laws=["initialisation"])
    assert report.ok
    assert report["initialisation"].n_cases == 3
    mixer: Any = type(model.get_submodule("blocks.0.mix.mixer"))
    inner = mixer.reset_parameters

    def doubled(self, std):
        inner(self, std)
        next(p for n, p in self.named_parameters() if n.endswith("A_log")).data += 0.7

    monkeypatch.setattr(mixer, "reset_parameters", doubled)
    verdict = only(conform.check(model, laws=["initialisation"]), "initialisation")
    assert "A / (1 ... " in verdict.case


def test_a_parameter_that_nobody_declared_is_found():
    model = sound()
    model.extra = torch.nn.Parameter(torch.zeros(3))
    verdict = only(conform.check(model, dtype="fp64", laws=SOUND), "accounting")
    assert verdict.case.startswith("parameters: predicted")


@pytest.mark.parametrize(("fault", "law"), [(NarrowSums, "bf16"), (LowRates, "fp32")])
def test_a_statistic_in_too_few_bits_is_found(fault, law):
    report = conform.check(planted(fault), laws=PRECISION)
    assert [v.law for v in report.failed] == [law]
    assert report[law].first_position is not None


class TestAnotherLibrary:
    """Faults in a model of transformers."""

    def test_positions_lost_on_continuation_are_found(self):
        transformers = pytest.importorskip("transformers", minversion="5.15.1")
        from braidlm.laws import hf_load

        class Lost(transformers.LlamaForCausalLM):
            def forward(
                self, input_ids, attention_mask=None, position_ids=None, past_key_values=None,
                use_cache=None,
            ):  # fmt: skip
                if past_key_values is not None and input_ids.shape[1] > 1:
                    position_ids = torch.arange(input_ids.shape[1])[None]
                return super().forward(
                    input_ids,
                    attention_mask=attention_mask,
                    position_ids=position_ids,
                    past_key_values=past_key_values,
                    use_cache=use_cache,
                )

        model = hf_load.draw("llama", torch.device("cpu"), 0, tiny=True).model
        model.__class__ = Lost
        verdict = only(conform.check(model, dtype="fp64", lengths=(9,)), "continuation")
        assert verdict.first_position == 1
