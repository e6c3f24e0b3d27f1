"""A study file that cannot be is refused in one sentence, before anything starts."""

import re
from pathlib import Path

import pytest

from braidlm.errors import InputError
from braidlm.study import StudyConfig, run_study
from braidlm.study.budget import check_matched, quantities
from tests.study.making import RECIPE, write_study

WIDE = ["model.d_model=16"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = 'recipe.toml'\n[[arms]]\nname = 'a'", "name"),
        ("name = 'x'\nrecipe = 'recipe.toml'", "arms"),
        ("name = 'x'\nrecipe = 'r.toml'\narms = []", "arms"),
        ("name = 'x'\nrecipe = 'r.toml'\nseed = 1\n[[arms]]\nname = 'a'", "'seeds'"),
        ("name = 'x'\nrecipe = 'r.toml'\nseeds = []\n[[arms]]\nname = 'a'", "seeds"),
        ("name = 'x'\nrecipe = 'r.toml'\nseeds = [-1]\n[[arms]]\nname = 'a'", "seeds"),
        ("name = 'x'\nrecipe = 'r.toml'\nseeds = [1, 1]\n[[arms]]\nname = 'a'", "1 is given twice"),
        (
            "name = 'x'\nrecipe = 'r.toml'\n[[arms]]\nname = 'a'\n[[arms]]\nname = 'a'",
            "a is given twice",
        ),
        ("name = 'x'\nrecipe = 'r.toml'\n[[arms]]\nname = '../a'", "name"),
        ("name = 'x'\nrecipe = 'r.toml'\njobs = -1\n[[arms]]\nname = 'a'", "jobs"),
        (
            "name = 'x'\nrecipe = 'r.toml'\nrequire_matched = ['flops']\n[[arms]]\nname = 'a'",
            "require_matched",
        ),
        (
            "name = 'x'\nrecipe = 'r.toml'\n[[arms]]\nname = 'a'\nset = ['seed=3']",
            "arm 'a': 'seed=3' cannot be set; it comes from the study's seeds",
        ),
        (
            "name = 'x'\nrecipe = 'r.toml'\nset = ['name=\"b\"']\n[[arms]]\nname = 'a'",
            "cannot be set; it comes from the arm's name",
        ),
        ("name = ", "is not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_by_its_field(tmp_path: Path, text: str, message: str):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        StudyConfig.load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.count(str(path)) == 1
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"a": [], "b": ['model.pattern="M-X"']}, "arm 'b': "),
        ({"a": ["train.stepz=4"]}, "arm 'a': .*'stepz'.*steps"),
        ({"a": ["train.steps"]}, "arm 'a': .*must look like a.b=value"),
    ],
)
def test_an_arm_that_cannot_be_is_named_before_anything_is_written(
    tmp_path: Path, arms: dict[str, list[str]], message: str
):
    with pytest.raises(InputError, match=message):
        run_study(write_study(tmp_path, arms), tmp_path / "out", is_silent=True)
    assert not (tmp_path / "out").exists()


def test_a_missing_recipe_is_named_by_its_path(tmp_path: Path):
    study_file = write_study(tmp_path, {"a": []})
    (tmp_path / "recipe.toml").unlink()
    with pytest.raises(InputError, match=r"recipe\.toml: cannot be read"):
        run_study(study_file, tmp_path / "out", is_silent=True)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (['data.tokenizer="absent.json"'], "arm 'b': data.tokenizer = 'absent.json' is not there"),
        (
            ['data.sources=[{kind = "text", path = "absent"}]', "tasks=[]"],
            "arm 'b': data.sources.0.path = 'absent' is not there",
        ),
    ],
)
def test_missing_texts_and_tokenizers_are_named_before_anything_starts(
    tmp_path: Path, overrides: list[str], says: str
):
    study_file = write_study(tmp_path, {"a": [], "b": overrides})
    with pytest.raises(InputError) as caught:
        run_study(study_file, tmp_path / "out", is_silent=True)
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_arms_that_must_match_and_do_not_start_nothing(tmp_path: Path):
    required = ["training tokens", "parameters"]
    study_file = write_study(tmp_path, {"narrow": [], "wide": WIDE}, require_matched=required)
    with pytest.raises(InputError) as caught:
        run_study(study_file, tmp_path / "out", is_silent=True)
    said = str(caught.value)
    assert "parameters must agree within 1%" in said
    assert "'narrow' has" in said
    assert "'wide' has" in said
    assert "training tokens" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("fake_runs")
def test_arms_that_must_match_and_do_start(tmp_path: Path):
    arms = {"slow": [], "fast": ["train.lr=3e-2"]}
    study_file = write_study(tmp_path, arms, RECIPE, require_matched=["parameters", "cache bytes"])
    summary = run_study(study_file, tmp_path / "out", is_silent=True)
    assert summary.is_complete
    assert len(summary.matched) == 4


def test_negative_jobs_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="--jobs -2: must be 0"):
        run_study(write_study(tmp_path, {"a": []}), tmp_path / "out", jobs=-2)


def test_the_example_of_the_docs_is_a_study_whose_arms_match(tmp_path: Path):
    root = Path(__file__).parents[2]
    page = (root / "docs" / "studies.md").read_text(encoding="utf-8")
    path = tmp_path / "study.toml"
    path.write_text(page.partition("```toml\n")[2].partition("```")[0])
    (tmp_path / "tiny.toml").write_bytes((root / "recipes" / "tiny.toml").read_bytes())

    config = StudyConfig.load(path)
    budgets = {a.name: quantities(config.recipe_of(a, 0, tmp_path), 8192) for a in config.arms}

    check_matched(budgets, config.require_matched)
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    assert set(StudyConfig.model_fields) - {"arms"} <= listed
