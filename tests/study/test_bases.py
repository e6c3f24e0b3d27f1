"""Bases: arms crossed with them, trained after them, from their weights."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from braidlm.arch import Recipe
from braidlm.arch.match import measures
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.study import StudyConfig, run_study
from braidlm.study.bases import settle
from braidlm.study.plan import plan
from tests.study.making import RECIPE, book, ended, launch, states, wait_until

BARE = RECIPE.replace('[model]\npattern = "*-"\nd_model = 8\nvocab_size = 32\n', "")
HEAD = 'name = "study"\nrecipe = "arms.toml"\n'
TWO = """
[[bases]]
name = "small"
recipe = "base.toml"
[[bases]]
name = "wide"
label = "Wide one"
recipe = "base.toml"
set = ["model.d_model=16", "train.steps=8"]
"""
ONE = TWO.partition('[[bases]]\nname = "wide"')[0]
ARMS = """
[[arms]]
name = "plain"
[[arms]]
name = "fast"
label = "Faster"
set = ["train.lr=2e-2"]
"""


def write(folder: Path, text: str, recipe: str = BARE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "base.toml").write_text(RECIPE.replace("[[tasks]]", "[[tasks]]\nname = 'own'"))
    (folder / "arms.toml").write_text(recipe)
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def settled(folder: Path, text: str, recipe: str = BARE) -> StudyConfig:
    return settle(StudyConfig.load(write(folder, text, recipe)), folder)[0]


def commands(out: Path) -> dict[str, list[str]]:
    return {name: shlex.split(row["command"]) for name, row in book(out)["runs"].items()}


def test_arms_are_crossed_with_bases_and_have_their_models(tmp_path: Path):
    study = settled(tmp_path, HEAD + TWO + ARMS)
    assert [arm.name for arm in study.arms] == [
        *("small-plain", "wide-plain"),
        *("small-fast", "wide-fast"),
    ]
    assert study.arms[3].label == "Wide one, Faster"
    specs = {arm.name: study.recipe_of(arm, 0, tmp_path).spec for arm in study.arms}
    assert {name: spec.d_model for name, spec in specs.items()} == {
        "small-plain": 8,
        "small-fast": 8,
        "wide-plain": 16,
        "wide-fast": 16,
    }
    assert study.recipe_of(study.arms[3], 0, tmp_path).train.lr == 2e-2
    assert specs["wide-fast"] == study.recipe_of(study.bases[1], 0, tmp_path).spec


def test_a_model_of_the_arms_recipe_gives_way_to_that_of_the_base(tmp_path: Path):
    study = settled(tmp_path, HEAD + TWO + ARMS, RECIPE)
    found = [study.recipe_of(arm, 0, tmp_path).spec.d_model for arm in study.arms]
    assert found == [8, 16, 8, 16]
    assert study.arms[0].set == ()  # it is the same already


def test_one_base_leaves_the_names_and_an_empty_list_starts_from_nothing(tmp_path: Path):
    own = '[[arms]]\nname = "scratch"\nbases = []\nrecipe = "base.toml"\nset = ["train.steps=12"]\n'
    study = settled(tmp_path, HEAD + ONE + ARMS + own)
    assert [arm.name for arm in study.arms] == ["plain", "fast", "scratch"]
    assert [study.bases_of(arm) for arm in study.arms] == [("small",), ("small",), ()]


def test_comparisons_are_made_for_each_base_or_by_whole_names(tmp_path: Path):
    asked = """
[[comparisons]]
arm = "fast"
control = "plain"
[[comparisons]]
arm = "small-fast"
control = "wide-plain"
"""
    study = settled(tmp_path, HEAD + TWO + ARMS + asked)
    assert [(c.arm, c.control) for c in study.comparisons] == [
        ("small-fast", "small-plain"),
        ("wide-fast", "wide-plain"),
        ("small-fast", "wide-plain"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[bases]]\nname = "x"\n', "base 'x': give either a recipe"),
        ('[[bases]]\nname = "x"\nrecipe = "base.toml"\ninit = "y"\n', "give either a recipe"),
        ('[[bases]]\nname = "x"\ninit = "y"\nset = ["a=1"]\n', "stays as it is"),
        ('[[bases]]\nname = "x"\ninit = "nowhere"\n', "base 'x': init = '.*nowhere'"),
        ('[[bases]]\nname = "plain"\nrecipe = "base.toml"\n', "'plain' is the name of a base"),
        (
            '[[bases]]\nname = "x"\nrecipe = "base.toml"\nset = ["train.step=1"]\n',
            "base 'x': .*step",
        ),
        ('[[comparisons]]\narm = "fats"\ncontrol = "plain"\n', "arm = 'fats' is no arm .*'fast'"),
        ('[[comparisons]]\narm = "fast"\ncontrol = "fast"\n', "compared with itself"),
        (TWO, "outcomes: 'mqar-recal:x' is no task of an arm .*'mqar-recall'"),
        ('[[arms]]\nname = "odd"\nbases = ["small"]\n', "bases: 'small' must be one of none"),
        (TWO + '[[arms]]\nname = "odd"\nbases = ["big"]\n', "'big' must be one of small, wide"),
        (
            TWO + '[[arms]]\nname = "odd"\nbases = ["wide"]\n'
            '[[arms]]\nname = "even"\nbases = ["small"]\n'
            '[[comparisons]]\narm = "odd"\ncontrol = "even"\n',
            "no base has both 'odd' and 'even'",
        ),
        (
            TWO + '[[arms]]\nname = "small-fast"\nbases = []\nrecipe = "base.toml"\n',
            "two are called 'small-fast'",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path, text: str, said: str):
    more = "" if text != TWO else 'outcomes = ["mqar-recal:x"]\n'
    path = write(tmp_path, HEAD + more + ARMS + text)
    with pytest.raises(InputError, match=said):
        run_study(path, tmp_path / "out", is_silent=True)
    assert not (tmp_path / "out").exists()


def test_match_resizes_bases_each_in_its_own_quantity(tmp_path: Path):
    heads = [f"model.mixers.*.{k}={v}" for k, v in (("n_heads", 4), ("head_dim", 4))]

    def base(name: str, more: list[str], rule: str = "") -> str:
        return f'[[bases]]\nname = "{name}"\nrecipe = "base.toml"\nset = {heads + more}\n{rule}\n'

    text = HEAD + '[match]\non = "params"\nreference = "small"\n'
    text += base("small", ["model.mixers.*.n_kv_heads=2"])
    text += base("wide", ["model.mixers.*.n_kv_heads=2", "model.mixers.-.d_ff=40"])
    text += base("keys", ["model.mixers.*.n_kv_heads=4"], 'match = "cache"')
    study = settled(tmp_path, text + ARMS)
    own = {arm.name: study.recipe_of(arm, 0, tmp_path).spec for arm in study.arms}
    sizes = {name: measures(spec, study.context) for name, spec in own.items()}
    goal = sizes["small-plain"]
    assert sizes["wide-plain"].n_params == pytest.approx(goal.n_params, rel=0.005)
    assert sizes["keys-plain"].cache_bytes == goal.cache_bytes
    assert sizes["keys-plain"] == sizes["keys-fast"]
    assert [len(base.set) for base in study.bases] == [3, 5, 4]


@pytest.mark.usefixtures("fake_runs")
def test_arms_wait_for_their_base_and_begin_with_it(tmp_path: Path):
    asked = '[[comparisons]]\narm = "fast"\ncontrol = "plain"\n'
    path, out = (
        write(tmp_path, HEAD + "seeds = [0, 1]\njobs = 2\n" + TWO + ARMS + asked),
        tmp_path / "out",
    )
    run_study(path, out, is_silent=True)
    assert set(states(out).values()) == {"done"}
    said = book(out)
    assert [row["base"] for row in said["arms"]] == ["small", "wide", "small", "wide"]
    assert said["comparisons"][1] == {"arm": "wide-fast", "control": "wide-plain"}
    tokens = {name: row["training tokens"] for name, row in said["quantities"].items()}
    assert tokens["small-fast"] == (6 + 6) * 2 * 16
    assert tokens["wide-fast"] == (8 + 6) * 2 * 16
    for name, words in commands(out).items():
        arm, seed = name.split("/")
        if arm in ("small", "wide"):
            assert "--init" not in words
            continue
        base = out / arm.split("-")[0] / seed
        assert words[words.index("--init") + 1] == str(base)
        assert ("--no-before" in words) == arm.endswith("fast")
        begun = (out / arm / seed / "calls.txt").stat().st_ctime
        assert begun >= (base / "status.json").stat().st_mtime


@pytest.mark.usefixtures("fake_runs")
def test_a_base_that_fails_keeps_its_arms_waiting_and_says_so(tmp_path: Path):
    text = HEAD + TWO.replace('"small"', '"raise"') + ARMS
    out = tmp_path / "out"
    summary = run_study(write(tmp_path, text), out, is_silent=True)
    assert summary.states["raise/seed-0"] == "failed"
    assert summary.states["raise-plain/seed-0"] == "waiting"
    assert summary.errors["raise-plain/seed-0"] == "its base raise/seed-0 failed"
    assert summary.states["wide-fast/seed-0"] == "done"


def test_a_stopped_study_goes_on_with_its_bases_first(tmp_path: Path):
    text = HEAD + "jobs = 2\n" + TWO.replace('"small"', '"sleep"') + ARMS
    path, out = write(tmp_path, text), tmp_path / "out"
    runner = launch(path, out)
    status = out / "sleep" / "seed-0" / "status.json"
    wait_until(lambda: status.exists() and '"step": 3' in status.read_text())
    runner.terminate()
    assert ended(runner)[0] == 130
    assert states(out)["sleep/seed-0"] == "interrupted"
    assert states(out)["sleep-plain/seed-0"] == "waiting"
    assert not (out / "sleep-plain" / "seed-0").exists()
    assert ended(launch(path, out, "--resume"))[0] == 0
    assert set(states(out).values()) == {"done"}


@pytest.mark.usefixtures("fake_runs")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "small"\nrecipe', 'name = "other"\nrecipe', "base 'small' is no longer"),
        ("train.steps=8", "train.steps=9", "base 'wide' was made with"),
        ('name = "fast"', 'name = "fast"\nbases = ["wide"]', "arm 'small-fast' is no longer"),
    ],
)
def test_a_study_whose_bases_changed_is_refused(tmp_path: Path, old: str, new: str, said: str):
    path, out = write(tmp_path, HEAD + TWO + ARMS), tmp_path / "out"
    run_study(path, out, is_silent=True)
    path.write_text((HEAD + TWO + ARMS).replace(old, new))
    with pytest.raises(InputError, match=said):
        run_study(path, out, resume=True, is_silent=True)


@pytest.mark.usefixtures("fake_runs")
def test_what_is_given_is_asked_once_and_what_is_trained_for_every_seed(tmp_path: Path):
    path, out = write(tmp_path, HEAD + "seeds = [4, 7]\n" + TWO + ARMS), tmp_path / "out"
    study = settle(StudyConfig.load(path), tmp_path)[0]
    bases = list(study.bases)
    bases[0] = bases[0].model_copy(update={"recipe": None, "init": "somewhere"})
    study = study.model_copy(update={"bases": tuple(bases)})
    asking = [job.name for job in plan(study, tmp_path, out) if job.asks_before]
    assert asking == ["small-plain/seed-4", "wide-plain/seed-4", "wide-plain/seed-7"]


def outcome(run: Path) -> dict[str, Any]:
    return read_json(run / "results" / "mqar-recall.json")


@pytest.mark.slow
def test_real_arms_begin_with_the_weights_of_their_base(tmp_path: Path):
    """The base is asked once per seed, by its first arm; a given base is the same for all seeds."""
    path, out = (
        write(tmp_path, HEAD + TWO.split('[[bases]]\nname = "wide"')[0] + ARMS),
        tmp_path / "o",
    )
    assert main(["study", str(path), "--out", str(out), "--quiet"]) == 0
    base = next((out / "small" / "seed-0").glob("checkpoints/*06/manifest.json"))
    trained = json.loads(base.read_text())["files"]["weights.safetensors"]["sha256"]
    for arm in ("plain", "fast"):
        origin = read_json(out / arm / "seed-0" / "init" / "origin.json")
        assert origin["weights"]["weights.safetensors"] == trained
    before = out / "plain" / "seed-0" / "init"
    assert outcome(before)["task"] == outcome(out / "fast" / "seed-0")["task"]
    assert not list((out / "fast" / "seed-0" / "init").glob("results/*.json"))

    given = HEAD + "seeds = [5]\n" + '[[bases]]\nname = "it"\ninit = "o/small/seed-0"\n' + ARMS
    (tmp_path / "given.toml").write_text(given)
    assert (
        main(["study", str(tmp_path / "given.toml"), "--out", str(tmp_path / "g"), "--quiet"]) == 0
    )
    origin = read_json(tmp_path / "g" / "fast" / "seed-5" / "init" / "origin.json")
    assert origin["weights"]["weights.safetensors"] == trained

    # A result of the base that was lost is made again by the arm that asks it, and by no other.
    (before / "results" / "mqar-recall.json").unlink()
    assert main(["study", str(path), "--out", str(out), "--quiet", "--resume"]) == 0
    assert outcome(before)["step"] == 0
    assert Recipe.from_dict(read_json(out / "plain/seed-0/config.json")).init is not None


def test_an_arm_may_change_what_its_base_leaves_open(tmp_path: Path):
    """The plan holds the model that is trained, so that a later session finds it unchanged."""
    more = '[[arms]]\nname = "far"\nset = ["init_changes.mixers.*.rope_theta=5e5"]\n'
    study = settled(tmp_path, HEAD + ONE + ARMS + more)
    jobs = {job.arm: job for job in plan(study, tmp_path, tmp_path / "out")}
    thetas = {arm: job.recipe.spec.mixers[0].mixer for arm, job in jobs.items()}
    assert getattr(thetas["plain"], "rope_theta", None) == 10_000
    assert getattr(thetas["far"], "rope_theta", None) == 5e5
    wrong = settled(tmp_path, HEAD + ONE + ARMS + more.replace("mixers.*", "mixers.Z"))
    with pytest.raises(InputError, match=r"arm 'far': init_changes\.mixers\.Z"):
        plan(wrong, tmp_path, tmp_path / "out")
