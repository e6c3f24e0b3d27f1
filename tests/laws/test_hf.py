"""The laws over families of transformers: what holds, what is broken, what is refused."""

from __future__ import annotations

import json
import os

import pytest
import torch

from braidlm import conform
from braidlm.errors import InputError
from braidlm.laws import hf_load

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", minversion="5.15.1")

SHORT = {"random_weights": True, "tiny": True, "lengths": (8, 21)}
SEQUENCES = ["causality", "chunks", "batch", "steps", "continuation", "left_padding"]


def failing(family, laws, **settings):
    report = conform.check(family, laws=laws, **{**SHORT, **settings})
    return {v.law for v in report.failed}


@pytest.mark.parametrize("family", ["llama", "mamba2"])
def test_a_sound_family_obeys(family):
    assert failing(family, SEQUENCES, dtype="fp64") == set()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bamba", "falcon_h1", "granitemoehybrid", "qwen3"])
def test_more_sound_families_obey(family):
    assert failing(family, SEQUENCES, dtype="fp64") == set()


def test_selective_scans_lose_their_state_when_many_tokens_continue():
    """Each call of several tokens starts from nothing: transformers 5.23 and before."""
    report = conform.check("mamba", laws=["steps", "continuation"], **SHORT)
    assert report["steps"].status == "pass"
    verdict = report["continuation"]
    assert verdict.status == "fail"
    assert verdict.first_position == 1
    assert verdict.in_fp64 is not None
    assert verdict.in_fp64 > 0.1


@pytest.mark.skipif(transformers.__version__ != "5.23.0", reason="measured on 5.23.0")
class TestWhatIsKnownOf5230:
    """Findings of docs/conformance.md; they are to change when transformers does."""

    def verdict(self, family, law):
        return conform.check(family, laws=[law], **SHORT)[law]

    def test_one_clamp_in_one_path(self):
        verdict = self.verdict("zamba2", "steps")
        assert verdict.status == "fail"
        assert verdict.in_fp64 is not None
        assert verdict.in_fp64 > 1e-3

    def test_packed_rows_are_kept_apart_refused_or_mixed(self):
        assert self.verdict("qwen3", "packed").status == "pass"
        refused = self.verdict("bamba", "packed")
        assert refused.status == "not applicable"
        assert "can't keep packed sequences apart" in refused.reason
        assert self.verdict("mamba2", "packed").reason.startswith("its forward takes no position")
        assert self.verdict("jamba", "packed").status == "fail"

    @pytest.mark.parametrize(
        ("family", "told"),
        [
            ("bamba", "dt in 1.313 to 1.313, should be 0.001 to 0.1"),
            ("mamba2", "A in 1 to 18, should be 1 to 16"),
            ("falcon_mamba", ""),
            ("kimi_linear", ""),
            ("olmo_hybrid", ""),
        ],
    )
    def test_initial_values(self, family, told):
        verdict = self.verdict(family, "initialisation")
        assert verdict.status == ("fail" if told else "pass")
        assert told in verdict.case


class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path):
        subject = hf_load.draw("llama", torch.device("cpu"), 0, tiny=True)
        subject.model.save_pretrained(tmp_path / "llama")
        return tmp_path / "llama"

    def test_a_folder_is_read_and_its_weights_are_accounted_for(self, folder):
        report = conform.check(folder, laws=["batch", "accounting"], lengths=(5,))
        assert report.ok
        assert report["accounting"].n_cases == 5
        assert report["accounting"].case.startswith("parameters: predicted ")
        assert report.model == f"{folder} (transformers {transformers.__version__})"

    def test_a_weight_that_the_file_lacks_is_told(self, folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        verdict = conform.check(folder, laws=["accounting"])["accounting"]
        assert verdict.status == "fail"
        assert "model.norm.weight" in verdict.case

    def test_a_configuration_alone_gives_random_weights(self, folder):
        report = conform.check(
            folder / "config.json", laws=["batch"], lengths=(5,), random_weights=True
        )
        assert report.ok
        assert "random weights" in report.model

    def test_code_beside_a_checkpoint_is_never_executed(self, folder):
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text("raise SystemExit('executed')")
        for is_random in (False, True):
            with pytest.raises(InputError, match=r"'mine' is not part of transformers.*never exec"):
                conform.check(folder, random_weights=is_random)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"model": "gpt2", "random_weights": True, "tiny": True}, "no tiny sizes.*'gpt2'"),
            ({"model": "llama", "tiny": True}, "give --random-weights"),
            ({"model": "llama"}, "a family has no weights of its own; give --random-weights"),
            ({"model": "mamba9", "random_weights": True}, "no family of transformers and no patt"),
            ({"model": "M*", "random_weights": True, "tiny": True}, "no configuration of transf"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings, says):
        with pytest.raises(InputError, match=says):
            conform.check(**settings)

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"model_type": ["llama"]}, r"model_type \['llama'\] is not part"),
            ({"model_type": "llama", "hidden_size": "x"}, "cannot build it: .*hidden_size"),
            ({"model_type": "mamba2", "num_heads": -3}, "cannot build it: .*num_heads"),
            ([1], "must be one JSON object"),
        ],
    )
    def test_a_bad_configuration_is_refused(self, tmp_path, fields, says):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises(InputError, match=says):
            conform.check(tmp_path, random_weights=True)

    def test_a_model_that_is_passed_is_judged_as_it_is(self):
        model = hf_load.draw("mamba2", torch.device("cpu"), 0, tiny=True).model
        assert conform.check(model, laws=["chunks"], lengths=(9,)).ok


class TestAccounting:
    """What our declaration of a family predicts: parameters, KV caches, states."""

    FAMILIES = ("llama", "falcon_mamba", "jamba", "falcon_h1", "nemotron_h", "qwen3_next")

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_a_family_that_we_know_holds_what_is_predicted(self, family, dtype):
        verdict = conform.check(family, laws=["accounting"], dtype=dtype, **SHORT)["accounting"]
        assert verdict.status == "pass"
        assert verdict.n_cases == 3

    def test_what_no_family_of_ours_expresses_is_not_predicted(self):
        subject = hf_load.draw("llama", torch.device("cpu"), 0, tiny=True)
        subject.model.config.hidden_act = "gelu"
        verdict = conform.check(subject.model, laws=["accounting"])["accounting"]
        assert verdict.status == "not applicable"
        assert "no family says what it holds" in verdict.reason
        assert "hidden_act = 'gelu'" in verdict.reason

    @pytest.mark.parametrize(
        ("family", "plant", "told"),
        [
            ("llama", "weight", "parameters: predicted 9,620, counted 9,623"),
            ("llama", "keys", "bytes of KV caches: predicted 6,720, counted 10,080"),
            ("mamba2", "state", "bytes of states: predicted 13,896, counted 15,480"),
        ],
    )
    def test_what_the_declaration_does_not_know_is_found(self, family, plant, told):
        model = hf_load.draw(family, torch.device("cpu"), 0, tiny=True).model
        if plant == "weight":
            model.register_parameter("further", torch.nn.Parameter(torch.zeros(3)))
        else:
            model.register_forward_hook(PLANTS[plant])
        found = conform.check(model, laws=["accounting", "causality"], lengths=(8, 21))
        assert found["accounting"].status == "fail"
        assert found["accounting"].case == told
        assert found["causality"].status == "pass"


def values_as_wide_as_two(module, inputs, out):
    for layer in out.past_key_values.layers if out.past_key_values else ():
        layer.values = torch.cat([layer.values] * 2, dim=-1)


def one_more_column(module, inputs, out):
    for layer in out.cache_params.layers if out.cache_params else ():
        columns = layer.conv_states[0]
        layer.conv_states[0] = torch.cat([columns[..., :1], columns], dim=-1)


PLANTS = {"keys": values_as_wide_as_two, "state": one_more_column}
