"""States are plain nested tuples: mapped, selected, cut off, measured, saved, averaged."""

from typing import Any

import pytest
import torch

from braidlm import state as states
from braidlm.arch.cost import cost
from braidlm.mixers.mamba2 import Mamba2State
from braidlm.model import HybridLM
from braidlm.ops.attention import KVCache
from braidlm.parallel import ParallelState
from braidlm.segments import Segments
from tests.specs import ALL, FUSIONS, spec

VOCAB = 31


def tokens(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def nested() -> Any:
    """A state of every shape that occurs: no memory, a tensor, tuples in tuples."""
    mamba = Mamba2State(torch.arange(6.0).view(2, 3), torch.ones(2, 1))
    cache = KVCache(torch.arange(8.0).view(2, 4), torch.zeros(2, 4), torch.tensor([1, 2]))
    return (mamba, None, ParallelState((mamba, cache), None), torch.full((2,), 7.0))


def equal(a: Any, b: Any) -> bool:
    pairs = zip(states.tensors(a), states.tensors(b), strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


class TestTrees:
    def test_a_map_reaches_every_tensor_once_and_keeps_the_types(self):
        doubled = states.map_tensors(lambda t: 2 * t, nested())
        assert [type(part) for part in doubled] == [
            Mamba2State,
            type(None),
            ParallelState,
            torch.Tensor,
        ]
        assert type(doubled[2].branches) is tuple
        assert type(doubled[2].branches[1]) is KVCache
        for new, old in zip(states.tensors(doubled), states.tensors(nested()), strict=True):
            assert torch.equal(new, 2 * old)

    def test_several_states_are_mapped_together(self):
        total = states.map_tensors(lambda a, b, c: a + b - c, nested(), nested(), nested())
        assert equal(total, nested())

    def test_states_of_another_structure_are_refused(self):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            states.map_tensors(torch.add, nested(), nested()[:2])

    def test_tensors_come_in_order(self):
        first, second, *_ = states.tensors(nested())
        assert torch.equal(first, torch.arange(6.0).view(2, 3))
        assert torch.equal(second, torch.ones(2, 1))
        assert len(states.tensors(nested())) == 2 + 2 + 3 + 1
        assert states.tensors(None) == []

    def test_bytes_count_every_element_in_its_own_dtype(self):
        assert states.n_bytes(nested()) == 2 * 4 * (6 + 2) + 4 * (8 + 8) + 8 * 2 + 4 * 2
        assert states.n_bytes(None) == 0
        assert states.n_bytes(torch.zeros(3, dtype=torch.bfloat16)) == 6

    def test_select_takes_documents_in_the_order_asked_for(self):
        picked = states.select(nested(), torch.tensor([1, 0, 1]))
        assert picked[0].ssm.tolist() == [[3, 4, 5], [0, 1, 2], [3, 4, 5]]
        assert picked[2].branches[1].length.tolist() == [2, 1, 2]

    def test_detach_cuts_every_tensor_from_its_graph_and_copies_nothing(self):
        leaf = torch.ones(2, 2, requires_grad=True)
        state = (Mamba2State(2 * leaf, 3 * leaf), None, (4 * leaf,))
        cut = states.detach(state)
        assert all(t.requires_grad for t in states.tensors(state))
        assert not any(t.requires_grad for t in states.tensors(cut))
        pairs = zip(states.tensors(cut), states.tensors(state), strict=True)
        assert all(new.data_ptr() == old.data_ptr() for new, old in pairs)


@pytest.mark.parametrize("name", ALL)
def test_bytes_are_what_the_declaration_predicts(name):
    """What a prefill allocates is what `arch.cost` says, in fp32 and without spare capacity."""
    declared = ALL[name]
    n_docs, length = 3, 11
    state = HybridLM(declared)(tokens(n_docs, length)).state
    costs = cost(declared, length, kv_dtype_bytes=4).sublayers
    for sublayer, memory, predicted in zip(declared.sublayers, state, costs, strict=True):
        counters = sum(t.numel() * 8 for t in states.tensors(memory) if t.dtype == torch.int64)
        per_document = predicted.state_bytes + predicted.kv_bytes
        assert states.n_bytes(memory) - counters == n_docs * per_document, sublayer.symbol


@pytest.fixture(scope="module")
def model() -> HybridLM:
    """A model with every kind of state: recurrent, cache, cache of a fusion, ring."""
    torch.manual_seed(0)
    fusion = FUSIONS["cross-attention (Lee)"]
    windowed = {"W": {"n_heads": 4, "head_dim": 4, "window": 4, "n_sinks": 1}}
    return HybridLM(spec("M{M*}*-W", fusion=fusion, mixers=windowed)).double().eval()


class TestWhatStatesAreFor:
    def test_one_prefix_is_continued_in_two_ways(self, model):
        prefix, first, second = tokens(1, 9), tokens(1, 5, 4), tokens(1, 5, 5)
        with torch.no_grad():
            kept = model(prefix).state
            for tail in (first, second):
                copy = states.map_tensors(torch.clone, kept)
                found = model(tail, state=copy).hidden
                whole = model(torch.cat([prefix, tail], dim=1)).hidden[:, 9:]
                torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)

    def test_one_prefix_serves_a_batch(self, model):
        prefix, tails = tokens(1, 9), tokens(3, 4, 6)
        with torch.no_grad():
            shared = states.select(model(prefix).state, torch.zeros(3, dtype=torch.int64))
            found = model(tails, state=shared).hidden
            whole = model(torch.cat([prefix.expand(3, -1), tails], dim=1)).hidden[:, 9:]
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)

    def test_swapped_states_swap_the_pasts(self, model):
        pasts, tail = tokens(2, 9), tokens(1, 4, 6).expand(2, -1)
        with torch.no_grad():
            straight = model(tail, state=model(pasts).state).hidden
            crossed = states.select(model(pasts).state, torch.tensor([1, 0]))
            swapped = model(tail, state=crossed).hidden
        torch.testing.assert_close(swapped, straight.flip(0), rtol=0, atol=1e-12)
        assert (swapped - straight).abs().max() > 1e-3

    def test_an_emptied_sublayer_forgets_and_the_others_do_not(self, model):
        past, tail = tokens(1, 9), tokens(1, 4, 6)
        with torch.no_grad():
            state = model(past).state
            emptied = (states.map_tensors(torch.zeros_like, state[0]), *state[1:])
            whole = model(tail, state=states.map_tensors(torch.clone, state)).hidden
            without = model(tail, state=emptied).hidden
            alone = model(tail).hidden
        assert (without - whole).abs().max() > 1e-3
        assert (without - alone).abs().max() > 1e-3

    def test_the_average_of_a_state_with_itself_changes_nothing(self, model):
        past, tail = tokens(1, 9), tokens(1, 4, 6)
        with torch.no_grad():
            state = model(past).state

            def mean(a, b):
                return (a + b) / 2 if a.is_floating_point() else a

            average = states.map_tensors(mean, state, state)
            expected = model(tail, state=states.map_tensors(torch.clone, state)).hidden
            torch.testing.assert_close(model(tail, state=average).hidden, expected)

    def test_a_saved_state_goes_on_where_it_was(self, model, tmp_path):
        past, tail = tokens(1, 9), tokens(1, 4, 6)
        with torch.no_grad():
            state = model(past).state
            torch.save(states.tensors(state), tmp_path / "state.pt")
            loaded = iter(torch.load(tmp_path / "state.pt", weights_only=True))
            restored = states.map_tensors(lambda t: next(loaded), state)
            assert equal(restored, state)
            expected = model(torch.cat([past, tail], dim=1)).hidden[:, 9:]
            found = model(tail, state=restored).hidden
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    def test_a_detached_state_carries_its_content_and_no_gradient(self, model):
        past, tail = tokens(1, 9), tokens(1, 4, 6)
        weight = model.blocks[0].mix.mixer.in_proj.weight

        def gradient(cut):
            out = model(past)
            state = states.detach(out.state) if cut else out.state
            hidden = model(tail, state=state).hidden
            return hidden, torch.autograd.grad(hidden.sin().sum(), weight)[0]

        (whole, through), (same, truncated) = gradient(False), gradient(True)
        torch.testing.assert_close(whole, same, rtol=0, atol=0)
        assert (through - truncated).abs().max() > 1e-4

    def test_a_packed_call_gives_one_state_per_document(self, model):
        documents = [tokens(1, n, n) for n in (4, 8, 3)]
        segments = Segments.from_lengths([(4, 8), (3,)])
        batch = torch.zeros(2, 12, dtype=torch.int64)
        batch[segments.is_real] = torch.cat(documents, dim=1)[0]
        with torch.no_grad():
            together = model(batch, segments).state
            for i, document in enumerate(documents):
                alone = states.tensors(model(document).state)
                mine = states.tensors(states.select(together, torch.tensor([i])))
                for a, b in zip(mine, alone, strict=True):
                    if a.shape != b.shape:  # a cache has room for the longest document
                        a = a[:, : b.shape[1]]
                    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_cache_is_donated_without_gradients_and_copied_with_them():
    model = HybridLM(spec("*"))
    with torch.no_grad():
        (grown,) = model(tokens(1, 1), state=model(tokens(1, 4)).state).state
        assert grown.k.shape[1] == 8  # no room: twice the places
        (again,) = model(tokens(1, 1), state=(grown,)).state
    assert again.k.data_ptr() == grown.k.data_ptr()
    assert (grown.length.item(), again.length.item()) == (5, 6)
    before = again.k.clone()
    (fresh,) = model(tokens(1, 1), state=(again,)).state
    assert fresh.k.data_ptr() != again.k.data_ptr()
    assert torch.equal(again.k, before)
