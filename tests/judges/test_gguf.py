"""GGUF files against transformers: a model of theirs written to a file, and their reader of it."""

from __future__ import annotations

from typing import Any

import gguf
import pytest
import torch

from braidlm import interop
from tests.gguf.files import SIZES, write
from tests.interop.test_gguf import theirs_factors

transformers = pytest.importorskip("transformers", minversion="5.15.1")
KINDS = gguf.GGMLQuantizationType
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def drawn(seed: int, **changes: Any):
    """A model of theirs with every weight drawn, norms too."""
    config = transformers.LlamaConfig(
        vocab_size=SIZES["vocab"],
        hidden_size=SIZES["d"],
        intermediate_size=SIZES["ff"],
        num_hidden_layers=SIZES["layers"],
        num_attention_heads=SIZES["heads"],
        num_key_value_heads=SIZES["kv"],
        head_dim=SIZES["head_dim"],
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attn_implementation="eager",
        **changes,
    )
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data.normal_(std=0.2)
    return model


def tokens(n: int = 90) -> torch.Tensor:
    return torch.randint(SIZES["vocab"], (2, n), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def distance(theirs, ours) -> float:
    """Largest difference of logits, in units of their spread."""
    expected, ids = theirs(tokens()).logits, tokens()
    return float((ours.head(ours(ids).hidden) - expected).abs().max() / expected.std())


def written(tmp_path, model, kind=KINDS.F32, **keys):
    tensors = {k: v.detach().float().clone() for k, v in model.state_dict().items()}
    keys = {"llama.rope.freq_base": float(model.config.rope_parameters["rope_theta"]), **keys}
    return write(tmp_path / "a.gguf", tensors, kind=kind, keys=keys)


def test_a_model_of_theirs_is_read_out_of_a_file(tmp_path):
    theirs = drawn(0)
    ours = interop.load(written(tmp_path, theirs)).model
    assert distance(theirs, ours) < 3e-6  # measured 7e-7, in fp32 on both sides


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_their_own_reader_finds_the_same_model(tmp_path, kind):
    file = written(tmp_path, drawn(1), KINDS[kind])
    read = transformers.LlamaForCausalLM.from_pretrained(tmp_path, gguf_file=file.name)
    assert distance(read.eval(), interop.load(file).model) < 3e-6


@pytest.mark.slow
def test_their_reader_passes_over_stretched_frequencies(tmp_path):
    """The tensor rope_freqs.weight is read here; transformers 5.23 loads an unstretched model."""
    theirs = drawn(2, rope_parameters=LLAMA3)
    file = write(
        tmp_path / "a.gguf",
        {k: v.detach().clone() for k, v in theirs.state_dict().items()},
        keys={"llama.rope.freq_base": 5e5, "llama.rope.scaling.original_context_length": 64},
        more={"rope_freqs.weight": theirs_factors(5e5, SIZES["head_dim"], LLAMA3)},
    )
    read = transformers.LlamaForCausalLM.from_pretrained(tmp_path, gguf_file=file.name).eval()
    ours = interop.load(file).model
    assert distance(theirs, ours) < 3e-6
    assert distance(read, ours) > 1e-2
