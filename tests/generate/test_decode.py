"""Decoding from states against the plain definition: a full forward pass for every token."""

import pytest
import torch
from torch import Tensor

from braidlm.errors import InputError
from braidlm.generate import Sampling, generate, stream_tokens
from braidlm.generate.filters import distribution
from braidlm.model import HybridLM
from tests.specs import PARALLEL, SINGLE, WHOLE

VOCAB = 31
PROMPTS = [[3, 14, 15, 9, 2, 6, 5, 3, 5, 8, 9], [7], [2, 7, 1, 8, 2], [1, 4]]
SPECS = {
    "mamba2": SINGLE["mamba2"],
    "gated deltanet": SINGLE["gated deltanet, grouped values (Qwen3-Next)"],
    "kda": SINGLE["kda"],
    "attention": SINGLE["attention rope"],
    "sequential": WHOLE["sequential hybrid"],
    "parallel": WHOLE["parallel hybrid, untied"],
    "concat": PARALLEL["concat (Falcon-H1)"],
    "subtract": PARALLEL["subtract (Bae)"],
    "cross_attention": PARALLEL["cross-attention (Lee)"],
}


def _model(name: str) -> HybridLM:
    torch.manual_seed(4)
    model = HybridLM(SPECS[name])
    # Larger weights than those of training make the choices depend on the whole context.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return model


@pytest.fixture(scope="module", params=list(SPECS))
def model(request) -> HybridLM:
    return _model(request.param)


@pytest.fixture(scope="module")
def hybrid() -> HybridLM:
    return _model("sequential")


@torch.no_grad()
def _logits(model: HybridLM, ids: list[int]) -> Tensor:
    return model.head(model(torch.tensor([ids])).hidden)[0, -1]


def _greedy(model: HybridLM, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(_logits(model, ids).argmax()))
    return ids[len(prompt) :]


def test_greedy_is_the_argmax_of_full_forwards(model):
    found = generate(model, PROMPTS, max_new_tokens=12, temperature=0)
    assert found == [_greedy(model, prompt, 12) for prompt in PROMPTS]
    # The models are no constant: the prompts are continued in different ways.
    assert len({tuple(row) for row in found}) > 1


def test_a_row_does_not_depend_on_its_neighbours(model):
    greedy = generate(model, PROMPTS, max_new_tokens=8, temperature=0)
    drawn = generate(model, PROMPTS, max_new_tokens=8, seed=5)
    for i, prompt in enumerate(PROMPTS):
        assert generate(model, [prompt], max_new_tokens=8, temperature=0) == [greedy[i]]
        assert generate(model, [prompt], max_new_tokens=8, seed=5, first_row=i) == [drawn[i]]
    assert generate(model, PROMPTS[:2], max_new_tokens=8, seed=5) == drawn[:2]


def test_rows_and_seeds_have_streams_of_their_own(hybrid):
    settings = {"max_new_tokens": 12, "temperature": 3.0}
    twice = generate(hybrid, [PROMPTS[0]] * 3, seed=5, **settings)
    assert len({tuple(row) for row in twice}) == 3
    assert generate(hybrid, [PROMPTS[0]] * 3, seed=5, **settings) == twice
    assert generate(hybrid, [PROMPTS[0]] * 3, seed=6, **settings) != twice
    longer = generate(hybrid, [PROMPTS[0]] * 3, seed=5, max_new_tokens=20, temperature=3.0)
    assert [row[:12] for row in longer] == twice


def test_samples_follow_the_filtered_distribution(hybrid):
    n, prompt = 4000, PROMPTS[2]
    rows = generate(hybrid, [prompt] * n, max_new_tokens=1, temperature=0.7, top_k=6, top_p=0.9)
    counts = torch.bincount(torch.tensor([row[0] for row in rows]), minlength=VOCAB)
    expected = n * distribution(_logits(hybrid, prompt), 0.7, 6, 0.9)
    assert (counts[expected == 0] == 0).all()
    likely = expected > 0
    chi2 = float(((counts - expected)[likely] ** 2 / expected[likely]).sum())
    assert int(likely.sum()) > 1
    assert chi2 < 3 * int(likely.sum()) + 10


def test_stop_tokens_end_their_row_alone(hybrid):
    full = generate(hybrid, PROMPTS, max_new_tokens=16, temperature=0)
    stop = full[0][4]
    found = generate(hybrid, PROMPTS, max_new_tokens=16, temperature=0, stop_ids=(stop,))
    cut = [row[: row.index(stop)] if stop in row else row for row in full]
    assert found == cut
    assert len({len(row) for row in found}) > 1


def test_a_row_that_stops_does_not_move_the_draws_of_others(hybrid):
    settings = {"max_new_tokens": 16, "temperature": 3.0, "seed": 2}
    full = generate(hybrid, PROMPTS, **settings)
    stop = next(token for token in full[0][:8] if token not in full[3])
    found = generate(hybrid, PROMPTS, stop_ids=(stop,), **settings)
    assert found == [row[: row.index(stop)] if stop in row else row for row in full]


def test_all_rows_may_stop_at_once(hybrid):
    everything = tuple(range(VOCAB))
    assert generate(hybrid, PROMPTS, max_new_tokens=5, stop_ids=everything) == [[]] * 4


def test_an_empty_prompt_starts_from_bos(hybrid):
    empty, bos = generate(hybrid, [[], [9]], max_new_tokens=6, temperature=0, bos_id=9)
    assert empty == bos
    with pytest.raises(InputError, match="prompt 1 is empty"):
        generate(hybrid, [[1], []], max_new_tokens=6)


def test_nothing_asked_nothing_given(hybrid):
    assert generate(hybrid, PROMPTS, max_new_tokens=0) == [[], [], [], []]
    assert generate(hybrid, [], max_new_tokens=5) == []


def test_stream_tells_every_token_in_order(hybrid):
    told: list[tuple[int, int]] = []
    found = generate(
        hybrid,
        PROMPTS,
        max_new_tokens=5,
        seed=3,
        stream=lambda row, token: told.append((row, token)),
    )
    for row, tokens in enumerate(found):
        assert [token for r, token in told if r == row] == tokens
    assert [row for row, _ in told[:4]] == [0, 1, 2, 3]
    steps = stream_tokens(hybrid, PROMPTS, max_new_tokens=5, sampling=Sampling(seed=3))
    assert list(steps) == told


def test_the_model_is_left_as_it_was(hybrid):
    hybrid.train()
    tokens = stream_tokens(hybrid, PROMPTS, max_new_tokens=3)
    next(tokens)
    # Between two tokens the caller is free to train on.
    assert hybrid.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert len(list(tokens)) == 11
    hybrid.eval()
    generate(hybrid, PROMPTS, max_new_tokens=1)
    assert not hybrid.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature = -0.1: must be a number of at least 0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 0.0}, "top_p = 0.0: must be greater than 0 and at most 1"),
        ({"top_p": 1.01}, "top_p = 1.01"),
        ({"top_k": -1}, "top_k = -1: must be 0"),
        ({"seed": -1}, "seed = -1"),
        ({"max_new_tokens": -1}, "max_new_tokens = -1: must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(hybrid, changes, message):
    with pytest.raises(InputError, match=message):
        generate(hybrid, PROMPTS, **{"max_new_tokens": 4} | changes)


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_token_outside_the_vocabulary_is_refused(hybrid, token):
    with pytest.raises(InputError, match=f"prompt 1 holds token {token}.*0 .. 30"):
        generate(hybrid, [[1], [2, token]], max_new_tokens=4)


def test_a_broken_model_is_named():
    model = _model("mamba2")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite for prompt 0"):
        generate(model, [[1]], max_new_tokens=4)
