"""`import braidlm.hf`: any declared hybrid behind the interface of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from braidlm import interop
from braidlm.errors import InputError
from braidlm.generate import generate
from braidlm.model import HybridLM
from tests.specs import ALL, FUSIONS, spec

transformers = pytest.importorskip("transformers", minversion="5.15.1")
transformers.utils.logging.disable_progress_bar()

from braidlm.hf import BraidCache, BraidForCausalLM  # noqa: E402

HYBRID = spec("M-{M*}W-", fusion=FUSIONS["merge-attention"], tie_embeddings=False)
PROMPTS = [[1, 2, 3], list(range(4, 21)), [3]]
CLOSE = 1e-5
"""fp32, where a batch may be summed in another order than a row; equal bits otherwise."""


def loaded(path, ours: HybridLM) -> Any:
    interop.save(ours, path, format="braid-hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert type(model) is BraidForCausalLM
    return model


def ours_of(declared=HYBRID) -> HybridLM:
    model = HybridLM(declared).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("router.bias"):  # zero at first, which tells nothing
            buffer.normal_()
    return model


def padded(side: str = "left") -> tuple[Tensor, Tensor]:
    width = max(map(len, PROMPTS))
    rows = [[0] * (width - len(p)) + p for p in PROMPTS]
    rows = rows if side == "left" else [p + [0] * (width - len(p)) for p in PROMPTS]
    mask = [[int(t != 0) for t in row] for row in rows]
    return torch.tensor(rows), torch.tensor(mask)


def logits(model: HybridLM, ids: Tensor) -> Tensor:
    return model.head(model(ids).hidden)


@torch.no_grad()
def test_the_bias_of_shared_experts_travels_too(tmp_path):
    """A buffer, under one name of two."""
    name = "model.blocks.2.mix.mixer.router.bias"
    ours = ours_of(ALL["shared experts, scaled"])
    bias = ours.get_buffer(name.removeprefix("model."))
    bias.normal_()
    theirs = loaded(tmp_path / "a", ours)
    theirs.save_pretrained(tmp_path / "b")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    for model in (theirs, again):
        assert torch.equal(model.get_buffer(name), bias)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if i % 8 == 0 else pytest.mark.slow)
        for i, name in enumerate(ALL)
    ],
)
def test_any_declaration_is_loaded_and_generates_as_ours_does(tmp_path, name):
    """Greedy, a batch padded on the left; and the folder comes back as a run."""
    ours = ours_of(ALL[name])
    theirs = loaded(tmp_path / "a", ours)
    ids, mask = padded()
    torch.testing.assert_close(theirs(ids[1:2]).logits, logits(ours, ids[1:2]), atol=CLOSE, rtol=0)
    made = theirs.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    expected = generate(ours, PROMPTS, max_new_tokens=6, temperature=0.0)
    assert made[:, ids.shape[1] :].tolist() == expected
    theirs.save_pretrained(tmp_path / "b")
    back = interop.load(tmp_path / "b")
    assert back.model.spec == ours.spec
    assert back.family == "braid"
    for key, tensor in ours.state_dict().items():
        assert torch.equal(back.model.state_dict()[key], tensor), key


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_row(tmp_path, side):
    ours = ours_of()
    theirs = loaded(tmp_path / "a", ours)
    ids, mask = padded(side)
    found = theirs(ids, attention_mask=mask).logits
    for row, keep, prompt in zip(found, mask.bool(), PROMPTS, strict=True):
        torch.testing.assert_close(
            row[keep], logits(ours, torch.tensor([prompt]))[0], atol=CLOSE, rtol=0
        )


@torch.no_grad()
def test_a_cache_is_continued_by_one_token_and_by_several(tmp_path):
    theirs = loaded(tmp_path / "a", ours_of())
    ids = torch.randint(1, 31, (2, 23))
    whole = theirs(ids).logits
    cache, parts = BraidCache(), []
    for part in ids.split([9, 1, 1, 8, 4], dim=1):
        out = theirs(part, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits)
    assert cache.get_seq_length() == 23
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=CLOSE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2},
    ],
)
def test_every_way_of_generating_is_the_same_without_a_cache(tmp_path, settings):
    theirs = loaded(tmp_path / "a", ours_of())
    ids, mask = padded()
    settings = {"max_new_tokens": 5, "do_sample": False, **settings}
    found = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        made = theirs.generate(ids, attention_mask=mask, use_cache=use_cache, **settings)
        found.append(made.tolist())
    assert found[0] == found[1]


@torch.no_grad()
def test_a_prompt_can_be_read_in_parts(tmp_path):
    theirs = loaded(tmp_path / "a", ours_of())
    ids, settings = torch.randint(1, 31, (2, 19)), {"max_new_tokens": 5, "do_sample": False}
    parts = theirs.generate(ids, prefill_chunk_size=4, **settings)
    assert parts.tolist() == theirs.generate(ids, **settings).tolist()


def test_packed_documents_are_told_by_their_positions(tmp_path):
    theirs = loaded(tmp_path / "a", ours_of())
    documents = [torch.randint(1, 31, (1, n)) for n in (7, 1, 9)]
    positions = torch.cat([torch.arange(d.shape[1]) for d in documents])[None]
    found = theirs(torch.cat(documents, dim=1), position_ids=positions).logits
    alone = torch.cat([theirs(d).logits for d in documents], dim=1)
    torch.testing.assert_close(found, alone, atol=CLOSE, rtol=0)


def test_the_loss_is_ours_and_training_returns_no_state(tmp_path):
    ours = ours_of()
    theirs = loaded(tmp_path / "a", ours).train()
    ids = torch.randint(1, 31, (2, 12))
    labels = ids.clone()
    labels[0, :4] = -100
    out = theirs(ids, labels=labels)
    assert out.past_key_values is None
    targets = torch.cat((labels[:, 1:], torch.full((2, 1), -100)), dim=1)
    torch.testing.assert_close(out.loss, ours.loss(ids, targets))
    out.loss.backward()
    assert all(p.grad is not None for p in theirs.parameters())


def test_bf16_leaves_the_recurrence_in_fp32(tmp_path):
    interop.save(ours_of(), tmp_path / "a", format="braid-hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.bfloat16)
    dtypes = {name.split(".")[-1]: p.dtype for name, p in model.named_parameters()}
    kept = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert kept == {"A_log", "D", "dt_bias"}
    assert torch.isfinite(model(torch.randint(1, 31, (1, 9))).logits).all()


def test_what_it_cannot_is_one_sentence(tmp_path):
    theirs = loaded(tmp_path / "a", ours_of())
    ids = torch.ones(2, 4, dtype=torch.int64)
    for asked in (
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"inputs_embeds": torch.zeros(2, 4, 12)},
    ):
        with pytest.raises(InputError, match=f"{next(iter(asked))}.*not to be had"):
            theirs(ids, **asked)
    with pytest.raises(InputError, match=r"attention_mask has shape \(3, 4\)"):
        theirs(ids, attention_mask=torch.ones(3, 4))
    with pytest.raises(InputError, match="hides all new tokens of a row"):
        theirs(ids, attention_mask=torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    with pytest.raises(InputError, match="2 runs of true"):
        theirs(ids, attention_mask=torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]))
    with pytest.raises(InputError, match="pattern"):
        transformers.AutoConfig.for_model("braid", spec={"pattern": "|"})
    with pytest.raises(ValueError, match="cannot be taken back"):
        BraidCache().crop(3)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_low_rank_adapters_attach_train_and_merge(tmp_path):
    peft = pytest.importorskip("peft")
    theirs = loaded(tmp_path / "a", ours_of())
    ids = torch.randint(1, 31, (2, 12))
    before = theirs(ids).logits.detach()
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["in_proj", "out_proj"])
    model = peft.get_peft_model(theirs, config)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    torch.testing.assert_close(model(ids).logits, before)  # an adapter adds nothing at first
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for _ in range(4):
        loss = model(ids, labels=ids).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    model.eval()
    with torch.no_grad():
        adapted = model(ids).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, adapted, atol=1e-4, rtol=0)
    assert type(merged) is BraidForCausalLM
