"""Folders of transformers in and out: bits, logits, and greedy generation token by token."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from braidlm import interop
from braidlm.checkpoint import load_model
from braidlm.generate import generate
from braidlm.interop.families import FAMILIES
from tests.judges.judging import Widened, distance
from tests.judges.transformers_pairs import (
    CASES,
    EACH,
    EAGER,
    EXACT,
    judged,
    model_of,
    our_logits,
    share_frequencies,
    tokens,
)

transformers = pytest.importorskip("transformers", minversion="5.15.1")


BESIDE = {
    "kimi_linear": frozenset(
        {
            *("linear_attn_config", "first_k_dense_replace", "mla_use_nope", "topk_method"),
            *("moe_router_activation_func", "use_grouped_topk", "num_nextn_predict_layers"),
        }
    )
}
"""What we say beside their present form: the published one, which vLLM reads."""


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {k: t for file in folder.glob("*.safetensors") for k, t in load_file(file).items()}


def published(tensors: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    """Under the names that we write, the convolutions of q, k and v as one.

    transformers respells names as it saves, in more layers than it does as it loads, and parts a
    convolution of two widths into thirds.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    for name in sorted(tensors, key=lambda name: name.replace(".q_conv1d", ".a_conv1d")):
        ours = name
        for pattern, replacement in FAMILIES[family].respelled:
            ours = re.sub(pattern, replacement, ours)
        parts.setdefault(re.sub(r"\.[qkv]_conv1d\.", ".conv1d.", ours), []).append(tensors[name])
    assert all(len(p) == 1 or ".conv1d." in name for name, p in parts.items())
    return {name: torch.cat(p) for name, p in parts.items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("case", EACH)
def test_a_checkpoint_comes_back_bit_for_bit_and_theirs_loads_it(tmp_path, case):
    """Through a run directory, with the dtypes that were stored, in one file or in several; from
    ours, once more, with the names and shapes that we write."""
    theirs = model_of(case).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "a")
    interop.import_run(tmp_path / "a", tmp_path / "run")
    made = interop.export_run(tmp_path / "run", tmp_path / "b", max_shard_bytes=3000)
    assert made["family"] == theirs.config.model_type
    assert len(list((tmp_path / "b").glob("model-*.safetensors"))) > 1
    before, after = (published(stored(tmp_path / x), made["family"]) for x in "ab")
    assert same_bits(before, after)
    interop.import_run(tmp_path / "b", tmp_path / "run2")
    interop.export_run(tmp_path / "run2", tmp_path / "c")
    assert same_bits(stored(tmp_path / "b"), stored(tmp_path / "c"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(again) is type(theirs)
    assert again.dtype == torch.bfloat16
    before, after = ({k: t.float() for k, t in m.state_dict().items()} for m in (theirs, again))
    assert same_bits(before, after)  # theirs widens some as it loads
    before, after = (m.config.to_diff_dict() for m in (theirs, again))
    for volatile in ("_name_or_path", "architectures", "dtype"):
        before.pop(volatile, None)
        after.pop(volatile, None)
    told_beside = set(after) - set(before)
    assert told_beside <= BESIDE.get(made["family"], frozenset())
    assert before == {key: value for key, value in after.items() if key not in told_beside}


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_exported_folder_has_our_logits(tmp_path, case):
    """Our own weights, written from memory, in fp64; theirs loads A_log in fp32 whatever it is."""
    model_of(case).save_pretrained(tmp_path / "a")
    ours = interop.load(tmp_path / "a", dtype=torch.float64).model.double()
    for name, parameter in ours.named_parameters():
        parameter.mul_(1.0 + 0.1 * torch.rand(parameter.shape))
        if name.endswith("A_log"):
            parameter.copy_(parameter.float())
    interop.save(ours, tmp_path / "b")
    settings = EAGER if CASES[case][1].keys() >= EAGER.keys() else {}  # others want 16 bytes
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b", **settings)
    share_frequencies(ours, theirs)
    ids = tokens(2, 29)
    with Widened():
        assert distance(our_logits(ours, ids), judged(theirs, ids)) < EXACT


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
