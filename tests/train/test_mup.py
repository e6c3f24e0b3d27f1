"""muP: what depends on the width, and that updates of the layers' outputs then do not."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from braidlm.arch import Recipe, Spec
from braidlm.arch.experiment import TrainConfig
from braidlm.arch.widen import widen
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.train.optimizer import build_optimizer, set_learning_rate

CONFIG = TrainConfig(lr=4e-3, weight_decay=0.1)
MIXERS = {
    "M": {"head_dim": 16, "d_state": 8},
    "*": {"head_dim": 16},
    "-": {"d_ff": 64},
}


def declared(pattern: str, base: int, **fields: Any) -> Spec:
    data = {"pattern": pattern, "d_model": 32, "vocab_size": 64, "mup_base_width": base}
    return Spec.of({**data, "mixers": MIXERS, **fields})


def built(spec: Spec) -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(spec)


TOKENS = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(1))


class TestModel:
    def test_at_its_base_width_a_mup_model_is_the_standard_one(self):
        plain, mup = (built(declared("M-*-", base)) for base in (0, 32))
        for (name, a), b in zip(plain.named_parameters(), mup.parameters(), strict=True):
            assert torch.equal(a, b), name
        assert torch.equal(plain.loss(TOKENS, TOKENS), mup.loss(TOKENS, TOKENS))
        groups = [build_optimizer(m, CONFIG, m.spec.width_ratio).param_groups for m in (plain, mup)]
        assert [g["name"] for g in groups[0]] == [g["name"] for g in groups[1]]

    @pytest.mark.parametrize("tied", [True, False])
    def test_hidden_matrices_start_smaller_and_what_faces_the_vocabulary_does_not(self, tied):
        wide = widen(declared("{M*}-M", 32, tie_embeddings=tied), 288)
        for name, weight in built(wide).named_parameters():
            if weight.ndim < 2 or "conv" in name:
                continue
            faces = name in ("embedding.weight", "lm_head.weight")
            expected = 32**-0.5 if faces else 32**-0.5 / 3
            assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05), name

    def test_logits_shrink_with_the_width_and_the_loss_knows_it(self):
        spec = declared("M-", 8, logits_multiplier=3.0)
        model = built(spec)
        hidden = torch.randn(2, 5, 32)
        expected = hidden @ model.embedding.weight.T * (3.0 * 8 / 32)
        torch.testing.assert_close(model.head(hidden), expected)
        logits = model.head(model(TOKENS).hidden)
        loss = F.cross_entropy(logits.flatten(0, 1), TOKENS.flatten())
        torch.testing.assert_close(model.loss(TOKENS, TOKENS), loss)


class TestOptimizer:
    def test_hidden_matrices_have_a_rate_and_a_decay_of_their_own(self):
        model = built(declared("M-*-", 8))
        optimizer = build_optimizer(model, CONFIG, model.spec.width_ratio)
        set_learning_rate(optimizer, 0.4)
        groups = {g["name"]: g for g in optimizer.param_groups}
        assert set(groups) == {"decay", "no_decay", "hidden"}
        assert (groups["hidden"]["lr"], groups["decay"]["lr"]) == (0.1, 0.4)
        assert groups["no_decay"]["lr"] == 0.4
        assert groups["hidden"]["weight_decay"] == pytest.approx(0.4)  # the product stays
        names = groups["hidden"]["param_names"]
        assert all(n.endswith(("in_proj.weight", "out_proj.weight")) for n in names)
        assert len(names) == 8
        assert set(groups["decay"]["param_names"]) == {
            "embedding.weight",
            "blocks.0.mix.mixer.conv_weight",
        }

    def test_muon_has_rates_of_its_own_and_is_refused(self):
        source = {"kind": "mqar", "vocab_size": 16, "n_pairs": [2], "length": 16}
        recipe = {
            "model": {"pattern": "M-", "d_model": 8, "vocab_size": 32, "mup_base_width": 8},
            "data": {"seq_len": 16, "sources": [source]},
            "train": {"optimizer": "muon"},
        }
        with pytest.raises(InputError, match=r"model\.mup_base_width = 8: .*'muon' it must be 0"):
            Recipe.from_dict(recipe)
        with pytest.raises(InputError, match=r"mup_base_width = -1"):
            declared("M-", -1)


def changes(spec: Spec, steps: int = 4) -> dict[str, float]:
    """Rms change of every sublayer's output, and of the logits, over a few updates."""
    model = built(spec)
    found: dict[str, torch.Tensor] = {}
    for index, block in enumerate(model.blocks):
        block.mix.register_forward_hook(  # pyright: ignore
            lambda _m, _i, out, key=f"{index}": found.__setitem__(key, out[0].detach())
        )

    def outputs() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            found["logits"] = model.head(model(TOKENS, return_state=False).hidden)
        return dict(found)

    before = outputs()
    optimizer = build_optimizer(model, CONFIG, spec.width_ratio)
    set_learning_rate(optimizer, CONFIG.lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(TOKENS, TOKENS.roll(-1, 1)).backward()
        optimizer.step()
    return {
        key: float((new - before[key]).square().mean().sqrt()) for key, new in outputs().items()
    }


def slopes(spec: Spec, widths: tuple[int, ...]) -> dict[str, float]:
    """Slope of log change against log width, by least squares."""
    rows = [changes(widen(spec, width)) for width in widths]
    x = [math.log(width) for width in widths]
    centre = sum(x) / len(x)
    square = sum((a - centre) ** 2 for a in x)
    return {
        key: sum((a - centre) * math.log(row[key]) for a, row in zip(x, rows, strict=True)) / square
        for key in rows[0]
    }


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["*-*-", "M-M-", "M-*-", "{M*}-"])
def test_outputs_change_alike_at_every_width_under_mup_and_not_without(pattern: str):
    """The coordinate check. Source: Yang et al. 2022 (arXiv 2203.03466), appendix D.1."""
    torch.set_num_threads(1)
    fusion = {"combine": "mean"}
    widths = (64, 128, 256, 512)
    plain, mup = (slopes(declared(pattern, base, fusion=fusion), widths) for base in (0, 64))
    assert plain["logits"] > 0.2
    assert max(v for k, v in plain.items() if k != "logits") > 0.3
    # The logits keep what is random at the start; it vanishes as the root of the width.
    assert -0.5 < mup["logits"] < 0.05
    assert max(abs(v) for k, v in mup.items() if k != "logits") < 0.1
