"""`[match]` of a study: arms are resized at plan time, recorded, and refused if they cannot be."""

import shlex
from pathlib import Path

import pytest

from braidlm.arch import Recipe
from braidlm.arch.match import Quantity, measures
from braidlm.errors import InputError
from braidlm.report import tables
from braidlm.study import StudyConfig, run_study
from braidlm.study.matching import match_arms, overrides_to
from tests.study.making import RECIPE, book, write_study

WIDE = RECIPE.replace("d_model = 8", "d_model = 16")
ARMS = {
    "attention": ["model.mixers.-.d_ff=100"],
    "mamba": ['model.pattern="M-"'],
    "both": ['model.pattern="({M*}-)2"', "model.mixers.-.d_ff=90"],
}
RULE = {"on": "params", "reference": "both"}


def study(folder: Path, rule: dict, arms: dict[str, list[str]] = ARMS, **fields) -> Path:
    """A study file with a rule of matching."""
    path = write_study(folder, arms, WIDE, **fields)
    table = "\n".join(f"{k} = {v!r}" for k, v in rule.items())
    path.write_text(path.read_text().replace("[[arms]]", f"[match]\n{table}\n[[arms]]", 1))
    return path


@pytest.mark.parametrize("on", ["params", "flops"])
def test_arms_agree_with_the_reference_and_with_each_other(tmp_path: Path, on: Quantity):
    path = study(tmp_path, {**RULE, "on": on, "factor": 8.0})
    config, changes = match_arms(StudyConfig.load(path), tmp_path)
    found = {
        arm.name: measures(config.recipe_of(arm, 0, tmp_path).spec, 16).of(on)
        for arm in config.arms
    }
    goal = found["both"]
    assert all(abs(value - goal) <= 0.005 * goal for value in found.values())
    assert changes["both"] == ()
    assert config.arms[2].set == tuple(ARMS["both"])
    for name in ("attention", "mamba"):
        assert changes[name]


@pytest.mark.usefixtures("fake_runs")
def test_the_changes_are_in_the_book_the_commands_and_the_report(tmp_path: Path):
    path, out = (
        study(tmp_path, {**RULE, "factor": 8.0}, require_matched=["parameters"]),
        tmp_path / "out",
    )
    summary = run_study(path, out, is_silent=True)
    assert summary.is_complete
    assert "parameters" in summary.matched
    said = book(out)
    assert said["match"]["reference"] == "both"
    assert said["match"]["tolerance"] == 0.005
    (first, *_) = said["match"]["changes"]["attention"]
    assert first["field"] == "mixers.-.d_ff"
    assert first["old"] == 100
    words = shlex.split(said["runs"]["attention/seed-0"]["command"])
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert f"model.mixers.-.d_ff={first['new']}" in sets
    table = next(
        r for r in Recipe.load(tmp_path / "recipe.toml", sets).spec.mixers if r.letter == "-"
    )
    assert table.mixer.width == first["new"]
    for result in out.glob("*/*/results/*"):  # a fake run's is no result to a report
        result.unlink()
    arms = {arm["name"]: arm for arm in tables([out])["arms"]}
    assert arms["attention"]["changes"] == [f"mixers.-.d_ff 100 → {first['new']}"]
    assert arms["both"]["changes"] == []
    again = run_study(path, out, resume=True, is_silent=True)
    assert again.is_complete
    with pytest.raises(InputError, match="arm 'attention' was made with"):
        run_study(study(tmp_path, {**RULE, "factor": 4.0, "on": "flops"}), out, resume=True)


def test_an_arm_that_cannot_be_matched_is_named_and_nothing_starts(tmp_path: Path):
    arms = {"small": ['model.pattern="*"'], "large": ['model.pattern="(*-)9"']}
    path = study(tmp_path, {"on": "params", "reference": "large"}, arms)
    with pytest.raises(
        InputError, match=r"match: arm 'small': parameters cannot be matched: .*nearest"
    ):
        run_study(path, tmp_path / "out", is_silent=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"on": "params", "reference": "nobody"}, "must be one of attention, mamba, both"),
        ({"on": "size", "reference": "both"}, r"match\.on = 'size'"),
        ({"on": "params"}, r"match\.reference: this field is required"),
        ({**RULE, "context": -1}, r"match\.context = -1"),
        ({**RULE, "factor": 0.1}, r"match\.factor = 0\.1"),
        ({**RULE, "contex": 1}, "did you mean 'context'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(tmp_path: Path, rule: dict, message: str):
    with pytest.raises(InputError, match=message):
        StudyConfig.load(study(tmp_path, rule))


def test_flops_are_matched_at_the_training_length_and_caches_at_the_studys_context(tmp_path: Path):
    arms = {"a": ['model.pattern="*M-"'], "b": ['model.pattern="*MM-"']}
    mixers = ["model.mixers.*.n_heads=2", "model.mixers.M.d_state=32", "model.mixers.M.head_dim=8"]
    rules: tuple[tuple[Quantity, int], ...] = (("flops", 16), ("cache", 100))
    for on, context in rules:
        path = study(
            tmp_path, {"on": on, "reference": "a", "factor": 4.0}, arms, context=100, set=mixers
        )
        config, changes = match_arms(StudyConfig.load(path), tmp_path)
        assert changes["b"]
        a, b = (
            measures(config.recipe_of(x, 0, tmp_path).spec, context).of(on) for x in config.arms
        )
        assert abs(a - b) <= 0.005 * a


def test_a_recipe_that_leaves_sizes_to_defaults_gets_the_whole_model(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(WIDE)
    recipe = Recipe.load(tmp_path / "recipe.toml")

    def load(more):
        return Recipe.load(tmp_path / "recipe.toml", more).spec

    wide = Recipe.load(tmp_path / "recipe.toml", ["model.mixers.-.d_ff=72"]).spec
    assert overrides_to(wide, ["model.mixers.-.d_ff=72"], load) == ["model.mixers.-.d_ff=72"]
    (whole,) = overrides_to(wide, ["model.d_model=24"], load)
    assert load([whole]) == wide != recipe.spec
