"""The recipes of published systems have the parameters of the systems."""

from pathlib import Path

import pytest
import torch

from braidlm.arch.cost import cost
from braidlm.arch.recipe import load_spec
from braidlm.model import HybridLM

FOLDER = Path(__file__).parents[2] / "recipes" / "published"
SYSTEMS = {
    "bamba-9b": 9_780_235_392,
    "falcon-h1-0.5b": 521_411_104,
    "falcon-mamba-7b": 7_272_665_088,
    "granite-4.0-h-350m": 340_332_224,
    "granite-4.0-h-tiny": 6_939_037_248,
    "hymba-1.5b": 1_522_797_824,
    "jamba-v0.1": 51_570_323_328,
    "kimi-linear-48b-a3b": 49_122_675_072,
    "mamba-2.8b": 2_768_345_600,
    "mamba2-2.7b": 2_702_599_680,
    "nemotron-h-8b": 8_100_852_736,
    "nemotron-nano-9b-v2": 8_888_227_328,
    "nemotron-nano-12b-v2": 12_310_001_152,
    "olmo-hybrid-7b": 7_430_870_688,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "samba-421m": 421_793_280,
    "zamba-7b": 7_232_490_496,
    "zamba2-2.7b": 2_662_214_560,
}
"""Parameters, as published or as transformers builds the published configuration."""

TRANSFORMERS = {
    "zamba-7b": ("Zamba", {}),
    "falcon-mamba-7b": (
        "FalconMamba",
        {
            "vocab_size": 65024,
            "hidden_size": 4096,
            "num_hidden_layers": 64,
            "tie_word_embeddings": False,
        },
    ),
    "zamba2-2.7b": (
        "Zamba2",
        {
            "hidden_size": 2560,
            "num_hidden_layers": 54,
            "n_mamba_heads": 80,
            "mamba_d_state": 64,
            "num_mem_blocks": 2,
            "num_attention_heads": 32,
            "intermediate_size": 10240,
        },
    ),
    "bamba-9b": (
        "Bamba",
        {"vocab_size": 128256, "mamba_d_state": 128, "attn_layer_indices": [9, 18, 27]},
    ),
    "falcon-h1-0.5b": (
        "FalconH1",
        {
            "vocab_size": 32784,
            "hidden_size": 1024,
            "intermediate_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "mamba_d_ssm": 1536,
            "mamba_n_heads": 24,
            "mamba_d_head": 64,
            "mamba_d_state": 128,
        },
    ),
    "granite-4.0-h-350m": (
        "GraniteMoeHybrid",
        {
            "vocab_size": 100352,
            "hidden_size": 768,
            "num_hidden_layers": 32,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 2048,
            "mamba_n_heads": 48,
            "mamba_d_head": 32,
            "mamba_d_state": 128,
            "tie_word_embeddings": True,
            "layer_types": ["attention" if i % 8 == 7 else "mamba" for i in range(32)],
        },
    ),
    "granite-4.0-h-tiny": (
        "GraniteMoeHybrid",
        {
            "vocab_size": 100352,
            "hidden_size": 1536,
            "intermediate_size": 512,
            "num_hidden_layers": 40,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "num_local_experts": 64,
            "num_experts_per_tok": 6,
            "shared_intermediate_size": 1024,
            "mamba_n_heads": 48,
            "mamba_d_head": 64,
            "mamba_d_state": 128,
            "tie_word_embeddings": True,
            "layer_types": ["attention" if i % 10 == 5 else "mamba" for i in range(40)],
        },
    ),
    "jamba-v0.1": ("Jamba", {}),
    "kimi-linear-48b-a3b": (
        "KimiLinear",
        {
            "layer_types": [
                "full_attention" if i % 4 == 3 or i == 26 else "linear_attention" for i in range(27)
            ]
        },
    ),
    "olmo-hybrid-7b": ("OlmoHybrid", {}),
    "qwen3-next-80b-a3b": ("Qwen3Next", {}),
    "mamba-2.8b": (
        "Mamba",
        {"hidden_size": 2560, "num_hidden_layers": 64, "time_step_rank": 160},
    ),
    "mamba2-2.7b": (
        "Mamba2",
        {
            "hidden_size": 2560,
            "num_hidden_layers": 64,
            "vocab_size": 50288,
            "n_groups": 1,
            "num_heads": 80,
            "tie_word_embeddings": True,
        },
    ),
    "nemotron-h-8b": (
        "NemotronH",
        {"hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"},
    ),
}
"""Model class and fields beside its defaults."""


@pytest.mark.parametrize(("name", "n_params"), SYSTEMS.items())
def test_a_published_system_has_its_parameters(name, n_params):
    spec = load_spec(FOLDER / f"{name}.toml")
    with torch.device("meta"):
        built = sum(p.numel() for p in HybridLM(spec).parameters())
    assert cost(spec, 1).n_params == built == n_params


def test_the_page_shows_every_system_with_its_cost():
    page = (FOLDER.parents[1] / "docs" / "systems.md").read_text(encoding="utf-8")
    rows = [[c.strip(" `") for c in x.split("|")] for x in page.splitlines() if x.startswith("| `")]
    shown = {row[1]: row[2:5] for row in rows}
    assert shown.keys() == SYSTEMS.keys()
    for name, row in shown.items():
        spec = load_spec(FOLDER / f"{name}.toml")
        found = cost(spec, 1)
        active = f"{found.n_active_params:,}" if found.n_active_params < found.n_params else ""
        assert row == [spec.pattern, f"{found.n_params:,}", active]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), TRANSFORMERS.items())
def test_transformers_counts_the_same(name, family):
    transformers = pytest.importorskip("transformers")
    kind, fields = family
    config = getattr(transformers, f"{kind}Config")(**fields)
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    assert sum(p.numel() for p in model.parameters()) == SYSTEMS[name]
