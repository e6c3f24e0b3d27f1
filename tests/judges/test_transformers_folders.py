"""Folders of transformers in and out: bits, logits, and greedy generation token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from braidlm import interop
from braidlm.checkpoint import load_model
from braidlm.generate import generate
from tests.judges.judging import Widened, distance
from tests.judges.transformers_pairs import CASES, EACH, EAGER, judged, model_of, our_logits, tokens

transformers = pytest.importorskip("transformers", minversion="5.15.1")
CLOSE = 1e-6
"""Logits have a standard deviation of 1; rotary frequencies may differ in the last bit of fp32."""


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {k: t for file in folder.glob("*.safetensors") for k, t in load_file(file).items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("case", EACH)
def test_a_checkpoint_comes_back_bit_for_bit_and_theirs_loads_it(tmp_path, case):
    """Through a run directory, with the dtypes that were stored, in one file or in several."""
    theirs = model_of(case).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "a")
    interop.import_run(tmp_path / "a", tmp_path / "run")
    made = interop.export_run(tmp_path / "run", tmp_path / "b", max_shard_bytes=3000)
    assert made["family"] == theirs.config.model_type
    assert len(list((tmp_path / "b").glob("model-*.safetensors"))) > 1
    assert same_bits(stored(tmp_path / "a"), stored(tmp_path / "b"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(again) is type(theirs)
    assert again.dtype == torch.bfloat16
    before, after = ({k: t.float() for k, t in m.state_dict().items()} for m in (theirs, again))
    assert same_bits(before, after)  # theirs widens some as it loads
    before, after = (m.config.to_diff_dict() for m in (theirs, again))
    for volatile in ("_name_or_path", "architectures", "dtype"):
        before.pop(volatile, None)
        after.pop(volatile, None)
    assert before == after


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_exported_folder_has_our_logits(tmp_path, case):
    """Our own weights, written from memory, in fp64."""
    model_of(case).save_pretrained(tmp_path / "a")
    ours = interop.load(tmp_path / "a", dtype=torch.float64).model.double()
    for parameter in ours.parameters():
        parameter.mul_(1.0 + 0.1 * torch.rand(parameter.shape))
    interop.save(ours, tmp_path / "b")
    settings = EAGER if "experts" in case else {}  # another form wants widths of 16 bytes
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b", **settings)
    ids = tokens(2, 29)
    with Widened():
        assert distance(our_logits(ours, ids), judged(theirs, ids)) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_greedy_generation_is_theirs_token_by_token(tmp_path, case):
    """Ours from an imported run, prompts of different lengths together; theirs one by one.

    With a cache their step does not bound the step size, as their full forward does: there they
    generate without one.
    """
    theirs = model_of(case)
    theirs.save_pretrained(tmp_path / "a")
    interop.import_run(tmp_path / "a", tmp_path / "run")
    ours, _ = load_model(tmp_path / "run")
    prompts = [tokens(n).tolist() for n in (1, 7, 8, 19)]
    found = generate(ours, prompts, max_new_tokens=12, temperature=0.0)
    for prompt, mine in zip(prompts, found, strict=True):
        settings = {"do_sample": False, "use_cache": "bounded" not in case}
        made = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, **settings)
        assert made[0, len(prompt) :].tolist() == mine
