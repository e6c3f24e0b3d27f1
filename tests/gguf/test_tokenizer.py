"""Tokenizers that a GGUF file carries, against those that they were written from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from braidlm import interop
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError
from braidlm.gguf import read_header
from braidlm.gguf.tokenizer import tokenizer_files
from tests.gguf.files import SIZES, weights, write

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                "isolated",
            ),
            BYTES,
        ]
    ),
    "tekken": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
                    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
                    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                "isolated",
            ),
            BYTES,
        ]
    ),
}
TEXT = ["Don't part 12345 or 3.14 words, we'll see; the theory there", "HTTPServer a/b\n\n x  1 "]
CONTROL, USER = ("<s>", "</s>", "<pad>"), ("<tool>",)
CHAT = (
    "{% for m in messages %}{{ '<s>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '!' }}{% endif %}"
)


def trained(pre: str) -> Tokenizer:
    """A byte-pair tokenizer as its author had it, special tokens first."""
    made = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    made.pre_tokenizer, made.decoder = WORDS[pre], decoders.ByteLevel()
    special = [*CONTROL, *(AddedToken(x, normalized=False) for x in USER)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT * 9,
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    data = json.loads(made.to_str())  # the trainer takes all for special
    for token in data["added_tokens"]:
        token["special"] = token["content"] in CONTROL
    return Tokenizer.from_str(json.dumps(data))


def keys_of(tokenizer: Tokenizer, pre: str) -> dict[str, Any]:
    """What llama.cpp's conversion writes of it."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [t for t, _ in sorted(model["vocab"].items(), key=lambda x: x[1])]
    types = [3 if t in CONTROL else 4 if t in USER else 1 for t in tokens]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(m) for m in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": CHAT,
    }


@pytest.fixture(scope="module", params=WORDS)
def pair(request, tmp_path_factory):
    """A tokenizer, and the GGUF file that was written of it."""
    theirs = trained(request.param)
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    write(path, {}, keys=keys_of(theirs, request.param))
    theirs.encode_special_tokens = True
    return theirs, load_tokenizer(path)


PARTS = st.sampled_from(
    [
        *("'s", "'LL", "12345", "½", "Ⅷ", "١٢", "é", "e\u0301", "字", " ", "  ", "\n", "\r\n"),
        *("\u3000", "the", "The", "HTTPServer", "a/b/", "\t", "😀", "<s>", "...", "_x", "ǅ", "ʰ"),
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=st.one_of(st.text(max_size=30), st.lists(PARTS, max_size=9).map("".join)))
def test_every_text_gets_the_ids_of_the_tokenizer_it_was_written_from(pair, text):
    theirs, ours = pair
    text = text.encode("utf-8", "replace").decode()
    ids = ours.encode(text).tolist()
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids)


def test_special_tokens_are_those_of_the_file(pair):
    theirs, ours = pair
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (0, 1, 2)
    assert ours.vocab_size == theirs.get_vocab_size()
    assert ours.encode("a<tool>b").tolist()[1] == theirs.token_to_id("<tool>")
    assert 0 not in ours.encode("a<s>b")


def made_of(tmp_path, **changes):
    keys = keys_of(trained("smollm"), "smollm")
    keys |= {f"tokenizer.ggml.{k}": v for k, v in changes.items()}
    return read_header(write(tmp_path / "a.gguf", {}, keys=keys))


def config_of(header) -> dict[str, Any]:
    return json.loads(tokenizer_files(header)["tokenizer_config.json"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"add_bos_token": False}, ["a"]),
        ({"add_bos_token": True}, ["<s>", "a"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>", "a", "</s>"]),
        ({}, ["a"]),
        ({"pre": "llama-bpe"}, ["<s>", "a"]),
        ({"pre": "llama-bpe", "add_bos_token": False}, ["a"]),
    ],
)
def test_what_is_put_around_a_text_is_what_the_file_says(tmp_path, changes, expected):
    made = tokenizer_files(made_of(tmp_path, **changes))["tokenizer.json"].decode()
    assert Tokenizer.from_str(made).encode("a").tokens == expected


def test_a_chat_template_is_kept_and_named_ones_too(tmp_path):
    assert config_of(made_of(tmp_path))["chat_template"] == CHAT
    keys = keys_of(trained("smollm"), "smollm") | {"tokenizer.chat_template.tool_use": "x"}
    header = read_header(write(tmp_path / "b.gguf", {}, keys=keys))
    named = {t["name"]: t["template"] for t in config_of(header)["chat_template"]}
    assert named == {"default": CHAT, "tool_use": "x"}


def test_placeholders_of_a_padded_vocabulary_are_no_tokens(tmp_path):
    keys = keys_of(trained("smollm"), "smollm")
    n = len(keys["tokenizer.ggml.tokens"])
    keys["tokenizer.ggml.tokens"] += ["[PAD0]", "[PAD1]"]
    keys["tokenizer.ggml.token_type"] += [5, 5]
    path = write(tmp_path / "b.gguf", {}, keys=keys)
    assert load_tokenizer(path).vocab_size == n


def test_it_travels_with_a_run_and_out_again(tmp_path):
    keys = keys_of(trained("smollm"), "smollm")
    tensors = weights() | wide(340)
    path = write(tmp_path / "a.gguf", tensors, keys=keys)
    made = interop.import_run(path, tmp_path / "run")
    fingerprint = load_tokenizer(path).fingerprint
    assert load_tokenizer(made["tokenizer"]).fingerprint == fingerprint
    path.unlink()
    interop.export_run(tmp_path / "run", tmp_path / "out")
    assert load_tokenizer(f"hf:{tmp_path / 'out'}").fingerprint == fingerprint
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [config[f"{x}_token_id"] for x in ("bos", "eos", "pad")] == [0, 1, 2]
    assert config["max_position_embeddings"] == 2048


def wide(vocab: int) -> dict[str, torch.Tensor]:
    """An embedding and a head of more rows."""
    shape = (vocab, SIZES["d"])
    return {x: torch.randn(shape) for x in ("model.embed_tokens.weight", "lm_head.weight")}


REFUSED = {
    "SentencePiece": ({"model": "llama"}, r"'llama' \(SentencePiece\): only 'gpt2'"),
    "word pieces": ({"model": "bert"}, r"model = 'bert': only 'gpt2'"),
    "unknown words": ({"pre": "mine"}, r"pre = 'mine' is not known; known: gpt-2, smollm"),
    "words that are not named": ({"pre": None}, r"'tokenizer\.ggml\.pre' is missing"),
    "no tokens": ({"tokens": None}, r"tokens' is missing"),
    "no merges": ({"merges": None}, r"merges' is missing"),
    "an id beyond": ({"eos_token_id": 340}, r"eos_token_id = 340: allowed are ids from 0 to "),
    "too few types": ({"token_type": [1, 1]}, "as many numbers"),
    "numbers for tokens": ({"tokens": [1, 2], "token_type": [1, 1]}, "lists of texts"),
    "the same token twice": ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1]}, "has 'a' twice"),
    "a merge of nothing": ({"merges": ["a qqq"]}, "merges 0 is 'a qqq': no pair of its tokens"),
    "a merge without two": ({"merges": ["the"]}, "merges 0 is 'the': no pair"),
    "a space before": ({"add_space_prefix": True}, "add_space_prefix = true"),
    "a number as text": ({"bos_token_id": "0"}, r"bos_token_id = '0': must be of type int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_rebuilt_exactly_is_refused(tmp_path, name):
    changes, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        tokenizer_files(made_of(tmp_path, **changes))


def test_an_import_says_how_it_goes_on_without_it(tmp_path):
    keys = keys_of(trained("smollm"), "mine")
    path = write(tmp_path / "a.gguf", weights() | wide(340), keys=keys)
    with pytest.raises(
        InputError, match=r"'mine' is not known.*--tokenizer NAME, or --tokenizer n"
    ):
        interop.import_run(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert interop.import_run(path, tmp_path / "run", tokenizer="none")["tokenizer"] == "none"
    assert np.isfinite(interop.load(path).model.embedding.weight.detach().numpy()).all()
