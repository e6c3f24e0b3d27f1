"""Weights of a study's arms that go when the run is done; all else stays."""

from pathlib import Path

import pytest

from braidlm.cli.main import main
from braidlm.study import StudyConfig
from braidlm.study.config import Keep
from braidlm.study.keeping import forget_weights
from tests.study.making import RECIPE, book, states, write_study

FILES = (
    "checkpoints/step-00000008/weights.safetensors",
    "checkpoints/step-00000010/weights.safetensors",
    "init/checkpoints/step-00000000/weights.safetensors",
    "init/origin.json",
    "init/results/mqar-recall.json",
    "results/mqar-recall.json",
    "metrics.jsonl",
)


@pytest.mark.parametrize(
    ("keep", "gone"), [("all", []), ("last", [0, 2]), ("none", [0, 1, 2])], ids=str
)
def test_weights_go_and_results_stay(tmp_path: Path, keep: Keep, gone: list[int]):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    forget_weights(tmp_path, keep)
    there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert there - {".lock"} == {name for i, name in enumerate(FILES) if i not in gone}
    forget_weights(tmp_path, keep)  # nothing left to do is nothing wrong


def test_another_word_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = write_study(tmp_path, {"one": []}, keep="some")
    assert main(["study", str(study), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("keep", "'some'", "'none'"))
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_without_weights_is_complete_and_its_base_stays(tmp_path: Path):
    """A resumed study passes over its runs; a task that is asked otherwise trains again."""
    bare = RECIPE.replace('[model]\npattern = "*-"\nd_model = 8\nvocab_size = 32\n', "")
    (tmp_path / "base.toml").write_text(RECIPE)
    (tmp_path / "arms.toml").write_text(bare)
    path, out = tmp_path / "study.toml", tmp_path / "out"
    path.write_text(
        'name = "study"\nrecipe = "arms.toml"\nkeep = "none"\njobs = 2\n'
        '[[bases]]\nname = "it"\nrecipe = "base.toml"\n'
        '[[arms]]\nname = "plain"\n[[arms]]\nname = "fast"\nset = ["train.lr=2e-2"]\n'
    )
    assert StudyConfig.load(path).keep == "none"
    command = ["study", str(path), "--out", str(out), "--quiet"]
    assert main(command) == 0
    assert {p.relative_to(out).parts[0] for p in out.rglob("*.safetensors")} == {"it"}
    told = {p: p.read_text() for p in out.rglob("metrics.jsonl")}
    assert main([*command, "--resume"]) == 0
    assert set(states(out).values()) == {"done"}
    assert book(out)["keep"] == "none"
    (out / "fast" / "seed-0" / "results" / "mqar-recall.json").unlink()
    assert main([*command, "--resume"]) == 0
    assert (out / "fast" / "seed-0" / "results" / "mqar-recall.json").exists()
    assert set(told) == set(out.rglob("metrics.jsonl"))
