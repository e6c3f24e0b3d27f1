"""A tiny foreign checkpoint with a tokenizer of its own, and the run that is imported from it."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import torch

from braidlm.interop.imports import import_run
from braidlm.laws.lively import enliven

COMMON = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 512,
}
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {**COMMON, "hidden_size": 32, "num_hidden_layers": 2},
    "Bamba": {
        **COMMON,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "mamba_expand": 2,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "attn_layer_indices": [1],
    },
}


def tokenizer_files(folder: Path) -> int:
    """Write a small byte-pair tokenizer that puts bos before a text; return its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from tokenizers import decoders as ends

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    inner.decoder = ends.ByteLevel()  # type: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([inspect.getsource(textwrap)], trainer)
    inner.post_processor = processors.TemplateProcessing(  # type: ignore
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    inner.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return inner.get_vocab_size()


def twins(family: str, folder: Path) -> tuple[Path, Path]:
    """Return the folder of a checkpoint of transformers, and the run that is made of it."""
    import transformers

    theirs, ours = folder / "theirs", folder / "ours"
    theirs.mkdir(parents=True)
    n_tokens = tokenizer_files(theirs)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=n_tokens, bos_token_id=0, eos_token_id=1, pad_token_id=None, **MODELS[family]
    )
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    enliven(model)
    with torch.no_grad():  # decisions that differ, and texts that do not repeat one token
        model.lm_head.weight.mul_(3)
    model.save_pretrained(theirs)
    import_run(theirs, ours)
    return theirs, ours
