"""Memories of every mixer and fusion: named, counted, exchanged, emptied."""

import pytest
import torch

from braidlm import state as states
from braidlm.analysis.capture import walk
from braidlm.analysis.memories import Memory, about, emptied, exchange, memories
from braidlm.model import HybridLM
from tests.specs import ALL, spec


def test_names_and_kinds():
    model = HybridLM(spec("M-{M*}*G")).eval()
    found = memories(model(torch.randint(31, (1, 9))).state)
    assert found == [
        Memory("0", "recurrent"),
        Memory("2.0", "recurrent"),
        Memory("2.1", "kv"),
        Memory("3", "kv"),
        Memory("4", "recurrent"),
    ]


def test_a_recurrence_inside_an_attention_is_a_memory_of_its_own():
    found = memories(HybridLM(ALL["B'MOJO-F, Mamba-2"])(torch.randint(31, (1, 9))).state)
    assert found == [Memory("0.ssm", "recurrent"), Memory("0", "kv")]


def test_the_cache_of_a_fusion_is_a_memory_of_its_own():
    whole = spec("P", parallel={"P": {"branches": "M*", "combine": "cross_attention"}})
    found = memories(HybridLM(whole)(torch.randint(31, (1, 9))).state)
    assert found[-1] == Memory("0.fusion", "kv")


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_all_memories_of_the_donor_are_the_donor_and_none_the_receiver(name):
    model = HybridLM(ALL[name]).eval()
    a, b = (model(torch.randint(31, (2, 9))).state for _ in range(2))
    every = memories(a)
    for taken, source in ((every, b), ((), a)):
        found = states.tensors(exchange(a, b, taken))
        assert all(map(torch.equal, found, states.tensors(source)))
        assert len(found) == len(states.tensors(source))


@torch.no_grad()
def test_one_memory_is_exchanged_and_nothing_is_shared():
    model = HybridLM(spec("M-{M*}*")).eval()
    a, b = (model(torch.randint(31, (1, 9))).state for _ in range(2))
    mixed = exchange(a, b, {Memory("2.1", "kv")})
    assert torch.equal(mixed[0].ssm, a[0].ssm)
    assert torch.equal(mixed[2].branches[0].conv, a[2].branches[0].conv)
    assert torch.equal(mixed[2].branches[1].k, b[2].branches[1].k)
    assert torch.equal(mixed[3].v, a[3].v)
    before = [t.clone() for t in states.tensors((a, b))]
    for t in states.tensors(mixed):
        t.fill_(7)
    assert all(map(torch.equal, before, states.tensors((a, b))))


@torch.no_grad()
def test_an_emptied_model_begins_anew():
    """With every memory emptied the next tokens are read as the first of a document."""
    model = HybridLM(spec("M-{M*}*GS", mixers={"*": {"n_kv_heads": 1}})).eval()
    a, more = model(torch.randint(31, (1, 9))).state, torch.randint(31, (1, 5))
    fresh, found = model(more).hidden, model(more, state=emptied(a, memories(a))).hidden
    torch.testing.assert_close(found, fresh)
    kept = emptied(a, memories(a)[:1])
    assert torch.equal(kept[3].k, a[3].k)
    assert not kept[0].ssm.any()


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_memories_are_called_as_the_walk_calls_their_mixers(name):
    model = HybridLM(ALL[name]).eval()
    ids = torch.randint(31, (1, 9))
    walked = {part.place: part.about() for layer in walk(model, ids) for part in layer.parts}
    for memory in memories(model(ids).state):
        assert about(memory.place, model.spec) == walked[memory.place]
