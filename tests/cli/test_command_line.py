"""What is wrong with the words themselves."""

import pytest
import torch

from braidlm.cli import main
from tests.cli.conftest import TINY


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            [],
            (
                "no command is given; allowed: describe, match, data, paraphrase, train",
                "braid --help",
            ),
        ),
        (["trian"], ("unknown command 'trian' (did you mean 'train'?)", "allowed: describe")),
        (["data"], ("ACTION", "braid data --help")),
        (["data", "bild"], ("'bild'", "'build'")),
        (["train", TINY], ("required: --out", "braid train --help")),
        (["eval"], ("RUN is missing", "--list")),
        (["report"], ("required: DIR",)),
        (["study", "s.toml"], ("required: --out",)),
        (["describe", "M", "--contxt", "3"], ("'--contxt' (did you mean '--context'?)",)),
        (["train", TINY, "--out", "x", "--res"], ("'--res'",)),
        (["generate", "x", "--temp=1"], ("unknown argument '--temp'",)),
        (["describe", "-*"], ("'-*'", "goes behind '--'")),
        (["describe", "M", "--context", "long"], ("--context", "'long'", "int")),
        (["generate", "x", "--temperature", "hot"], ("--temperature", "'hot'", "float")),
        (["train", TINY, "--out", "x", "--progress", "loud"], ("--progress", "'loud'", "json")),
        (["generate", "x", "--prompt"], ("--prompt", "expected one argument")),
    ],
    ids=lambda v: " ".join(map(str, v))[:30] if isinstance(v, list) else "",
)
def test_a_wrong_command_line_is_one_sentence(refused, words, says):
    refused(*words, says=says)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "needs at least one symbol"),
        ("(M", "a '(' is not closed"),
        ("M)", "')' closes no group"),
        ("{M}", "at least two symbols"),
        ("M0", "a count of 0 is not between 1 and 4096"),
        ("M99999999999999999999", "is not between 1 and 4096"),
        ("(" * 40 + "M" + ")" * 40, "nested deeper than 16"),
        ("Q", "letter 'Q' names no mixer"),
        ("D", "sparse attention"),
        ("M/M", "'/' is Megatron's"),
        ("[M]", "'[' is no symbol"),
        ("é", "'é' is no symbol"),
    ],
)
def test_a_bad_pattern_is_named(refused, pattern, says):
    refused("describe", pattern, says=says)


@pytest.mark.parametrize("value", ["0", "-3"])
@pytest.mark.parametrize(
    ("flag", "says"),
    [("--context", "context = "), ("--d-model", "d_model = "), ("--vocab-size", "vocab_size = ")],
)
def test_describe_refuses_sizes_that_cannot_be(refused, flag, value, says):
    refused("describe", "M-*", flag, value, says=says + value)


def test_describe_reads_a_folder_as_a_run(braid, refused, trained, tmp_path):
    assert braid("describe", trained / "run").out == (
        braid("describe", trained / "run" / "config.json").out
    )
    refused("describe", tmp_path, says=("config.json", "is missing"))


def test_a_full_gpu_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    full = (
        "CUDA out of memory. Tried to allocate 108.00 MiB. GPU 0 has a total capacity of 139 GiB "
        "of which 20.38 MiB is free. Process 27 has 15.35 GiB memory in use. Process 29 has 512.00 "
        "MiB memory in use. Including non-PyTorch memory, this process has 13 GiB memory in use. "
        "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=..."
    )

    def fail(words: list[str]) -> int:
        raise torch.OutOfMemoryError(full)

    monkeypatch.setattr(main, "_run", fail)
    assert main.main([]) == 2
    said = capsys.readouterr().err
    assert said.endswith("20.38 MiB is free, and other programs hold 15.8 GiB of it\n")
    assert said.startswith("braid: what was asked for is too large for this machine: CUDA out of")


def test_a_request_beyond_the_machine_is_no_defect(refused, recipe, tmp_path):
    words = ("train", recipe, "--out", tmp_path / "x", "--set", "model.d_model=1000000000")
    refused(*words, says="too large for this machine")
