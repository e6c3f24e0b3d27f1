import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from braidlm.arch import Spec, schema
from braidlm.arch.cost import cost
from braidlm.arch.recipe import load_spec
from braidlm.cli import describe
from braidlm.cli.table import count, flops, ranges, shorten, size, table, tokens
from braidlm.errors import InputError

RECIPES = Path(__file__).parents[2] / "recipes"
NVIDIA = str(RECIPES / "published" / "nvidia-8b-hybrid.toml")
BAE = str(RECIPES / "published" / "bae-1b-inter-1to5.toml")


@pytest.fixture
def braid(capsys):
    """Run `braid describe` with these arguments and return what it prints."""

    def call(*words):
        parser = argparse.ArgumentParser()
        describe.add_parser(parser.add_subparsers())
        args = parser.parse_args(["describe", *words])
        assert args.run(args) == 0
        return capsys.readouterr().out

    return call


def test_the_card_of_a_published_model(braid):
    out = braid(NVIDIA, "--context", "4096")
    assert re.search(r"^M +24 +mamba2, 128 heads of 64, state 128, 8 groups +109\.6 M", out, re.M)
    assert "parameters  8.655 B (8,654,517,248)" in out
    assert "KV cache    16 KiB per token, bf16" in out
    contexts = re.findall(r"^ *(1K|4K|8K|64K|256K|1M) .* (\S+ GiB)$", out, re.M)
    assert [c for c, _ in contexts] == ["1K", "4K", "8K", "64K", "256K", "1M"]
    assert contexts[-1][1] == "30.36 GiB"
    assert max(map(len, out.splitlines())) < 160


def test_columns_are_aligned(braid):
    lines = braid("M-(M-M*)3", "--d-model", "128").splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("symbol"))
    end = lines[head].index("KV/token") + len("KV/token")
    for line in lines[head : head + 4]:
        assert line[end : end + 2] == "  "
        assert line[end - 1] != " "


def test_each_sublayer_or_each_kind(braid):
    assert len(re.findall(r"^[M*-] +\d+ ", braid("(M-)3*-"), re.M)) == 3
    assert len(re.findall(r"^[M*-] +1 ", braid("(M-)3*-", "--each"), re.M)) == 8


def test_experts_are_counted_in_all_and_by_token_and_by_batch(braid):
    out = braid("ME*E", "--d-model", "512")
    assert re.search(r"^E +2 +moe, 2 of 8 experts, d_ff 704, gated silu ", out, re.M)
    assert re.search(r"^parameters +36\.46 M", out, re.M), out
    assert re.search(r"^active +23\.49 M per token", out, re.M), out
    batches = re.findall(r"^ *(1|8|64|512) +(\S+) +\S+ \S+ +\S+ \S+$", out, re.M)
    assert [n for _, n in batches] == ["2.0", "7.2", "8.0", "8.0"]
    found = json.loads(braid("ME*E", "--json"))["batches"]
    assert [row["batch"] for row in found] == [1, 8, 64, 512]
    assert "batches" not in json.loads(braid("M*", "--json"))
    assert "experts of" not in braid("M*")


def test_a_parallel_sublayer_lists_its_branches(braid):
    out = braid("{M*}-", "--set", "model.fusion.combine=cross_attention")
    assert "cross_attention (rms norm, 8 heads of 64, joint projection)" in out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["fusion.combine=gate", "fusion.gate=token"], "gate (rms norm, per token, separate"),
        (
            ["fusion.combine=cross_attention", "fusion.cross.query=recurrent"],
            "cross_attention (rms norm, the recurrent branch asks, 8 heads of 64, joint",
        ),
        (
            ["fusion.combine=merge_attention", "fusion.cross.position=rope", "mixers.M.expand=1"],
            "merge_attention (rms norm, 8 heads of 64, rope, joint",
        ),
    ],
)
def test_a_fusion_says_its_settings(braid, overrides, words):
    assert words in braid("{M*}-", *(w for o in overrides for w in ("--set", f"model.{o}")))


def test_json_holds_exact_integers(braid):
    figures = json.loads(braid("M-{M*}", "--d-model", "64", "--context", "100", "--json"))
    whole = cost(Spec.parse("M-{M*}", d_model=64), 100)
    assert figures["totals"]["n_params"] == whole.n_params
    assert figures["totals"]["training_flops"] == whole.training_flops
    assert [s["n_params"] for s in figures["sublayers"]] == [s.n_params for s in whole.sublayers]
    assert [c["context"] for c in figures["contexts"]] == [100, 1024, 8192, 65536, 262144, 1048576]
    assert figures["contexts"][0]["decode_bytes_per_step"] == whole.decode_bytes_per_step
    assert Spec.of(figures["spec"]) == Spec.parse("M-{M*}", d_model=64)


def test_a_papers_own_count(braid):
    out = braid(BAE, "--convention", "bae")
    assert re.search(r"^M +11 .* 25\.77 M .* 11\.37 MiB", out, re.M)
    assert "cache       43.37 MiB at 8,192 tokens" in out
    assert "exact adds  embedding 262,668,288" in out
    figures = json.loads(braid(NVIDIA, "--convention", "nvidia", "--json"))
    assert figures["totals"]["state_bytes"] == 52_297_728
    assert figures["totals"]["training_flops_per_token"] is None
    assert "KV cache    none" in braid("M")
    assert "state       none" in braid("*")
    assert "training    not given" in braid(NVIDIA, "--convention", "nvidia")


def test_a_window_shows_what_it_holds_when_it_is_full(braid):
    out = braid("W-*-", "--d-model", "256", "--context", "2000")
    assert re.search(r"^W +1 +attention, .*, window 512, rope .* 512 KiB full +- ", out, re.M)
    assert re.search(r"^\* +1 +attention, .* 1 KiB +- ", out, re.M)
    assert "KV cache    2.453 MiB at 2,000 tokens, then 1 KiB per token, bf16" in out
    assert "KV cache    512 KiB at 2,000 tokens, then no more" in braid(
        "W", "--d-model", "256", "--context", "2000", "--convention", "bae"
    )
    filling = braid("W-", "--d-model", "256", "--context", "100")
    assert "KV cache    1 KiB per token, bf16\n" in filling
    figures = json.loads(braid("W-*-", "--d-model", "256", "--context", "2000", "--json"))
    assert figures["totals"]["kv_bytes"] == (512 + 2000) * 1024
    assert figures["totals"]["kv_bytes_per_token"] == 1024
    assert [s["kv_bytes"] for s in figures["sublayers"]] == [512 * 1024, 0, 2000 * 1024, 0]


def test_schema_and_defaults(braid):
    assert braid("--schema") == schema.text()
    assert re.search(r"^mamba2 +expand +2 \(inner width / d_model\)$", braid("--defaults"), re.M)
    assert json.loads(braid("--defaults", "--json"))["letters"]["M"] == "mamba2"


def test_overrides(braid):
    figures = json.loads(braid(BAE, "--set", "model.pattern=M", "--vocab-size", "7", "--json"))
    spec = load_spec(BAE, ["model.pattern=M"], vocab_size=7)
    assert figures["totals"]["n_params"] == cost(spec, 1).n_params


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a pattern such as '(M-M-M*-)4', or a recipe file"),
        (["M|M"], "'|' is Megatron's pipeline-stage split"),
        (["none.toml"], "none.toml: cannot be read"),
        (["runs/none"], "runs/none: is no recipe, run or pattern, or is not there"),
        (["nowhere"], "nowhere: is no recipe, run or pattern, or is not there"),
        (["MQM"], "letter 'Q' names no mixer"),
        (["M*/M*"], "'/' is Megatron's multi-token-prediction part"),
        (["M", "--context", "0"], "context = 0: must be at least 1"),
        (["M", "--d-model", "0"], "d_model = 0"),
        (["M", "--convention", "meta"], "--convention meta: allowed are exact, bae, nvidia"),
        (["{M*}", "--convention", "bae"], "no formula for the parallel sublayer"),
        (["M", "--set", "x"], "--set x: must look like a.b=value"),
    ],
)
def test_bad_input_is_one_sentence(braid, words, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        braid(*words)
    assert "\n" not in str(caught.value)


PROGRAM = """
import argparse, sys
from braidlm.cli import describe
parser = argparse.ArgumentParser()
describe.add_parser(parser.add_subparsers())
args = parser.parse_args(["describe", *sys.argv[1:]])
args.run(args)
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""


def test_it_answers_at_once_and_without_torch():
    """CPU time, the best of three: other work on the machine must not decide."""
    best = min(_cpu_sec(NVIDIA) for _ in range(3))
    assert best < 0.7


def _cpu_sec(*words):
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, capture_output=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return min(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def test_numbers_as_people_read_them():
    assert [count(n) for n in (0, 7, 999, 10_485_760, 8_654_517_248)] == [
        "-", "7", "999", "10.49 M", "8.655 B"
    ]  # fmt: skip
    assert count(999_999) == "1 M"
    assert count(10**18) == "1000000 T"
    assert [size(n) for n in (512, 1536, 16384, 2**40)] == ["512 B", "1.5 KiB", "16 KiB", "1 TiB"]
    assert flops(15_610_000_000) == "15.61 GFLOP"
    assert [tokens(n) for n in (1000, 1024, 65536, 2**20)] == ["1,000", "1K", "64K", "1M"]
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert shorten("1, 2, 3, 4", 9) == "1, 2 ..."
    assert table(("a", "bb"), (("xyz", "1"),), ("a",)) == "a    bb\nxyz   1\n"
