"""`braidlm.conform.check`: every law over our own models, what is refused, what a report says."""

from __future__ import annotations

import json

import pytest
import torch

from braidlm import conform
from braidlm.errors import InputError
from braidlm.laws.catalogue import NAMES
from braidlm.mixers.norm import RMSNorm
from braidlm.model import HybridLM
from braidlm.report import conformance
from tests.specs import ALL

SOME = ("parallel hybrid, untied", "window with sinks, narrow values")
STRUCTURE = [name for name in NAMES if name not in ("fp32", "bf16")]


def model(name: str) -> HybridLM:
    torch.manual_seed(1)
    return HybridLM(ALL[name])


class AheadNorm(RMSNorm):
    """Reads the token that follows."""

    def forward(self, x):
        normed = super().forward(x)
        return normed + 0.1 * torch.cat([normed[:, 1:], 0 * normed[:, :1]], dim=1)


class Crashing(HybridLM):
    """Has no notion of packing."""

    def forward(self, tokens, segments=None, state=None, return_state=True, telemetry=False):
        if segments is not None:
            raise RuntimeError("shapes differ\nfar below")
        return super().forward(tokens, segments, state, return_state, telemetry)


@pytest.fixture(scope="module")
def broken() -> conform.Report:
    """A model that looks one token ahead in its first sublayer."""
    found = model("sequential hybrid")
    found.get_submodule("blocks.0.norm").__class__ = AheadNorm
    return conform.check(found, laws=["causality", "batch", "steps", "chunks"], dtype="fp64")


@pytest.mark.parametrize("name", SOME)
def test_every_law_holds(name):
    found = conform.check(model(name))
    assert found.ok, conform.sentence(found.failed[0])
    assert {v.law for v in found.verdicts} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_law_holds_in_fp64(name):
    """Measured: 2e-14 of the spread; the tolerance is 1e-9."""
    found = conform.check(model(name), dtype="fp64", laws=STRUCTURE, lengths=(19,))
    assert found.ok, conform.sentence(found.failed[0])


@pytest.mark.parametrize("name", ["B'MOJO-F, Mamba-2", "B'MOJO-F beside Mamba-2"])
def test_a_recurrence_inside_a_mixer_is_found(name):
    """Its chunks, and the initial values that its own declaration names."""
    found = conform.check(model(name), laws=["chunks", "initialisation"])
    assert [v.status for v in found.verdicts] == ["pass", "pass"]
    inside = model(name).get_submodule("blocks.0")
    places = [n for n, _ in inside.named_parameters() if n.endswith("A_log")]
    assert found["initialisation"].n_cases == 3 * len(places)


class TestReports:
    def test_lengths_lie_below_at_and_beyond_several_chunks(self):
        found = conform.check(model("sequential hybrid"), laws=["batch"])
        assert found.settings["lengths"] == [5, 8, 29]
        again = conform.check(model("sequential hybrid"), laws=["batch"], lengths=(3, 7))
        assert again.settings["lengths"] == [3, 7]
        assert again["batch"].n_cases == 6

    def test_a_failure_says_how_much_where_and_why(self, broken):
        verdict = broken["causality"]
        assert verdict.status == "fail"
        assert verdict.error is not None
        assert verdict.error > 1e-3
        assert verdict.case == "5 tokens, token 2 changed"
        assert verdict.first_position == 1
        assert broken["chunks"].status == "pass"
        assert broken["batch"].status == "pass"
        line = conform.sentence(verdict)
        assert line.startswith("FAIL ")
        assert "first at position 1" in line
        assert "mask" in line

    def test_a_law_that_follows_from_another_says_so(self, broken):
        assert broken["steps"].status == "fail"
        assert "because of causality" in broken["steps"].reason

    def test_raising_names_every_law_that_fails(self, broken):
        with pytest.raises(conform.LawBrokenError, match=r"(?s)causality.*steps"):
            broken.raise_if_failed()
        conform.check(model("sequential hybrid"), laws=["batch"]).raise_if_failed()

    def test_a_law_that_was_not_asked_is_a_key_error(self, broken):
        with pytest.raises(KeyError):
            broken["packed"]

    def test_rounding_in_fp32_is_told_from_a_defect(self):
        """No tolerance is met in fp32; in fp64 the same difference is gone."""
        verdict = conform.check(model("sequential hybrid"), laws=["steps"], tolerance=0.0)["steps"]
        assert verdict.status == "pass"
        assert verdict.in_fp64 is not None
        assert verdict.in_fp64 < 1e-12
        assert "rounding" in verdict.reason

    def test_a_crash_is_a_failure_of_that_law_alone(self):
        found = model("sequential hybrid")
        found.__class__ = Crashing
        report = conform.check(found, laws=["packed", "steps"])
        assert report["packed"].hint == "it raises RuntimeError: shapes differ"
        assert report["steps"].status == "pass"

    def test_data_is_json_and_a_page_stands_alone(self, broken, tmp_path):
        data = json.loads(json.dumps(broken.to_dict(), allow_nan=False))
        assert data["ok"] is False
        page = conformance.build(data, tmp_path / "page.html").read_text()
        assert "2 of 4 applicable laws hold; causality and steps fail." in page
        assert "5 tokens, token 2 changed" in page
        assert 'name="viewport"' in page
        assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"laws": ["causal"]}, "'causal' is no law; allowed: causality, chunks"),
        ({"dtype": "fp16"}, "dtype = 'fp16': allowed are fp32, fp64, bf16"),
        ({"lengths": (1, 8)}, r"lengths = \[1, 8\]: each must be at least 2"),
        ({"seed": -1}, "seed = -1: must be from 0"),
        ({"seed": 2**63}, "must be from 0"),
        ({"tolerance": -1.0}, "tolerance = -1.0: must be 0 or more"),
        ({"tolerance": float("nan")}, "tolerance = nan: must be 0 or more"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(settings, says):
    with pytest.raises(InputError, match=says):
        conform.check(model("sequential hybrid"), **settings)
