"""Meta tokens are what tokens with these embeddings would be, before every document."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from braidlm import interop
from braidlm import state as states
from braidlm.arch import Spec
from braidlm.arch.mixers import AttentionConfig
from braidlm.arch.toml import model_table
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.segments import Segments
from tests.specs import ATTENTION, MAMBA, META, WINDOW, spec

FRONT = (5, 7, 1, 30)


def pair(name: str) -> tuple[HybridLM, HybridLM, list[int]]:
    """A model with meta tokens, the same without, and the tokens that stand for them."""
    torch.manual_seed(0)
    declared = META[name]
    n = declared.n_meta_tokens
    ours = HybridLM(declared).double()
    plain = HybridLM(Spec.of(model_table(declared) | {"n_meta_tokens": 0})).double()
    front = [FRONT[i % 4] for i in range(n)]
    with torch.no_grad():
        assert ours.meta is not None
        ours.meta.weight.copy_(ours.embedding.weight[front])
    rest = {k: v for k, v in ours.state_dict().items() if not k.startswith("meta.")}
    plain.load_state_dict(rest)
    return ours, plain, front


def close(a: Any, b: Any) -> None:
    for x, y in zip(states.tensors(a), states.tensors(b), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", META)
def test_they_are_what_tokens_with_these_embeddings_would_be(name):
    ours, plain, front = pair(name)
    tokens = torch.randint(0, 31, (2, 11))
    longer = torch.cat((torch.tensor(front).expand(2, -1), tokens), dim=1)
    found, truth = ours(tokens), plain(longer)
    assert found.hidden.shape == (2, 11, 16)
    close(found.hidden, truth.hidden[:, len(front) :])
    close(found.state, truth.state)
    again, expected = ours(tokens, state=found.state), plain(tokens, state=truth.state)
    close(again.hidden, expected.hidden)  # they are not put before a continued document


@pytest.mark.parametrize("name", META)
def test_every_packed_document_has_its_own(name):
    ours, plain, front = pair(name)
    rows = [(3, 1, 5), (7,)]
    segments = Segments.from_lengths(rows, 10)
    tokens = torch.randint(0, 31, (2, 10))
    found = ours(tokens, segments)
    documents = [tokens[row, start : start + n] for row, start, n in segments.spans]
    for d, document in enumerate(documents):
        row, start, n = segments.spans[d]
        truth = plain(torch.cat((torch.tensor(front), document))[None])
        close(found.hidden[row, start : start + n], truth.hidden[0, len(front) :])


def test_the_loss_sees_real_tokens_alone():
    ours, plain, front = pair("meta tokens")
    tokens = torch.randint(0, 31, (2, 11))
    longer = torch.cat((torch.tensor(front).expand(2, -1), tokens), dim=1)
    targets = torch.cat((torch.full((2, len(front)), -100), tokens), dim=1)
    torch.testing.assert_close(ours.loss(tokens, tokens), plain.loss(longer, targets))
    ours.loss(tokens, tokens).backward()
    assert ours.meta is not None
    assert ours.meta.weight.grad is not None
    assert bool((ours.meta.weight.grad.abs().amax(dim=1) > 1e-6).all())


def test_a_window_sees_them_however_far_the_text_has_gone():
    for name, is_seen in (("n_sinks left out", True), ("n_sinks = 0", False)):
        own = {} if is_seen else {"n_sinks": 0}
        torch.manual_seed(0)
        windows = {"W": {**WINDOW["W"], **own}}
        model = HybridLM(spec("W", n_meta_tokens=2, mixers=windows)).double()
        tokens = torch.randint(0, 31, (1, 20))
        before = model(tokens).hidden[0, -1]
        with torch.no_grad():
            assert model.meta is not None
            model.meta.weight.add_(1.0)
        assert bool((model(tokens).hidden[0, -1] - before).abs().max() > 1e-3) == is_seen, name


@pytest.mark.parametrize("combine", ["cross_attention", "merge_attention"])
def test_the_window_of_a_fusion_sees_them_too(combine):
    """Branches that forget at once: what is left of the meta tokens comes by the fusion alone."""
    for own, is_seen in (({}, True), ({"n_sinks": 0}, False)):
        torch.manual_seed(0)
        mixers = {"M": MAMBA, "W": {**WINDOW["W"], "window": 1, "n_sinks": 0}}
        fusion = {"combine": combine, "cross": {"window": 3, **own}}
        declared = spec("{MW}", n_meta_tokens=2, mixers=mixers, fusion=fusion)
        assert Spec.of(model_table(declared)) == declared
        model = HybridLM(declared).double()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("A_log"):
                    weight.fill_(20.0)
        tokens = torch.randint(0, 31, (1, 20))
        before = model(tokens).hidden[0, -1]
        with torch.no_grad():
            assert model.meta is not None
            model.meta.weight.add_(1.0)
        change = (model(tokens).hidden[0, -1] - before).abs().max()
        assert bool(change > 1e-3) == is_seen
        assert is_seen or change < 1e-12


def test_the_sinks_of_a_window_follow_unless_they_are_declared():
    def n_sinks(**fields: Any) -> int:
        mixers = {"W": {**WINDOW["W"], **fields}, "A": {"kind": "attention", **ATTENTION}}
        declared = spec("WA", n_meta_tokens=6, mixers=mixers)
        config = next(x.mixer for x in declared.mixers if x.letter == "W")
        assert isinstance(config, AttentionConfig)
        again = Spec.of(model_table(declared))
        assert again == declared
        return config.n_sinks

    assert (n_sinks(), n_sinks(n_sinks=2), n_sinks(n_sinks=0)) == (6, 2, 0)
    assert all(
        x.mixer.n_sinks == 0
        for x in spec("*", n_meta_tokens=6).mixers
        if isinstance(x.mixer, AttentionConfig)
    )


@pytest.mark.parametrize("value", [-1, 2.5, "3", True])
def test_another_number_is_refused(value):
    with pytest.raises(InputError, match=r"n_meta_tokens = "):
        spec("W", n_meta_tokens=value, mixers=WINDOW)


def test_families_of_transformers_without_them_refuse(tmp_path):
    table = {
        "pattern": "(*-)2",
        "d_model": 16,
        "vocab_size": 31,
        "n_meta_tokens": 2,
        "mixers": {"*": ATTENTION, "-": {"d_ff": 24}},
    }
    with pytest.raises(InputError, match="n_meta_tokens"):
        interop.save(HybridLM(Spec.of(table)), tmp_path / "out")


def test_room_in_front_of_documents_and_padding():
    ids = torch.tensor([[-1, 4, 4, 2, -1], [-1, -1, -1, -1, -1], [0, 1, 1, 1, 1]])
    room = Segments.from_doc_ids(ids).with_room(2)
    assert room.segments.doc.tolist() == [
        [-1, 0, 0, 0, 0, 1, 1, 1, -1],
        [-1] * 9,
        [2, 2, 2, 3, 3, 3, 3, 3, 3],
    ]
    assert room.tokens.tolist() == [
        [0, 3, 4, 7, 8],
        [9, 10, 11, 12, 13],
        [20, 23, 24, 25, 26],
    ]
    assert room.free.tolist() == [[1, 2], [5, 6], [18, 19], [21, 22]]
    assert room.segments.lengths.tolist() == [4, 3, 3, 6]
