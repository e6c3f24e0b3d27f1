"""What a GGUF file says, against the package `gguf`; and files that are damaged."""

from __future__ import annotations

import contextlib

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from braidlm.errors import InputError
from braidlm.foreign import is_gguf
from braidlm.gguf import read_header
from braidlm.gguf.weights import Quantised
from tests.gguf.files import finish, weights, write

VALUES = {
    "a.bool": True,
    "a.text": "ein Wort, 字, \n",
    "a.empty": "",
    "a.list": ["x", "", "zwei"],
    "a.numbers": [3, -4, 5],
    "a.halves": [0.5, 0.25],
}


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.gguf", weights(), keys=VALUES)


def test_keys_and_places_are_those_that_the_package_reads(path):
    theirs, ours = gguf.GGUFReader(path), read_header(path)
    told = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert told.keys() == ours.fields.keys()
    for key, value in told.items():
        found = ours.fields[key]
        assert type(found) is type(value)
        assert found == value or np.float32(found) == np.float32(value)
    assert ours.fields["llama.attention.layer_norm_rms_epsilon"] == 1e-5  # not 9.99999974e-06
    for tensor in theirs.tensors:
        stored = ours.tensors[tensor.name]
        assert stored.shape == tuple(tensor.shape.tolist()[::-1])
        assert stored.kind == tensor.tensor_type
        assert stored.start == tensor.data_offset


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "uint64", "int64", "float64"])
def test_numbers_of_every_width(tmp_path, kind):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    value = 0.1 if kind == "float64" else 77
    getattr(writer, f"add_{kind}")("a.number", value)
    finish(writer)
    assert read_header(tmp_path / "a.gguf").fields["a.number"] == value


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_tensors_begin_where_the_alignment_says(tmp_path, alignment):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_custom_alignment(alignment)
    numbers = [np.arange(5, dtype=np.float32), np.arange(7, dtype=np.float32)]
    for name, data in zip("ab", numbers, strict=True):
        writer.add_tensor(name, data)
    finish(writer)
    source = Quantised(read_header(tmp_path / "a.gguf"))
    for name, data in zip("ab", numbers, strict=True):
        assert source.read(name).tolist() == data.tolist()


def test_a_file_calls_itself_gguf_by_its_name_or_its_bytes(path, tmp_path):
    other = tmp_path / "model.bin"
    other.write_bytes(path.read_bytes())
    (tmp_path / "empty.gguf").touch()
    assert is_gguf(path)
    assert is_gguf(other)
    assert is_gguf(tmp_path / "empty.gguf")
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "absent.gguf")


FORMS = {
    "nothing": (b"", "first bytes are not 'GGUF'"),
    "another form": (b"\x80\x02PK and more", "first bytes are not 'GGUF'"),
    "the first version": (b"GGUF\x01\0\0\0" + bytes(16), "version 1 of GGUF"),
    "the other order": (b"GGUF\0\0\0\x03" + bytes(16), "big-endian"),
    "four bytes": (b"GGUF", "cut short or damaged: it ends in its beginning"),
    "endless keys": (b"GGUF\x03\0\0\0" + bytes(8) + b"\xff" * 8, "key 1 of 18446744073709551615"),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_no_such_file_is_refused(tmp_path, name):
    data, says = FORMS[name]
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_header(tmp_path / "a.gguf")


def opened(path, data: bytes) -> None:
    path.write_bytes(data)
    source = Quantised(read_header(path))
    for name in source.about:
        source.read(name)


def test_a_file_that_is_cut_anywhere_is_refused(path, tmp_path):
    data = path.read_bytes()
    start = min(t.start for t in read_header(path).tensors.values())
    opened(tmp_path / "b.gguf", data)
    for end in [*range(0, start, 41), start, start + 1, len(data) - 40]:
        with pytest.raises(InputError, match=r"cut short|first bytes"):
            opened(tmp_path / "b.gguf", data[:end])


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_damaged_bytes_lead_to_one_sentence_or_to_a_file(path, tmp_path, data):
    damaged = bytearray(path.read_bytes())
    start = min(t.start for t in read_header(path).tensors.values())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, start - 1))
        damaged[at] = data.draw(st.sampled_from([0, 1, 8, 9, 255, damaged[at] ^ 1]))
    with contextlib.suppress(InputError):
        opened(tmp_path / "b.gguf", bytes(damaged))
