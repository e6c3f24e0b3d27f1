"""A sweep is a study whose arms are rates; its table says what diverged and what is best."""

import itertools
import json
import shlex
from pathlib import Path

import pytest

from braidlm.arch import Recipe
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.study.sweep import rates, run_sweep
from tests.study.making import RECIPE, book

FAST = RECIPE.replace("steps = 6", "threads = 1\nsteps = 6")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(FAST)
    return path


class TestRates:
    def test_they_rise_in_equal_ratios_from_end_to_end(self):
        assert rates("1e-4..1e-2", 3) == (1e-4, 1e-3, 1e-2)
        found = rates("2e-3..7e-1", 9)
        assert (found[0], found[-1]) == (2e-3, 7e-1)
        ratios = [b / a for a, b in itertools.pairwise(found)]
        assert max(ratios) / min(ratios) == pytest.approx(1.0, abs=2e-3)

    @pytest.mark.parametrize(
        "text", ["1e-2..1e-4", "1e-3", "a..b", "0..1", "-1..1", "1e-3..1e-3", "nan..1", "1..inf"]
    )
    def test_a_range_that_does_not_rise_is_refused(self, text: str):
        with pytest.raises(InputError, match=r"--lr .*must be two rising rates"):
            rates(text, 5)

    @pytest.mark.parametrize("n", [-1, 0, 2, 51])
    def test_a_number_of_rates_out_of_range_is_refused(self, n: int):
        with pytest.raises(InputError, match=f"--n {n}: must be between 3 and 50"):
            rates("1e-3..1e-1", n)


@pytest.mark.usefixtures("fake_runs")
class TestArms:
    def test_one_arm_for_every_width_and_rate(self, recipe: Path, tmp_path: Path):
        given = {"n_seeds": 2, "widths": (8, 16), "overrides": ["train.batch_size=1"]}
        summary = run_sweep(recipe, tmp_path / "out", (1e-3, 1e-2, 0.1), is_silent=True, **given)
        assert len(summary.states) == 12
        assert summary.is_complete
        said = book(tmp_path / "out")
        assert said["sweep"]["d16-lr-0.01"] == {"lr": 0.01, "width": 16}
        words = shlex.split(said["runs"]["d16-lr-0.01/seed-1"]["command"])
        sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        made = Recipe.load(recipe, sets)
        assert (made.train.lr, made.train.batch_size, made.seed) == (0.01, 1, 1)
        narrow = Recipe.load(recipe).spec
        assert made.spec.d_model == 2 * narrow.d_model
        assert [b.width for s in made.spec.sublayers for b in s.branches] == [
            2 * b.width for s in narrow.sublayers for b in s.branches
        ]
        again = run_sweep(
            recipe, tmp_path / "out", (1e-3, 1e-2, 0.1), is_silent=True, resume=True, **given
        )
        assert again.is_complete

    def test_what_cannot_be_starts_nothing(self, recipe: Path, tmp_path: Path):
        out, lrs = tmp_path / "out", (1e-3, 1e-2, 0.1)
        with pytest.raises(InputError, match="--seeds 0: must be at least 1"):
            run_sweep(recipe, out, lrs, n_seeds=0)
        with pytest.raises(InputError, match=r"--widths 9: mixers\.\*"):
            run_sweep(recipe, out, lrs, widths=(9,))
        with pytest.raises(InputError, match=r"arms: .*given twice"):
            run_sweep(recipe, out, (1e-3, 1e-3))
        with pytest.raises(InputError, match="'lrr'"):
            run_sweep(recipe, out, lrs, overrides=["train.lrr=1"])
        assert not out.exists()


def test_the_command_prints_and_writes_what_diverged(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    words = ["sweep", str(recipe), "--lr", "1e-3..1e25", "--n", "3", "--out", str(out), "--quiet"]
    assert main([*words, "--jobs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "training loss over the last tenth of the steps" in printed
    assert "diverged (1 of 1)" in printed
    assert "at the edge" in printed
    (entry,) = json.loads((out / "sweep.json").read_text())["sweeps"]
    assert entry["rows"][-1]["n_diverged"] == 1
    assert main(words) == 2
    assert "add --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "1..2", "--widths", "a"], "--widths a: must be whole numbers"),
        (["--lr", "1..2", "--widths", "8,8"], "--widths 8,8: a width is given twice"),
        (["--lr", "2..1"], "--lr 2..1: must be two rising rates"),
        (["--lr", "1..2", "--n", "2"], "--n 2: must be between 3 and 50"),
        ([], "--lr"),
    ],
)
def test_a_bad_command_is_one_sentence(
    words: list[str], said: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["sweep", str(recipe), "--out", str(tmp_path / "out"), *words]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()
