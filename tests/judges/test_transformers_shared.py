"""Shared blocks of Zamba and Zamba2 in folders of transformers: which uses are stored, and tied.

transformers 5.23 ties the uses of a block only where it ties the embedding. Its own description of
both families, and both papers, share the blocks whatever the head is: a file with other numbers at
other uses is no such model, and is refused; one with the same numbers at each is read and written.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from braidlm import interop
from braidlm.errors import InputError
from tests.judges.judging import Widened, distance
from tests.judges.transformers_pairs import CASES as PAIRS
from tests.judges.transformers_pairs import EXACT, ZAMBA, judged, model_of, our_logits, pair, tokens

transformers = pytest.importorskip("transformers", minversion="5.15.1")
LAST = {"zamba": {1: 5}, "zamba2": {1: 4, 3: 5}}
"""Layer of the first use of each block -> layer of its last use."""


def block(layer: Any) -> Any:
    """The shared block of a layer of theirs."""
    return layer.shared_transf if hasattr(layer, "shared_transf") else layer.shared_transformer


def at_last_use(name: str, last: dict[int, int]) -> str:
    parts = name.split(".")
    if ".shared_transf" in name:
        parts[2] = str(last[int(parts[2])])
    return ".".join(parts)


def untied(case: str) -> Any:
    """Their model with a head of its own, every use a copy of the first."""
    family, fields = PAIRS[case]
    config = getattr(transformers, f"{family}Config")(**fields, tie_word_embeddings=False)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    tied = model_of(case)
    theirs.load_state_dict(tied.state_dict())
    with torch.no_grad():
        theirs.lm_head.weight.mul_(torch.linspace(0.5, 1.5, len(theirs.lm_head.weight))[:, None])
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("case", LAST)
def test_both_read_a_block_from_its_last_use(tmp_path, case):
    """So files of transformers before 5 have it."""
    theirs = model_of(case).double()
    theirs.save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    moved = {at_last_use(k, LAST[case]): t for k, t in load_file(file).items()}
    save_file(moved, file, metadata={"format": "pt"})
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a").double()
    ours = interop.load(tmp_path / "a", dtype=torch.float64).model
    ids = tokens(2, 29)
    with Widened():
        expected = judged(theirs, ids)
        assert distance(judged(again, ids), expected) < 1e-5  # it reads A_log into fp32
    assert distance(our_logits(ours, ids), expected) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("case", LAST)
def test_an_untied_model_comes_in_and_goes_out_with_every_use(tmp_path, case):
    theirs = untied(case).double()
    layers = theirs.model.layers
    first, last = next(iter(LAST[case].items()))
    assert block(layers[first]).self_attn is not block(layers[last]).self_attn
    theirs.save_pretrained(tmp_path / "a")
    ours = interop.load(tmp_path / "a", dtype=torch.float64).model
    ids = tokens(2, 29)
    with Widened():
        assert distance(our_logits(ours, ids), judged(theirs, ids)) < EXACT
    interop.save(ours, tmp_path / "b")
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with Widened():
        assert distance(judged(again.double(), ids), judged(theirs, ids)) < 1e-5


@pytest.mark.parametrize("case", LAST)
def test_numbers_of_its_own_at_a_later_use_are_refused(tmp_path, case):
    """Training an untied model of theirs makes such a file: n blocks where the paper has one."""
    theirs = untied(case)
    _, last = next(iter(LAST[case].items()))
    with torch.no_grad():
        block(theirs.model.layers[last]).feed_forward.down_proj.weight.add_(0.1)
    theirs.save_pretrained(tmp_path / "a")
    with pytest.raises(InputError, match=r"feed_forward.down_proj.weight' differs from"):
        interop.load(tmp_path / "a")


def test_theirs_cannot_be_made_with_a_single_use_of_zambas_block():
    """Why a model with fewer than two is not written: its tying finds nothing to tie."""
    words = ["linear_attention", "hybrid", "linear_attention"]
    fields = {**ZAMBA, "layers_block_type": words, "num_hidden_layers": 3}
    config = transformers.ZambaConfig(**fields)
    with pytest.raises(ValueError, match="tie_weights_keys"):
        transformers.ZambaForCausalLM(config)


@torch.no_grad()
def test_theirs_rotates_the_same_for_a_long_context():
    """Their page says that `use_long_context` modifies RoPE; it only writes a longer limit."""
    family, fields = PAIRS["zamba2"]
    theirs = model_of("zamba2")
    config = getattr(transformers, f"{family}Config")(**fields, use_long_context=True)
    long = transformers.Zamba2ForCausalLM(config).eval()
    long.load_state_dict(theirs.state_dict())
    ids = tokens(2, 29)
    assert torch.equal(judged(long, ids), judged(theirs, ids))


@torch.no_grad()
def test_theirs_does_not_bound_the_steps_of_single_tokens():
    """Their full forward bounds the step size from below, and so does ours in both; from a cache
    theirs does not: its logits are then ours without the bound."""
    p, ids = pair("zamba2, odd width, narrow heads, bounded steps"), tokens(2, 29)
    head, *tail = ids.split([11] + [1] * 18, dim=1)
    with Widened():
        expected = judged(p.theirs, ids)[:, 11:]
        cache = p.theirs(input_ids=head, use_cache=True).past_key_values
        found = [p.theirs(input_ids=x, past_key_values=cache, use_cache=True).logits for x in tail]
    assert distance(_steps(p.ours, head, tail, is_bounded=True), expected) < EXACT
    assert distance(torch.cat(found, dim=1), expected) > 0.01
    assert distance(torch.cat(found, dim=1), _steps(p.ours, head, tail, is_bounded=False)) < EXACT


def _steps(ours: Any, head: torch.Tensor, tail: list[torch.Tensor], is_bounded: bool) -> Any:
    state, logits = ours(head).state, []
    if not is_bounded:
        for module in ours.modules():
            if hasattr(module, "dt_limits"):
                module.dt_limits = (0.0, None)
    for token in tail:
        out = ours(token, state=state)
        state = out.state
        logits.append(ours.head(out.hidden))
    return torch.cat(logits, dim=1)
