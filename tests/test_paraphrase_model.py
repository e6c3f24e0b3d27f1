"""A model in a window of a text and its paraphrase: the second can read the first, others none."""

from typing import Any

import pytest
import torch

from braidlm.arch import Spec
from braidlm.data.mixture import Mixture
from braidlm.model import HybridLM

from .data.folders import ARMS, declared, pairs_of, stream_of, write_folder
from .specs import MAMBA, spec

_ARMS = [arm for arm in ARMS if arm[0] in ("after", "before", "far")]


def logits_of(model: HybridLM, tokens: torch.Tensor, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model(tokens, batch.segments).hidden)


@pytest.fixture(scope="module")
def model() -> HybridLM:
    torch.manual_seed(0)
    small = spec("M*-{GM}").model_dump()
    return HybridLM(Spec.of(small | {"vocab_size": 259, "mixers": {"M": MAMBA}})).eval()


@pytest.mark.parametrize(("layout", "second"), _ARMS)
def test_what_stands_first_changes_what_is_said_of_the_second_and_of_no_other_window(
    tmp_path, model, layout, second
):
    folder = write_folder(tmp_path / "p", pairs_of(9))
    data = declared(folder, layout=layout, second=second, separator="\n")
    batch, stream = Mixture(data, batch_size=2).batch(0), stream_of(data)
    window = stream.windows.window(0)
    place = window.asked_text
    assert place is not None
    begin = stream.starts(window)[place]
    asked = slice(begin - 1, begin - 1 + window.n_asked)
    assert (batch.targets[0, asked] == batch.tokens[0, begin : begin + window.n_asked]).all()
    changed = batch.tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 256  # a token of what stands first
    before, after = (logits_of(model, tokens, batch) for tokens in (batch.tokens, changed))
    moved = (before != after).any(-1)
    assert moved[0, asked].all()
    assert not moved[0, 256:].any()  # the next window of the row
    assert not moved[1].any()
    assert not moved[0, :3].any()


def test_separate_documents_see_nothing_of_each_other(tmp_path, model):
    data = declared(write_folder(tmp_path / "p", pairs_of(9)), layout="separate")
    batch, stream = Mixture(data, batch_size=1).batch(0), stream_of(data)
    first, *_ = stream.documents(stream.windows.window(0))
    changed = batch.tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 256
    before, after = (logits_of(model, tokens, batch) for tokens in (batch.tokens, changed))
    moved = (before - after).abs().amax(-1)
    assert moved[0, 3 : first.stop].max() > 1e-3
    # A boundary inside a chunk of a scan costs the last bits: 7e-7 was seen.
    assert moved[0, first.stop :].max() < 1e-5
