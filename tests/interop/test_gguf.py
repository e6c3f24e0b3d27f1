"""GGUF files of Llama against folders with the same weights: every tensor, logits, settings."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from braidlm import interop
from braidlm.checkpoint import load_model
from braidlm.errors import InputError
from braidlm.interop.rope_factors import scaling_of
from tests.gguf.files import CONFIG, SIZES, dequantised, folder, weights, write

KINDS = gguf.GGMLQuantizationType
WRITTEN = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def both(tmp_path, tensors, kind=KINDS.F32, *, keys=None, more=None, **changes):
    """Load a model from a GGUF file and from a folder of transformers."""
    file = write(tmp_path / "a.gguf", tensors, kind=kind, keys=keys, more=more)
    changes = {"tie_word_embeddings": "lm_head.weight" not in tensors, **changes}
    other = folder(tmp_path / "hf", dequantised(tensors, kind), **changes)
    return interop.load(file).model, interop.load(other).model


def assert_same(ours, theirs):
    """Every weight bit for bit, one declaration, and so the same logits bit for bit."""
    assert ours.spec == theirs.spec
    a, b = ours.state_dict(), theirs.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    tokens = torch.arange(2 * 9).reshape(2, 9) % SIZES["vocab"]
    assert torch.equal(ours.head(ours(tokens).hidden), theirs.head(theirs(tokens).hidden))


@pytest.mark.parametrize("kind", WRITTEN)
@torch.no_grad()
def test_quantised_weights_are_those_of_a_folder_that_holds_them_as_floats(tmp_path, kind):
    assert_same(*both(tmp_path, weights(), KINDS[kind]))


@torch.no_grad()
def test_a_tied_head_and_biases_are_found_among_the_tensors(tmp_path):
    tensors = weights(1, has_head=False, has_bias=True)
    ours, theirs = both(tmp_path, tensors, attention_bias=True, mlp_bias=True)
    assert_same(ours, theirs)
    assert ours.spec.tie_embeddings


def theirs_factors(theta: float, dim: int, rule: dict) -> np.ndarray:
    """The numbers of rope_freqs.weight, as llama.cpp's conversion computes them in fp32."""
    plain = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    length, high = rule["original_max_position_embeddings"], rule["high_freq_factor"]
    low, factors = rule["low_freq_factor"], []
    for frequency in plain:
        wavelength = 2 * np.pi / frequency
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(rule["factor"])
        else:
            smooth = (length / wavelength - low) / (high - low)
            factors.append(float(1 / ((1 - smooth) / rule["factor"] + smooth)))
    return np.array(factors, np.float32)


ROPES = {
    "plain": ({}, {}, {}),
    "linear": (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"rope_type": "linear", "factor": 4.0},
        {},
    ),
    "yarn": (
        {
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.original_context_length": 512,
            "llama.rope.scaling.finetuned": True,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        {},
    ),
    "none": ({"llama.rope.scaling.type": "none"}, {}, {}),
    "a factor of 1": ({"llama.rope.scaling.factor": 1.0}, {}, {}),
    "llama3": ({}, LLAMA3, {"rope_freqs.weight": theirs_factors(5e5, 16, LLAMA3)}),
    "equal factors": (
        {},
        {"rope_type": "linear", "factor": 2.0},
        {"rope_freqs.weight": np.full(8, 2, np.float32)},
    ),
}


@pytest.mark.parametrize("name", ROPES)
@torch.no_grad()
def test_rotary_settings_mean_what_they_mean_in_a_folder(tmp_path, name):
    keys, rope, more = ROPES[name]
    table = {"rope_type": "default", **rope, "rope_theta": 5e5}
    keys = {"llama.rope.freq_base": 5e5, **keys}
    assert_same(*both(tmp_path, weights(), keys=keys, more=more, rope_parameters=table))


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    ("factor", "low", "high", "length"),
    [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (16.0, 1.0, 3.0, 4096), (4.0, 2.0, 7.0, 2048)],
)
def test_the_rule_behind_the_factors_is_found_again(theta, dim, factor, low, high, length):
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    rule = dict(zip(names, (factor, low, high, length), strict=True))
    found = scaling_of(theirs_factors(theta, dim, rule).tolist(), theta, dim, length)
    assert found is not None
    assert found["original_length"] == length
    bounds = found["factor"], found["low_freq_factor"], found["high_freq_factor"]
    assert bounds == pytest.approx((factor, low, high), rel=1e-4)


def test_without_a_length_the_same_frequencies_are_found():
    rule = LLAMA3 | {"high_freq_factor": 3.0, "original_max_position_embeddings": 4096}
    found = scaling_of(theirs_factors(5e5, 64, rule).tolist(), 5e5, 64)
    assert found is not None
    assert (found["low_freq_factor"], found["original_length"]) == (1.0, 4096)


@torch.no_grad()
def test_a_partial_rotation_turns_neighbours_among_the_first_channels(tmp_path):
    """Against llama.cpp's own equation: channels 2i and 2i + 1 of q and k, for 2i below 8."""
    file = write(tmp_path / "a.gguf", weights(), keys={"llama.rope.dimension_count": 8})
    model = interop.load(file).model
    plain = interop.load(write(tmp_path / "b.gguf", weights())).model
    width, mixed = SIZES["head_dim"], "blocks.0.mix.mixer.in_proj.weight"
    rows = model.get_parameter(mixed).reshape(-1, width, SIZES["d"])
    whole = plain.get_parameter(mixed).reshape(-1, width, SIZES["d"])
    n_turned = SIZES["heads"] + SIZES["kv"]
    stored = torch.empty_like(whole[:n_turned])  # halves of 8 back to the neighbours of the file
    stored[:, 0::2], stored[:, 1::2] = whole[:n_turned, :8], whole[:n_turned, 8:]
    assert torch.equal(rows[:n_turned, :4], stored[:, 0:8:2])
    assert torch.equal(rows[:n_turned, 4:8], stored[:, 1:8:2])
    assert torch.equal(rows[:n_turned, 8:], stored[:, 8:])
    assert model.spec.sublayers[0].branches[0].model_dump()["rope_fraction"] == 0.5


@torch.no_grad()
def test_an_imported_run_is_the_model(tmp_path):
    file = write(tmp_path / "tiny.Q8_0.gguf", weights(), kind=KINDS.Q8_0)
    made = interop.import_run(file, tmp_path / "run")
    model, recipe = load_model(tmp_path / "run")
    assert_same(model, interop.load(file).model)
    assert recipe.name == "tiny.Q8_0"
    assert made["tokenizer"] == "none"
    assert made["family"] == "llama"
    interop.export_run(tmp_path / "run", tmp_path / "out")
    assert_same(interop.load(tmp_path / "out").model, model)


def test_halves_stay_halves_and_the_rest_is_fp32(tmp_path):
    file = write(tmp_path / "a.gguf", weights(), kind=KINDS.F16)
    assert interop.import_run(file, tmp_path / "run")["dtypes"] == ["float16", "float32"]


KEYS = {
    "no layers": ({"llama.block_count": 0}, r"llama\.block_count = 0"),
    "no width": ({"llama.embedding_length": None}, r"'llama\.embedding_length' is missing"),
    "no heads": ({"llama.attention.head_count": None}, r"head_count' is missing"),
    "no eps": ({"llama.attention.layer_norm_rms_epsilon": None}, r"rms_epsilon' is missing"),
    "heads that do not divide": ({"llama.attention.head_count_kv": 3}, "n_kv_heads = 3"),
    "a width of its own for values": (
        {"llama.attention.key_length": 16, "llama.attention.value_length": 8},
        r"value_length = 8.*as wide as a key",
    ),
    "another number of layers": ({"llama.block_count": 3}, r"'blk\.2\.attn_norm.weight' of shape"),
    "fewer layers": ({"llama.block_count": 1}, r"'blk\.1\..*' of shape .* is unexpected"),
    "experts": ({"llama.expert_count": 8}, r"expert_count = 8: no field of ours"),
    "a key that nobody knows": ({"llama.logit_scale": 0.5}, r"logit_scale = 0\.5: no field of"),
    "an odd rotation": ({"llama.rope.dimension_count": 7}, "dimension_count = 7"),
    "too wide a rotation": ({"llama.rope.dimension_count": 18}, "even, and at most 16"),
    "another scaling": ({"llama.rope.scaling.type": "longrope"}, "'longrope'.*none, linear, yarn"),
    "yarn without a length": (
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0},
        "original_context_length = None",
    ),
    "a part": ({"split.count": 3}, r"split\.count = 3.*llama-gguf-split --merge"),
    "text for a number": ({"llama.block_count": "2"}, "block_count = '2'"),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_that_cannot_be_are_named(tmp_path, name):
    keys, says = KEYS[name]
    file = write(tmp_path / "a.gguf", weights(), keys=keys)
    with pytest.raises(InputError, match=rf"a\.gguf: .*{says}"):
        interop.load(file)


def test_another_architecture_is_named(tmp_path):
    file = write(tmp_path / "a.gguf", weights())
    data = file.read_bytes()
    file.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1))
    with pytest.raises(InputError, match=r"general\.architecture = 'qwen2'; known: llama"):
        interop.load(file)


FACTORS = {
    "no rule": np.array([1, 5, 1, 2, 3, 1, 8, 2], np.float32),
    "too few": np.ones(3, np.float32),
    "negative": np.full(8, -1, np.float32),
}


@pytest.mark.parametrize("name", FACTORS)
def test_factors_that_follow_no_rule_are_refused(tmp_path, name):
    more = {"rope_freqs.weight": FACTORS[name]}
    with pytest.raises(InputError, match=r"'rope_freqs\.weight': "):
        interop.load(write(tmp_path / "a.gguf", weights(), more=more))


def test_factors_beside_another_scaling_are_refused(tmp_path):
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    more = {"rope_freqs.weight": np.full(8, 2, np.float32)}
    with pytest.raises(InputError, match=r"scaling\.type = 'linear'.*rope_freqs"):
        interop.load(write(tmp_path / "a.gguf", weights(), keys=keys, more=more))


def test_a_weight_that_is_infinite_is_refused(tmp_path):
    tensors = weights()
    tensors["model.norm.weight"][3] = float("inf")
    with pytest.raises(InputError, match=r"'output_norm\.weight' holds NaN or infinity"):
        interop.load(write(tmp_path / "a.gguf", tensors))


def test_the_spec_is_read_without_reading_a_weight(tmp_path):
    tensors = weights()
    tensors["model.norm.weight"][3] = float("inf")
    spec = interop.spec_of(write(tmp_path / "a.gguf", tensors))
    assert spec.d_model == CONFIG["hidden_size"]
    assert spec.vocab_size == SIZES["vocab"]
