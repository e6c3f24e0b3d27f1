"""Rivals for one place, and things that stand where a file should."""

import json
import shutil
import subprocess
import sys

import pytest

from braidlm.cli.main import main
from braidlm.data.shards import open_shards
from braidlm.runs import Run
from tests.cli.conftest import ROOT, contents
from tests.study.making import launch, wait_until, write_study

COMMAND = [sys.executable, "-m", "braidlm"]


def test_the_second_measurement_of_a_result_is_refused_and_others_are_not(
    refused, braid, trained, run
):
    before = contents(run)
    with Run.open(run).measuring("mqar", "recall"):
        says = ("mqar-recall.json is in use", "another process is measuring it")
        refused("eval", run, "--tasks", "mqar", "--force", says=says)
        assert contents(run) == before
        assert braid("eval", run, "--tasks", "lm", "--force").code == 0
        assert braid("eval", run, "--tasks", "mqar", "--limit", "2").code == 0
    assert braid("eval", run, "--tasks", "mqar", "--force").code == 0


def test_two_evaluations_at_once_leave_whole_results(trained, run):
    """Each may be refused the task that the other measures just then, and goes on with the next."""
    names = [r["name"] for r in Run.open(run).results()]
    words = ["eval", str(run), "--force", "--json"]
    rivals = [subprocess.Popen([*COMMAND, *words], stdout=-1, stderr=-1, cwd=ROOT) for _ in "12"]
    told = [rival.communicate(timeout=120) for rival in rivals]
    made = [json.loads(out) for out, _ in told]
    for rival, results, (_, said) in zip(rivals, made, told, strict=True):
        n_refused = said.count(b"another process is measuring it")
        assert len(results) + n_refused == len(names) == 2, said
        assert rival.returncode == (2 if n_refused else 0)
    left = Run.open(run).results()
    assert [r["name"] for r in left] == names
    assert all(r in made[0] + made[1] for r in left)
    assert not list(run.rglob("*.partial.jsonl"))


def test_two_builds_of_one_corpus_at_once_make_it_once(recipe):
    words = [*COMMAND, "data", "build", str(recipe), "--json"]
    rivals = [subprocess.Popen(words, stdout=-1, stderr=-1, cwd=ROOT) for _ in "12"]
    told = [rival.communicate(timeout=120) for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0], told
    (folder,) = [p for p in (recipe.parent / "cache").iterdir() if p.is_dir()]
    assert len(open_shards(folder, verify="all").train) > 0


@pytest.mark.slow
def test_the_second_study_in_one_folder_is_refused_and_writes_nothing(tmp_path):
    study, out = write_study(tmp_path, {"sleep": []}), tmp_path / "out"
    first = launch(study, out)
    try:
        wait_until(lambda: (out / "study.json").exists())
        book = json.loads((out / "study.json").read_text())
        for more in ([], ["--resume"]):
            second = launch(study, out, *more)
            _, said = second.communicate(timeout=60)
            assert second.returncode == 2, said
            assert str(out) in said
            now = json.loads((out / "study.json").read_text())
            assert now["sessions"] == book["sessions"]
    finally:
        first.kill()
        first.communicate()


# what stands where a file should

PLACES = {
    "recipe.toml": ("describe {}/recipe.toml", "train {}/recipe.toml --out {}/new --progress none"),
    "corpus.jsonl": ("data build {}/recipe.toml --out {}/elsewhere",),
    "run/config.json": ("eval {}/run", "describe {}/run", "report {}/run -o {}/r.html"),
    "run/metrics.jsonl": (
        "train {}/recipe.toml --out {}/run --resume --set train.steps=5 --progress none",
    ),
    "run/status.json": (
        "train {}/recipe.toml --out {}/run --resume --set train.steps=5 --progress none",
    ),
    "run/env.json": (
        "train {}/recipe.toml --out {}/run --resume --set train.steps=5 --progress none",
    ),
    "run/results": ("eval {}/run --force",),
    "run/results/mqar-recall.json": ("eval {}/run --tasks mqar --force",),
    "run/checkpoints/step-00000004/weights.safetensors": ("eval {}/run --force",),
    "run/checkpoints/step-00000004/manifest.json": ("generate {}/run",),
    "run/checkpoints/step-00000004/train_state.pt": (
        "train {}/recipe.toml --out {}/run --resume --set train.steps=5 --progress none",
    ),
    "run/.lock": (
        "train {}/recipe.toml --out {}/run --resume --set train.steps=5 --progress none",
    ),
    "r.html": ("report {}/run -o {}/r.html",),
    "cache": ("data build {}/recipe.toml",),
}
CASES = [(place, words) for place, commands in PLACES.items() for words in commands]


@pytest.mark.parametrize("kind", ["folder", "loop", "nowhere"])
@pytest.mark.parametrize(("place", "words"), CASES)
def test_what_is_no_file_is_named(capsys, trained, tmp_path, kind, place, words):
    folder = tmp_path / "f"
    shutil.copytree(trained, folder)
    text = (folder / "recipe.toml").read_text().replace(str(trained), str(folder))
    (folder / "recipe.toml").write_text(text)
    config = folder / "run" / "config.json"
    config.write_text(config.read_text().replace(str(trained), str(folder)))
    file = folder / place
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
    if kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(file if kind == "loop" else tmp_path / "no" / "where")
    code = main([*words.format(folder, folder).split()])
    said = capsys.readouterr().err
    if code == 0:  # what can be made anew, is
        return
    assert code == 2, said
    assert said.startswith("braid: "), said
    assert said.count("\n") == 1, said
    assert file.name in said or file.parent.name in said, said
