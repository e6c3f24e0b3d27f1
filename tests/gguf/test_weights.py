"""Tensors of every type that the package `gguf` dequantises, against the package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from braidlm.errors import InputError
from braidlm.gguf import read_header
from braidlm.gguf.weights import Quantised
from tests.gguf.files import finish

KINDS = gguf.GGMLQuantizationType
REFUSED = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "Q1_0"}
"""Types that no file stores as weights, or that the package only knows by name."""


def stored(path, kind, rows=3, blocks=2):
    """Write random bytes as one tensor of a type."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(int(kind)).integers(0, 256, (rows, blocks * size), np.uint8)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("x", data, raw_dtype=kind)
    finish(writer)
    return (rows, blocks * block), data


@pytest.mark.parametrize("kind", [k for k in KINDS if k.name not in REFUSED], ids=lambda k: k.name)
def test_every_type_that_can_be_dequantised_is_read(tmp_path, kind):
    shape, data = stored(tmp_path / "a.gguf", kind)
    source = Quantised(read_header(tmp_path / "a.gguf"))
    found = source.read("x")
    if kind == KINDS.F64:
        expected = data.view(np.float64)
    else:
        with np.errstate(all="ignore"):
            expected = gguf.quants.dequantize(data, kind)
    assert source.about["x"] == (shape, found.dtype)
    assert tuple(found.shape) == shape
    same = found.double().numpy() == expected.reshape(shape)
    assert (same | np.isnan(expected.reshape(shape))).all()
    wide = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
    assert found.dtype == wide.get(kind.name, torch.float32)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_type_that_cannot_be_read_is_named(tmp_path, name):
    stored(tmp_path / "a.gguf", KINDS[name])
    with pytest.raises(InputError, match=rf"'x' is of type {name}, which 'gguf' does not"):
        Quantised(read_header(tmp_path / "a.gguf"))


def test_a_type_of_which_the_package_has_not_heard(tmp_path):
    stored(tmp_path / "a.gguf", KINDS.Q8_0)
    data = (tmp_path / "a.gguf").read_bytes()
    start = data.rindex(int(KINDS.Q8_0).to_bytes(4, "little") + bytes(8))
    other = data[:start] + (31).to_bytes(4, "little") + data[start + 4 :]
    (tmp_path / "a.gguf").write_bytes(other)
    with pytest.raises(InputError, match="'x' is of type 31, which the package 'gguf' lacks"):
        Quantised(read_header(tmp_path / "a.gguf"))


def test_without_the_package_floats_are_read_and_the_rest_names_it(tmp_path, monkeypatch):
    stored(tmp_path / "a.gguf", KINDS.F16)
    stored(tmp_path / "b.gguf", KINDS.Q8_0)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    assert Quantised(read_header(tmp_path / "a.gguf")).read("x").dtype == torch.float16
    with pytest.raises(InputError, match=r"pip install 'braidlm\[gguf\]'"):
        Quantised(read_header(tmp_path / "b.gguf"))
