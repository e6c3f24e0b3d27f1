"""The programs of docs/conformance.md print what the page says, on the version that it names."""

from __future__ import annotations

import re

import pytest

from tests.house import ROOT, blocks

transformers = pytest.importorskip("transformers")
VERSION = "5.23.0"
PROGRAMS = [b for b in blocks(ROOT / "docs" / "conformance.md", "python") if "import torch" in b]


@pytest.mark.slow
@pytest.mark.skipif(transformers.__version__ != VERSION, reason=f"the page is about {VERSION}")
@pytest.mark.parametrize(
    ("name", "wrong", "n_right"),
    [
        ("MambaForCausalLM", 1.64, 0),
        ("NemotronHForCausalLM", 0.76, 1),
        ("JambaForCausalLM", 2.65, 0),
        ("BambaForCausalLM", 0.48, 1),
    ],
)
def test_a_program_prints_what_the_page_says(name, wrong, n_right, capsys):
    (code,) = [b for b in PROGRAMS if f" {name}\n" in b.partition("torch.manual_seed")[0]]
    exec(code, {})
    found = [float(x) for x in re.findall(r"tensor\(([\d.e+-]+)\)", capsys.readouterr().out)]
    assert found[0] == pytest.approx(wrong, rel=0.01)
    assert len(found) == 1 + n_right
    assert all(x < 1e-5 for x in found[1:])
