"""Choice, weights and losses of a router, each against its formula in plain Python."""

import math

import pytest
import torch

from braidlm.ops.routing import balance_loss, loads, mean_entropy, route, z_loss

LOGITS = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 0.0, 0.5, 2.0]], dtype=torch.float64)


def softmax(row):
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def sigmoid(row):
    return [1 / (1 + math.exp(-v)) for v in row]


def assert_weights(found, expected):
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.weight, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("scores", "function"), [("softmax", softmax), ("sigmoid", sigmoid)])
@pytest.mark.parametrize("norm_topk", [True, False])
def test_the_best_are_chosen_and_weigh_their_scores(scores, function, norm_topk):
    found = route(LOGITS, 2, scores=scores, norm_topk=norm_topk, scale=2.5)
    assert found.index.tolist() == [[1, 2], [0, 3]]
    expected = []
    for row, index in zip(LOGITS.tolist(), found.index.tolist(), strict=True):
        chosen = [function(row)[e] for e in index]
        total = sum(chosen) if norm_topk else 1.0
        expected.append([2.5 * c / total for c in chosen])
    assert_weights(found, expected)
    torch.testing.assert_close(found.shares.sum(-1), torch.ones(2, dtype=torch.float64))


def test_topk_first_is_softmax_and_norm_unless_a_bias_chooses():
    first = route(LOGITS, 2, topk_first=True)
    assert_weights(first, [softmax([2.0, 1.0]), softmax([3.0, 2.0])])
    after = route(LOGITS, 2)
    torch.testing.assert_close(first.weight, after.weight, rtol=1e-14, atol=0)
    bias = torch.tensor([0.0, -0.6, 0.0, 0.0])
    # As logits 2 - 0.6 is still first; as probabilities 0.64 - 0.6 is last.
    assert route(LOGITS, 2, topk_first=True, bias=bias).index[0].tolist() == [1, 2]
    assert route(LOGITS, 2, bias=bias).index[0].tolist() == [2, 0]


def test_a_bias_chooses_but_weighs_nothing_and_learns_nothing():
    bias = torch.tensor([0.0, 0.0, 0.0, 5.0], requires_grad=True)
    logits = LOGITS.clone().requires_grad_()
    found = route(logits, 2, scores="sigmoid", norm_topk=False, bias=bias)
    assert found.index.tolist() == [[3, 1], [3, 0]]
    assert_weights(found, [[sigmoid([-1.0])[0], sigmoid([2.0])[0]], sigmoid([2.0, 3.0])])
    found.weight.sum().backward()
    assert bias.grad is None
    assert logits.grad is not None
    assert logits.grad[0].tolist()[0] == 0.0
    with pytest.raises(ValueError, match=r"bias has shape \(3,\); it must be \(4,\)"):
        route(LOGITS, 2, bias=torch.zeros(3))


def test_only_experts_of_the_best_groups_can_be_chosen():
    """Groups (0, 1), (2, 3), (4, 5): the second has the two best together, not the best one."""
    row = [3.0, -9.0, 2.0, 1.9, 1.0, 1.0]
    logits = torch.tensor([row], dtype=torch.float64)
    one = route(logits, 2, scores="sigmoid", n_groups=3, topk_group=1)
    assert one.index.tolist() == [[2, 3]]
    two = route(logits, 3, scores="sigmoid", n_groups=3, topk_group=2)
    assert two.index.tolist() == [[2, 3, 4]]
    assert route(logits, 2, scores="sigmoid").index.tolist() == [[0, 2]]
    assert route(logits, 2, scores="sigmoid", n_groups=3, topk_group=3).index.tolist() == [[0, 2]]
    best_two = torch.tensor([9.0, 0, 0, 0, 0, 0])  # the bias counts in the groups too
    biased = route(logits, 2, scores="sigmoid", n_groups=3, topk_group=1, bias=best_two)
    assert biased.index.tolist() == [[0, 1]]


def test_loads_count_each_row_and_leave_padding_out():
    index = torch.tensor([[[0, 1], [0, 2], [1, 0]], [[2, 1], [2, 0], [2, 1]]])
    assert loads(index, 4).tolist() == [[3, 2, 1, 0], [1, 2, 3, 0]]
    real = torch.tensor([[True, False, True], [False, False, False]])
    assert loads(index, 4, real).tolist() == [[2, 2, 0, 0], [0, 0, 0, 0]]


def balance_by_hand(tokens, n_experts):
    """E sum_e (tokens that chose e / n) (mean share of e), of pairs of choice and shares."""
    total, n = 0.0, len(tokens)
    for e in range(n_experts):
        f = sum(e in chosen for chosen, _ in tokens) / n
        p = sum(shares[e] for _, shares in tokens) / n
        total += f * p
    return n_experts * total


@pytest.mark.parametrize("has_padding", [False, True])
def test_the_balance_loss_is_its_formula_by_batch_and_by_row(has_padding):
    torch.manual_seed(0)
    shares = torch.randn(3, 5, 4, dtype=torch.float64).softmax(-1)
    index = shares.topk(2).indices
    real = torch.ones(3, 5, dtype=torch.bool)
    if has_padding:
        real[0, :3] = False
        real[2] = False
    mask = real if has_padding else None
    kept = [
        [(i.tolist(), s.tolist()) for i, s in zip(index[r][real[r]], shares[r][real[r]])]  # noqa: B905
        for r in range(3)
    ]
    by_row = balance_loss(loads(index, 4, mask), shares, mask)
    sizes = [len(row) for row in kept]
    expected = sum(len(row) * balance_by_hand(row, 4) for row in kept if row) / sum(sizes)
    assert float(by_row) == pytest.approx(expected, rel=1e-12)
    together = [pair for row in kept for pair in row]
    flat = None if mask is None else mask.flatten()[None]
    batch = balance_loss(
        loads(index, 4, mask).sum(0, keepdim=True), shares.flatten(0, 1)[None], flat
    )
    expected = balance_by_hand(together, 4)
    assert float(batch) == pytest.approx(expected, rel=1e-12)
    assert float(batch) != pytest.approx(float(by_row), rel=1e-6)


def test_even_loads_cost_k_and_the_gradient_leads_away_from_the_full_expert():
    even = torch.full((1, 4, 4), 0.25, dtype=torch.float64)
    index = torch.tensor([[[0, 1], [1, 2], [2, 3], [3, 0]]])
    assert float(balance_loss(loads(index, 4), even)) == pytest.approx(2.0)
    logits = torch.zeros(1, 4, 4, dtype=torch.float64, requires_grad=True)
    crowded = torch.tensor([[[0, 1], [0, 2], [0, 3], [0, 1]]])
    balance_loss(loads(crowded, 4), logits.softmax(-1)).backward()
    assert logits.grad is not None
    assert bool((logits.grad[..., 0] > 0).all())
    assert bool((logits.grad[..., 3] < 0).all())


def test_nothing_but_padding_loses_nothing():
    real = torch.zeros(1, 3, dtype=torch.bool)
    shares = torch.full((1, 3, 2), 0.5)
    assert float(balance_loss(loads(torch.zeros(1, 3, 1).long(), 2, real), shares, real)) == 0.0
    assert float(z_loss(torch.ones(3, 2), real[0])) == 0.0


def test_the_z_loss_is_its_formula():
    rows = [math.log(sum(math.exp(v) for v in row)) ** 2 for row in LOGITS.tolist()]
    assert float(z_loss(LOGITS)) == pytest.approx(sum(rows) / 2, rel=1e-12)
    assert float(z_loss(LOGITS, torch.tensor([False, True]))) == pytest.approx(rows[1], rel=1e-12)


def test_entropy_is_log_e_when_undecided_and_zero_when_decided():
    assert float(mean_entropy(torch.full((5, 8), 1 / 8))) == pytest.approx(math.log(8))
    assert float(mean_entropy(torch.eye(4))) == 0.0
