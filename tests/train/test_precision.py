import pytest
import torch

from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.train import precision
from braidlm.train.precision import cpu_flags, resolve_precision

CPU = torch.device("cpu")


def pretend(monkeypatch, capability: str, flags: str):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags.split()))


@pytest.mark.parametrize(
    ("capability", "flags", "name", "words"),
    [
        ("AVX512", "avx512f avx512_bf16", "bf16", "AVX-512 BF16"),
        ("AVX512", "avx512f avx512_bf16 amx_bf16", "bf16", "AMX"),
        ("AVX512", "avx512f", "fp32", "no bf16 unit"),
        ("AVX2", "avx512f avx512_bf16", "fp32", "no bf16 unit"),
        ("DEFAULT", "", "fp32", "no bf16 unit"),
    ],
)
def test_auto_follows_the_processor(monkeypatch, capability, flags, name, words):
    pretend(monkeypatch, capability, flags)
    resolved = resolve_precision("auto", CPU)
    assert resolved.name == name
    assert words in resolved.reason


def test_bf16_without_a_unit_is_allowed_and_says_so(monkeypatch):
    pretend(monkeypatch, "AVX2", "avx2")
    resolved = resolve_precision("bf16", CPU)
    assert resolved.name == "bf16"
    assert "slower than fp32" in resolved.reason


def test_fp32_stays_fp32_on_any_processor(monkeypatch):
    pretend(monkeypatch, "AVX512", "amx_bf16")
    assert resolve_precision("fp32", CPU).name == "fp32"


def test_flags_come_from_the_system_file(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu amx_bf16 avx2\nprocessor : 1\n")
    assert cpu_flags(str(file)) == {"fpu", "amx_bf16", "avx2"}
    assert cpu_flags(str(tmp_path / "none")) == frozenset()


def test_autocast_multiplies_in_the_resolved_precision():
    x = torch.randn(4, 4)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with resolve_precision(name, CPU).autocast():
            assert (x @ x).dtype == dtype


def test_a_missing_gpu_is_an_input_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(InputError, match='device = "cuda"'):
        choose_device("cuda")


def test_a_gpu_without_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    gpu = choose_device("auto")
    assert gpu.type == "cuda"
    assert resolve_precision("auto", gpu).name == "fp32"
    with pytest.raises(InputError, match="Old GPU has no bf16"):
        resolve_precision("bf16", gpu)
