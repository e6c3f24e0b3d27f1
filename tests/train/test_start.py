import json
import shutil

import pytest
import torch

from braidlm import checkpoint, interop
from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.files import read_json, write_json
from braidlm.manifest import read_manifest
from braidlm.runs import Run
from braidlm.train import train
from braidlm.train.start import INIT, ORIGIN, is_kept, load_recipe, open_start, start_of

from .test_loop import Stopping, assert_same_run, real_recipe, rows


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of six updates; do not write in it."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    train(real_recipe("fp32"), folder)
    return folder


def tuned(init, seed=11, **fields) -> Recipe:
    """Go on from `init` with other data."""
    plain = real_recipe("fp32").to_dict() | {"name": "tuned", "seed": seed, "init": str(init)}
    plain["data"]["sources"][0] |= {"n_pairs": [3], "length": 16}
    plain["train"] |= {"steps": 5, "lr": 1e-3}
    return Recipe.from_dict(plain | fields)


def weights_of(path):
    return checkpoint.unique_tensors(checkpoint.load_model(path)[0])


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_training_begins_with_the_weights_and_keeps_them(pretrained, tmp_path):
    train(tuned(pretrained), tmp_path / "run")
    assert same(weights_of(tmp_path / "run" / INIT), weights_of(pretrained))
    assert not same(weights_of(tmp_path / "run"), weights_of(pretrained))
    origin = read_json(tmp_path / "run" / INIT / ORIGIN)
    manifest = read_manifest(checkpoint.latest(pretrained))
    assert origin["weights"] == {
        "weights.safetensors": manifest["files"]["weights.safetensors"]["sha256"]
    }
    assert (origin["path"], origin["step"]) == (str(pretrained), 6)
    assert (origin["form"], origin["checkpoint"]) == ("run", "step-00000006")
    kept = Run.open(tmp_path / "run" / INIT)
    assert kept.status()["state"] == "done"
    assert kept.config["name"] == "tuned before"
    assert kept.config["data"] == Run.open(tmp_path / "run").config["data"]


def test_the_first_update_sees_these_weights_and_a_fresh_optimizer(pretrained, tmp_path):
    train(tuned(pretrained), tmp_path / "run")
    model, _ = checkpoint.load_model(pretrained)
    config = tuned(pretrained)
    drawn = config.model_copy(update={"init": None})
    train(drawn, tmp_path / "given", model=model.train())
    assert rows(tmp_path / "run") == rows(tmp_path / "given")
    assert rows(tmp_path / "run")[0]["step"] == 1
    train(drawn, tmp_path / "drawn")
    assert rows(tmp_path / "run")[0]["loss"] != rows(tmp_path / "drawn")[0]["loss"]


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_stopped_fine_tuning_resumes_bit_by_bit_without_its_init(pretrained, tmp_path, is_gone):
    init = shutil.copytree(pretrained, tmp_path / "init")
    config = tuned(init)
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "parts", mixture=Stopping(config, 2)).step == 3
    if is_gone:
        shutil.rmtree(init)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_one_that_was_killed_before_its_first_checkpoint_begins_with_them_again(
    pretrained, tmp_path
):
    init = shutil.copytree(pretrained, tmp_path / "init")
    config = tuned(init)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "killed")
    for folder in checkpoint.checkpoints(tmp_path / "killed"):
        shutil.rmtree(folder)
    shutil.rmtree(init)
    train(config, tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_kill_while_they_were_copied_is_mended_from_the_same_weights_alone(pretrained, tmp_path):
    init = shutil.copytree(pretrained, tmp_path / "init")
    config = tuned(init)
    train(config, tmp_path / "run")
    for folder in (tmp_path / "run", tmp_path / "run" / INIT):
        shutil.rmtree(folder / "checkpoints")
    assert not is_kept(tmp_path / "run")
    other = tmp_path / "other"
    train(real_recipe("fp32").model_copy(update={"seed": 99}), other)
    shutil.rmtree(init)
    shutil.copytree(other, init)
    with pytest.raises(InputError, match=r"its weights are not those that .* began with"):
        train(config, tmp_path / "run", resume=True)
    shutil.rmtree(init)
    shutil.copytree(pretrained, init)
    train(config, tmp_path / "run", resume=True)
    assert same(weights_of(tmp_path / "run" / INIT), weights_of(pretrained))


def test_a_checkpoint_can_be_named_too(pretrained, tmp_path):
    first = checkpoint.checkpoints(pretrained)[0]
    train(tuned(first), tmp_path / "run")
    assert same(weights_of(tmp_path / "run" / INIT), weights_of(first))


def test_a_folder_of_transformers_can_be_named(pretrained, tmp_path):
    interop.export_run(pretrained, tmp_path / "hf", format="braid-hf")
    train(tuned(tmp_path / "hf"), tmp_path / "run")
    assert same(weights_of(tmp_path / "run" / INIT), weights_of(pretrained))
    origin = read_json(tmp_path / "run" / INIT / ORIGIN)
    assert origin["form"] == "transformers"
    assert [len(sha) for sha in origin["weights"].values()] == [64]
    train(tuned(pretrained), tmp_path / "ours")
    assert rows(tmp_path / "run") == rows(tmp_path / "ours")


@pytest.fixture(scope="module")
def bpe_file(tmp_path_factory):
    """A tokenizer whose ids a model of 32 tokens can read."""
    from tokenizers import Tokenizer, models

    words = {"<|endoftext|>": 0} | {chr(ord("a") + i): 1 + i for i in range(26)}
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    Tokenizer(models.BPE(vocab=words, merges=[])).save(str(path))
    return path


def write_toml(path, lines):
    path.write_text("\n".join(lines))
    return path


BARE = (
    "[data]",
    "seq_len = 24",
    "[[data.sources]]",
    'kind = "mqar"',
    "vocab_size = 32",
    "length = 24",
    "n_pairs = [2]",
)


def test_model_and_tokenizer_that_a_recipe_leaves_out_are_those_of_its_init(pretrained, tmp_path):
    path = write_toml(tmp_path / "x.toml", BARE)
    found = load_recipe(path, [], str(pretrained))
    assert found.spec == real_recipe("fp32").spec
    assert found.init == str(pretrained)
    config = read_json(pretrained / "config.json")
    config["data"]["tokenizer"] = "hf:gpt2"
    moved = shutil.copytree(pretrained, tmp_path / "moved")
    latest = checkpoint.latest(moved)
    model = checkpoint.load_model(latest)[0]
    checkpoint.save(latest, model, recipe=config, step=6)
    assert load_recipe(path, [], str(moved)).data.tokenizer == "hf:gpt2"
    declared = ["data.tokenizer=bytes"]
    assert load_recipe(path, declared, str(moved)).data.tokenizer == "bytes"


def test_a_recipe_without_init_is_read_as_ever(tmp_path):
    path = write_toml(tmp_path / "x.toml", [*BARE, "[model]", 'pattern = "M-"', "d_model = 32"])
    assert load_recipe(path) == Recipe.load(path)


def test_weights_of_another_model_are_refused_by_the_first_field(pretrained, tmp_path):
    model = real_recipe("fp32").to_dict()["model"] | {"norm_eps": 1e-3}
    with pytest.raises(InputError, match=r"model\.norm_eps = 0\.001: must be 1e-05 as in init"):
        train(tuned(pretrained, model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_is_refused(pretrained, tmp_path, bpe_file):
    config = real_recipe("fp32").to_dict()
    config["data"]["tokenizer"] = str(bpe_file)
    latest = checkpoint.latest(shutil.copytree(pretrained, tmp_path / "init"))
    checkpoint.save(latest, checkpoint.load_model(latest)[0], recipe=config, step=6)
    with pytest.raises(InputError, match=r"data\.tokenizer = 'bytes': must be '.*tokenizer\.json'"):
        start_of(tuned(tmp_path / "init"), tmp_path / "run")
    data = tuned(pretrained).to_dict()["data"] | {"tokenizer": str(bpe_file)}
    assert start_of(tuned(tmp_path / "init", data=data), tmp_path / "run") is not None


def test_an_import_without_a_tokenizer_takes_any(pretrained, tmp_path):
    interop.export_run(pretrained, tmp_path / "hf", format="braid-hf")
    interop.import_run(tmp_path / "hf", tmp_path / "imported", tokenizer="none")
    assert open_start(str(tmp_path / "imported")).tokenizer is None
    assert start_of(tuned(tmp_path / "imported"), tmp_path / "run") is not None


def test_a_tokenizer_that_lies_in_the_init_is_taken_along(pretrained, tmp_path, bpe_file):
    interop.export_run(pretrained, tmp_path / "hf", format="braid-hf")
    shutil.copy(bpe_file, tmp_path / "hf" / "tokenizer.json")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config.pop("braid_tokenizer", None)
    write_json(tmp_path / "hf" / "config.json", config)
    interop.import_run(tmp_path / "hf", tmp_path / "imported", tokenizer="none")
    shutil.copy(bpe_file, tmp_path / "imported" / "hf" / "tokenizer.json")
    path = write_toml(tmp_path / "x.toml", [*BARE, "[train]", "steps = 1"])
    recipe = load_recipe(path, ["train.device=cpu"], str(tmp_path / "imported"))
    train(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "imported")
    for folder in (tmp_path / "run", tmp_path / "run" / INIT):
        found = checkpoint.load_model(folder)[1].data.tokenizer
        assert found == f"hf:{(folder / 'hf').resolve()}"


@pytest.mark.parametrize("what", ["nothing", "empty", "text", "damaged", "no_weights"])
def test_what_is_no_init_is_refused_and_nothing_is_made(pretrained, tmp_path, what):
    init, says = tmp_path / "init", ""
    match what:
        case "nothing":
            says = "no such folder"
        case "empty":
            init.mkdir()
            says = "has no checkpoint"
        case "text":
            init.write_text("weights")
            says = "it is a file"
        case "damaged":
            shutil.copytree(pretrained, init)
            file = checkpoint.latest(init) / "weights.safetensors"
            file.write_bytes(file.read_bytes()[:-4] + b"0000")
            says = "SHA-256 differs"
        case "no_weights":
            interop.export_run(pretrained, init, format="braid-hf")
            (init / "model.safetensors").unlink()
            says = "model.safetensors"
    with pytest.raises(InputError, match=says) as refusal:
        train(tuned(init), tmp_path / "run")
    assert "init" in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_going_on_needs_the_init_that_was_declared(pretrained, tmp_path):
    config = tuned(pretrained)
    train(config, tmp_path / "parts", mixture=Stopping(config, 1))
    other = config.model_copy(update={"init": None})
    with pytest.raises(InputError, match=r"init = None, but the run was started with"):
        train(other, tmp_path / "parts", resume=True)
