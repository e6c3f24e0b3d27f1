"""Language modelling against sums done by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from braidlm.arch.tasks import LMTask
from braidlm.data.prepare import held_out_documents
from braidlm.data.shards import TokenDocument
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.segments import Segments
from braidlm.tasks import describe, lm, run_task
from braidlm.tasks.lm import LMWork, by_position, edges_of, row_of, summary
from braidlm.tasks.scoring import score
from tests.tasks.models import VOCAB, Known, Uniform, Unigram, recipe

BYTES = ByteTokenizer()


def _document(text: str, name: str = "x", n_bytes: int | None = None) -> TokenDocument:
    tokens = np.array([BYTES.bos_id, *BYTES.encode(text), BYTES.eos_id])
    return TokenDocument(name, tokens, len(text.encode()) if n_bytes is None else n_bytes)


def _rows(model: Known, documents: list[TokenDocument], seq_len: int, edges: np.ndarray) -> list:
    with inference(model):
        losses = score(model, [d.tokens[:-1] for d in documents], seq_len)
    return [row_of(d, found, edges, seq_len) for d, found in zip(documents, losses, strict=True)]


def _summary(model: Known, documents: list[TokenDocument], seq_len: int = 8, bins: int = 2) -> dict:
    edges = edges_of(min(seq_len, max(len(d.tokens) - 2 for d in documents)), bins)
    rows = _rows(model, documents, seq_len, edges)
    tables = {"by_position": by_position(rows, edges, seq_len)}
    return {**summary(rows), "tables": tables, "rows": rows}


def test_bits_per_byte_by_hand():
    """a costs 1 bit, b 2 bits; eos and bos are not scored, bytes are those of the text."""
    found = _summary(Unigram(a=0.5, b=0.25), [_document("ab", n_bytes=4)])
    assert found["metric"] == "bits_per_byte"
    assert found["value"] == pytest.approx(3 / 4, rel=1e-6)
    assert found["metrics"]["nll_per_token"]["value"] == pytest.approx(1.5 * math.log(2), rel=1e-6)
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(2**1.5, rel=1e-6)
    assert found["n"] == 1
    assert found["stderr"] is None
    (row,) = found["rows"]
    assert (row["id"], row["n_tokens"], row["n_bytes"]) == ("x", 2, 4)
    assert row["nll"] == pytest.approx(3 * math.log(2), rel=1e-6)
    assert row["bits"] == pytest.approx(3, rel=1e-6)
    assert row["nll_by_bin"] == pytest.approx([math.log(2), 2 * math.log(2)], rel=1e-6)


def test_errors_are_over_documents():
    """Bits 1 + 1 + 1 of 3 bytes and 2 of 1 byte: r = 5/4, residuals -3/4 and 3/4."""
    found = _summary(Unigram(a=0.5, b=0.25), [_document("aaa"), _document("b")])
    assert found["value"] == pytest.approx(5 / 4, rel=1e-6)
    assert found["stderr"] == pytest.approx(math.sqrt(2 * (9 / 16 + 9 / 16) / 16), rel=1e-6)
    assert found["n"] == 2
    nll, perplexity = (found["metrics"][name] for name in ("nll_per_token", "perplexity"))
    assert nll["stderr"] == pytest.approx(found["stderr"] * math.log(2), rel=1e-6)
    assert perplexity["stderr"] == pytest.approx(nll["stderr"] * perplexity["value"], rel=1e-6)


def test_utf8_bytes_are_counted_and_not_characters():
    found = _summary(Uniform(), [_document("é€")])
    assert found["value"] == pytest.approx(math.log2(VOCAB), rel=1e-6)
    assert found["rows"][0]["n_bytes"] == 5


def test_a_uniform_hybrid_has_the_loss_of_its_vocabulary(tmp_path):
    config = recipe(tmp_path)
    model = HybridLM(config.spec)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = _summary(model, [_document("some text"), _document("more")], seq_len=4)  # type: ignore[arg-type]
    assert found["metrics"]["nll_per_token"]["value"] == pytest.approx(math.log(VOCAB), rel=1e-6)
    assert found["metrics"]["nll_per_token"]["stderr"] < 1e-6


class ByPlace(Known):
    """Its loss is the target's place in its part, and 100 more for a token that is no text."""

    def logits(self, tokens: Tensor, segments: Segments | None) -> Tensor:
        raise AssertionError("language modelling asks for losses, never for logits")

    def loss(
        self, tokens: Tensor, targets: Tensor, segments: Segments | None, reduction: str
    ) -> Tensor:
        place = torch.arange(tokens.shape[1]).expand(tokens.shape)
        place = place if segments is None else segments.position
        return torch.where(targets < 0, 0, place + 100.0 * (targets >= 256))


def test_by_position_by_hand():
    documents = [_document("a" * 11), _document("b" * 3), _document("c" * 6)]
    found = _summary(ByPlace(), documents, seq_len=6, bins=3)
    rows = found["tables"]["by_position"]
    # Parts have 6 and 5, 3, 6 targets: places 0, 1 have four each; 2 four, 3 three; 4 three, 5 two.
    assert [(r["start"], r["end"], r["n"], r["n_documents"]) for r in rows] == [
        (0, 2, 8, 3),
        (2, 4, 7, 3),
        (4, 6, 5, 2),
    ]
    assert [r["nll"] for r in rows] == pytest.approx(
        [0.5, (4 * 2 + 3 * 3) / 7, (3 * 4 + 2 * 5) / 5]
    )
    sums = np.array([2 + 3 + 2 + 3, 2, 2 + 3])  # the middle bin's loss in each document
    counts = np.array([4, 1, 2])
    r = sums.sum() / counts.sum()
    error = math.sqrt(3 / 2 * ((sums - r * counts) ** 2).sum()) / counts.sum()
    assert rows[1]["stderr"] == pytest.approx(error)
    assert found["metrics"]["nll_per_token"]["value"] == pytest.approx((4 + 17 + 22) / 20)


def test_bins_that_no_document_reaches_are_left_out():
    edges = np.arange(6)
    rows = by_position([row_of(_document("abc"), np.ones(3), edges, 100)], edges, 100)
    assert [(r["start"], r["end"], r["n"]) for r in rows] == [(0, 1, 1), (1, 2, 1), (2, 3, 1)]
    assert rows[0]["stderr"] is None


def test_held_out_documents_are_scored_and_others_are_not(tmp_path):
    config = recipe(tmp_path)
    task = LMTask(n_documents=1000, seq_len=16)
    found = run_task(task, Uniform(), BYTES, config)
    expected = {d.id: d for d in held_out_documents(config.data, "text")}
    documents = LMWork(task, BYTES, config).documents
    assert {d.id for d in documents} == set(expected)
    assert 0 < len(documents) == found["n"] < 24
    texts = {i: (tmp_path / "texts" / i).read_bytes() for i in expected}
    assert {d.id: d.n_bytes for d in documents} == {i: len(t) for i, t in texts.items()}
    assert found["value"] == pytest.approx(math.log2(VOCAB), rel=1e-6)
    assert (found["seq_len"], found["trained_seq_len"], found["is_extrapolated"]) == (16, 32, False)
    assert run_task(LMTask(seq_len=33), Uniform(), BYTES, config)["is_extrapolated"]


def test_fewer_documents_are_the_first_of_the_same_order(tmp_path):
    config = recipe(tmp_path)
    few, more = (
        [d.id for d in LMWork(LMTask(n_documents=n), BYTES, config).documents] for n in (2, 6)
    )
    assert len(few) == 2
    assert more[:2] == few


def test_batches_hold_every_document_once_and_change_nothing(tmp_path, monkeypatch):
    config = recipe(tmp_path)
    model = HybridLM(config.spec)
    whole = run_task(LMTask(), model, BYTES, config)
    monkeypatch.setattr(lm, "TOKENS_TOGETHER", 60)
    work = LMWork(LMTask(), BYTES, config)
    assert [i for batch in work.batches for i in batch] == list(range(len(work.documents)))
    sizes = [sum(len(work.documents[i].tokens) for i in batch) for batch in work.batches]
    assert len(sizes) > 3
    assert all(size >= 60 for size in sizes[:-1])
    parts = run_task(LMTask(), model, BYTES, config)
    assert parts["value"] == pytest.approx(whole["value"], rel=1e-6)


def test_what_cannot_be_is_refused(tmp_path):
    config = recipe(tmp_path)
    data = config.data.model_copy(update={"held_out": 0.0})
    nothing = config.model_copy(update={"data": data})
    with pytest.raises(InputError, match=r"no held-out document \(held_out = 0.0\)"):
        run_task(LMTask(), Uniform(), BYTES, nothing)
    small = config.model_copy(update={"spec": config.spec.model_copy(update={"vocab_size": 258})})
    with pytest.raises(InputError, match="'bytes' has 259 tokens: the model's vocab_size = 258"):
        run_task(LMTask(), Uniform(), BYTES, small)
    with pytest.raises(InputError, match="'books' is no text source of this recipe; allowed: text"):
        run_task(LMTask(source="books"), Uniform(), BYTES, config)


def test_the_model_gets_its_mode_back(tmp_path):
    model = Uniform().train()
    run_task(LMTask(), model, BYTES, recipe(tmp_path))
    assert model.training
    assert torch.is_grad_enabled()


def test_an_example_is_drawn(tmp_path):
    config = recipe(tmp_path)
    drawn = describe(LMTask(seq_len=4), config)
    first = next(held_out_documents(config.data, "text"))
    text = (tmp_path / "texts" / first.id).read_bytes()
    assert drawn.startswith(f"document {first.id}: {len(text)} tokens, {len(text)} bytes")
    assert f"<bos>{text[:3].decode()} -> {text[3:4].decode()!r}" in drawn
