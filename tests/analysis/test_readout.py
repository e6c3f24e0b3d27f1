"""Rank and read-out of memories whose content is known."""

import math

import pytest
import torch

from braidlm.analysis.readout import effective_rank, heads_of, read_out

K, V, P = 8, 5, 12


def test_effective_rank_of_known_spectra():
    q, _ = torch.linalg.qr(torch.randn(6, 6))
    spectra = torch.tensor([[1.0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [2] * 6, [3, 1, 0, 0, 0, 0]])
    found = effective_rank(q @ torch.diag_embed(spectra) @ q.T)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(
        found, torch.tensor([1, 3, 6, math.exp(entropy)]).double(), atol=1e-5, rtol=1e-5
    )
    assert effective_rank(torch.zeros(3, 4)).isnan()


def test_mamba1_is_one_head():
    assert heads_of(torch.zeros(2, 5, 3)).shape == (2, 1, 5, 3)
    assert heads_of(torch.zeros(2, 4, 5, 3)).shape == (2, 4, 5, 3)


def stored(n, keys):
    """Outer products of values and keys, summed: S = sum_k v_k key_k^T, (n, P d) and the values."""
    codes = torch.randn(V, P, generator=torch.Generator().manual_seed(1))
    values = torch.randint(V, (n, K))
    return torch.einsum("nkp,kd->npd", codes[values], keys).flatten(1), values


def recovered(keys, n=400, noise=0.0):
    torch.manual_seed(0)
    (train, a), (test, b) = stored(n, keys), stored(300, keys)
    found = read_out(
        train + noise * torch.randn_like(train), a, test + noise * torch.randn_like(test), b, V
    )
    return float(found.recovered.mean())


def test_everything_is_read_from_a_memory_of_orthogonal_keys():
    assert recovered(torch.eye(K)) == pytest.approx(K, abs=1e-9)


def test_half_the_keys_leave_half_the_pairs():
    keys = torch.eye(K)
    keys[K // 2 :] = 0
    assert recovered(keys) == pytest.approx(K / 2, abs=0.25)


def test_of_nothing_only_chance_is_left():
    assert abs(recovered(torch.zeros(K, K))) < 0.25
    assert abs(recovered(torch.eye(K), noise=100.0)) < 0.4


def test_keys_in_one_direction_mix_their_values():
    assert recovered(torch.ones(K, 1)) < 0.5 * K


def test_fewer_prompts_find_less_and_the_penalty_fits_noise():
    few, many = recovered(torch.eye(K), n=20, noise=0.5), recovered(torch.eye(K), noise=0.5)
    assert few < 0.7 * many
    assert many > 0.8 * K
