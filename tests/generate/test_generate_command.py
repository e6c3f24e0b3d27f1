"""`braid generate`."""

import argparse
import io
import json
import sys

import pytest
import torch

from braidlm import checkpoint
from braidlm.cli import generate as command
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError
from braidlm.generate import generate
from tests.tasks.models import saved_run

BYTES = ByteTokenizer()


@pytest.fixture
def path(tmp_path) -> str:
    return str(saved_run(tmp_path).path)


def _braid(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["generate", *arguments])
    return args.run(args)


def _expected(path: str, *prompts: str, **settings) -> list[list[int]]:
    model, _ = checkpoint.load_model(path)
    ids = [[BYTES.bos_id, *BYTES.encode(text)] for text in prompts]
    return generate(model, ids, stop_ids=(BYTES.eos_id,), **settings)


class Listening(io.StringIO):
    """Remembers what had been shown at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def flush(self) -> None:
        self.shown.append(self.getvalue())


def test_one_prompt_is_streamed(path, monkeypatch):
    out = Listening()
    monkeypatch.setattr(sys, "stdout", out)
    assert _braid(path, "--prompt", "naïve", "--max-new-tokens", "12", "--seed", "4") == 0
    (tokens,) = _expected(path, "naïve", max_new_tokens=12, seed=4)
    assert out.getvalue() == "naïve" + BYTES.decode(tokens) + "\n"
    assert out.shown[0] == "naïve"
    assert len(set(out.shown)) > 4


def test_several_prompts(path, capsys):
    prompts = ("first", "and the second")
    given = [part for prompt in prompts for part in ("--prompt", prompt)]
    assert _braid(path, *given, "--max-new-tokens", "8", "--temperature", "0") == 0
    rows = _expected(path, *prompts, max_new_tokens=8, temperature=0)
    shown = "".join(
        f"--- {prompt}\n{prompt}{BYTES.decode(row)}\n"
        for prompt, row in zip(prompts, rows, strict=True)
    )
    assert capsys.readouterr().out == shown


def test_json_holds_tokens_and_settings(path, capsys):
    arguments = ("--max-new-tokens", "5", "--top-k", "3", "--top-p", "0.9", "--json")
    assert _braid(path, "--prompt", "ab", *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = _expected(path, "ab", max_new_tokens=5, top_k=3, top_p=0.9)
    assert found["completions"] == [
        {
            "prompt": "ab",
            "prompt_tokens": [256, 97, 98],
            "completion": BYTES.decode(row),
            "tokens": row,
        }
    ]
    assert (found["top_k"], found["top_p"], found["seed"]) == (3, 0.9, 0)


def test_without_a_prompt_the_text_starts_from_bos(path, capsys):
    assert _braid(path, "--max-new-tokens", "6", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["completions"]
    assert found["prompt_tokens"] == [256]
    assert [found["tokens"]] == _expected(path, "", max_new_tokens=6)


def test_the_weights_can_be_narrow(path, capsys):
    assert _braid(path, "--prompt", "ab", "--dtype", "bf16", "--max-new-tokens", "6", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = checkpoint.load_model(path, dtype=torch.bfloat16)
    assert model.lm_head.weight.dtype == torch.bfloat16
    expected = generate(model, [[256, 97, 98]], max_new_tokens=6)
    assert (found["dtype"], [found["completions"][0]["tokens"]]) == ("bf16", expected)


def test_bad_settings_are_refused(path):
    with pytest.raises(InputError, match="dtype = 'fp16': allowed are fp32 and bf16"):
        _braid(path, "--dtype", "fp16")
    with pytest.raises(InputError, match=r"temperature = -1\.0"):
        _braid(path, "--temperature", "-1")
    with pytest.raises(InputError, match="top_p = 2"):
        _braid(path, "--top-p", "2")
    with pytest.raises(InputError, match="max_new_tokens = -3"):
        _braid(path, "--max-new-tokens", "-3")
    with pytest.raises(InputError, match="no such folder"):
        _braid(path + "-nowhere")
