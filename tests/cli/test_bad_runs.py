"""Run directories and checkpoints that are not what they should be."""

import hashlib
import json
import shutil

import pytest

from braidlm.files import sealed
from tests.cli.conftest import contents

STEP = "step-00000004"


def _resume(trained, run, *words):
    return ("train", trained / "recipe.toml", "--out", run, "--resume", "--no-eval", *words)


# what is no run


@pytest.mark.parametrize("kind", ["missing", "empty", "other", "file"])
def test_a_place_that_is_no_run_is_refused_and_kept(refused, trained, tmp_path, kind):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("mine")
    elif kind != "missing":
        place.mkdir()
    if kind == "other":
        (place / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    refused("eval", place, says=("place", "is not a run directory"))
    refused("eval", place, "--list", says=("place", "is not a run directory"))
    refused("generate", place, says="place")
    refused("report", place, "-o", tmp_path / "r.html", says=("place", "neither a run"))
    if kind in ("other", "file"):
        for words in ([], ["--resume"]):
            out = ("train", trained / "recipe.toml", "--out", place, *words)
            refused(*out, says=("place", "a file" if kind == "file" else "not empty"))
    assert contents(tmp_path) == before


def test_a_run_is_never_trained_over(refused, trained, run):
    before = contents(run)
    words = ("train", trained / "recipe.toml", "--out", run)
    refused(*words, says=("is not empty", "or resume the run"))
    refused(*words, "--resume", "--set", "train.lr=1.0", says=("train.lr = 1.0", "0.003"))
    refused(*words, "--resume", "--set", "model.pattern=M-", says=("model.pattern = 'M-'", "M-*-"))
    refused(*words, "--resume", "--set", "train.steps=2", says=("train.steps = 2", "at least 4"))
    assert contents(run) == before


# damaged files


def _damage(file, how):
    data = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "altered":
        data[len(data) // 2] ^= 0x55
        file.write_bytes(data)
    elif how == "garbage":
        file.write_bytes(b"\xff\x00" * 50)
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["cut", "altered", "garbage", "deleted"])
@pytest.mark.parametrize(
    "name", ["weights.safetensors", "train_state.pt", "manifest.json", "config.json"]
)
def test_a_damaged_checkpoint_is_named_and_kept(refused, trained, run, name, how):
    _damage(run / "checkpoints" / STEP / name, how)
    before = contents(run)
    # Without --force the finished results stand: they were measured on sound weights.
    refused("eval", run, "--force", says=(STEP, name))
    refused("generate", run, says=(STEP, name))
    refused("generate", run / "checkpoints" / STEP, says=(STEP, name))
    refused(*_resume(trained, run, "--set", "train.steps=5"), says=(STEP, name))
    assert contents(run) == before


def test_an_earlier_checkpoint_still_serves(braid, run):
    _damage(run / "checkpoints" / STEP / "weights.safetensors", "cut")
    words = ("eval", run, "--checkpoint", "step-00000002", "--limit", "1")
    assert "step-00000002" in braid(*words).out


def _seal(folder, name):
    """Write a manifest that vouches for a file as it is now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / name).read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"][name] = entry
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", b"\x80\x02}q\x00."])
def test_a_vouched_for_state_of_another_form_is_refused(refused, trained, run, content):
    folder = run / "checkpoints" / STEP
    (folder / "train_state.pt").write_bytes(content)
    _seal(folder, "train_state.pt")
    before = contents(run)
    refused(*_resume(trained, run, "--set", "train.steps=5"), says=(STEP, "train_state.pt"))
    assert contents(run) == before


def test_weights_of_another_spec_are_refused(braid, refused, trained, run, tmp_path):
    other = tmp_path / "other"
    words = ("train", trained / "recipe.toml", "--out", other, "--no-eval", "--progress", "none")
    assert braid(*words, "--set", "model.d_model=64").code == 0
    mine, theirs = (r / "checkpoints" / STEP for r in (run, other))
    shutil.copy(theirs / "weights.safetensors", mine)
    _seal(mine, "weights.safetensors")
    says = ("holds weights of another spec", "'embedding.weight' has shape (384, 64)")
    refused("eval", run, says=says)
    refused("generate", run, says=says)
    refused(*_resume(trained, run, "--set", "train.steps=5"), says=says)
    # A whole checkpoint that was copied from another run is sound in itself.
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    refused("eval", run, says=("holds a model of another spec", "d_model 64", "d_model 32"))
    refused(*_resume(trained, run, "--set", "train.steps=5"), says=says)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"model": 5}'])
def test_a_broken_config_is_named(refused, trained, run, content):
    (run / "config.json").write_bytes(content)
    before = contents(run)
    refused("eval", run, says="config.json")
    refused("describe", run, says="config.json")
    refused("report", run, "-o", run / "r.html", says="no readable run")
    refused(*_resume(trained, run, "--set", "train.steps=5"), says="config.json")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("env.json", b"{"),
        ("env.json", b"[]"),
        ("env.json", b'{"earlier": 5}'),
        ("metrics.jsonl", b"{}\n5\n{}\n"),
        ("metrics.jsonl", b"\xff\xfe\n{}\n"),
        ("metrics.jsonl", b'{"step": "x"}\n{}\n'),
    ],
)
def test_a_broken_log_stops_a_resumed_run_before_it_begins(refused, trained, run, name, content):
    (run / name).write_bytes(content)
    before = contents(run)
    words = _resume(trained, run, "--set", "train.steps=5", "--progress", "none")
    refused(*words, says=name)
    after = contents(run)
    assert before == {**after, "config.json": before["config.json"]}


# choices


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--tasks", "nope"],
            "task 'nope' is not in the recipe; allowed: lm-held-out, mqar",
        ),
        (["--tasks", ""], "no task is named; allowed: lm-held-out, mqar-recall"),
        (["--tasks", "nope", "--list"], "task 'nope'"),
        (["--checkpoint", "step-9"], "no checkpoint 'step-9'; it has: step-00000002"),
        (["--checkpoint", ".."], "no checkpoint '..'"),
        (["--checkpoint", ""], "no checkpoint ''"),
        (["--limit", "0"], "limit = 0: must be at least 1"),
        (["--limit", "-1"], "limit = -1: must be at least 1"),
        (["--device", "tpu"], "device = 'tpu': allowed are auto, cpu and cuda"),
        (["--dtype", "fp8"], "dtype = 'fp8': allowed are fp32 and bf16"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_eval_refuses_what_is_not_there(refused, trained, words, says):
    before = contents(trained)
    refused("eval", trained / "run", *words, says=says)
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperature", "-1"], "temperature = -1.0: must be a number of at least 0"),
        (["--temperature", "nan"], "temperature = nan"),
        (["--top-p", "0"], "top_p = 0.0: must be greater than 0 and at most 1"),
        (["--top-p", "2"], "top_p = 2.0: must be greater than 0 and at most 1"),
        (["--top-k", "-1"], "top_k = -1: must be 0"),
        (["--max-new-tokens", "-1"], "max_new_tokens = -1: must be 0 or more"),
        (["--seed", "-1"], "seed = -1: must be 0 or more"),
        (["--device", "tpu"], "device = 'tpu'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
@pytest.mark.parametrize("prompts", [[], ["--prompt", "a", "--prompt", "b"]], ids=["one", "two"])
def test_generate_refuses_settings_that_cannot_be(refused, trained, words, says, prompts):
    words = [*words] if prompts else ["--json", *words]
    refused("generate", trained / "run", *words, *prompts, says=says)


@pytest.mark.parametrize("prompt", ["", "\x00", "\udcff", "naïve"])
def test_any_text_is_a_prompt(braid, trained, prompt):
    words = ("generate", trained / "run", "--prompt", prompt, "--max-new-tokens", "2", "--json")
    found = braid(*words)
    assert found.code == 0
    assert len(json.loads(found.out)["completions"][0]["tokens"]) == 2


def test_a_prompt_that_cannot_be_continued_is_not_printed(refused, trained):
    words = ("generate", trained / "run", "--prompt", "Return ", "--max-new-tokens", "-1")
    refused(*words, says="max_new_tokens = -1")


def test_a_run_without_checkpoints_says_how_it_gets_some(refused, braid, trained, run):
    shutil.rmtree(run / "checkpoints")
    refused("generate", run, says="'braid train' with --resume trains it again")
    assert braid(*_resume(trained, run)).code == 0
    assert braid("generate", run, "--max-new-tokens", "1").code == 0
