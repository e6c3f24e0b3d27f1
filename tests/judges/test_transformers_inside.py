"""Every instrument of `analysis` over models that came from folders of transformers."""

import pytest
import torch

from braidlm.analysis.table import INSTRUMENTS
from tests.analysis.test_everywhere import check
from tests.judges.transformers_pairs import pair

FOLDERS = [
    "zamba2",
    "nemotron_h, latent experts",
    "kimi_linear",
    "jamba, experts",
    "falcon_h1, factors, biases, bounded steps",
]


@pytest.mark.slow
@pytest.mark.parametrize("case", FOLDERS)
def test_imported_models_can_be_looked_into(case):
    ours = pair(case, torch.float32).ours.eval()
    for name in INSTRUMENTS:
        check(name, ours)
