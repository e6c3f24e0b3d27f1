"""From a teacher to a student: the folder, the table, going on, and what is refused."""

import json
import signal
from pathlib import Path

import pytest
import torch

from braidlm import checkpoint
from braidlm.cli.main import main
from braidlm.convert import convert as converted
from braidlm.convert.declare import load_conversion
from braidlm.runs import Run
from tests.cli.conftest import contents
from tests.convert.tiny import write_teacher

STAGES = """
[convert]
pattern = "{pattern}"
[[convert.stages]]
kind = "mixers"
steps = {steps}
lr = 5e-3
[[convert.stages]]
kind = "logits"
steps = {steps}
lr = 2e-3
[[convert.stages]]
kind = "text"
trained = "all"
steps = {steps}
lr = 5e-4
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("convert")
    write_teacher(folder, steps=12)
    (folder / "c.toml").write_text(STAGES.format(pattern="M-*-", steps=3))
    return folder


def call(*words: object) -> int:
    return main([str(word) for word in words])


def convert(place: Path, out: Path, *words: object, **settings: Path) -> int:
    recipe = settings.get("recipe", place / "c.toml")
    words = ("convert", place / "teacher", "--recipe", recipe, "--out", out, *words)
    return call(*words, "--progress", "none")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_model(folder)[0].state_dict()


def test_the_folder_is_a_run_that_every_stage_has_led_to(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert convert(place, out, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert [row["stage"] for row in rows] == ["teacher", "copy", "mixers", "logits", "text"]
    assert all(row["value"] > 0 and row["stderr"] > 0 for row in rows)
    assert "change" not in rows[0]
    for row in rows[1:]:
        assert row["change"] == pytest.approx(row["value"] - rows[0]["value"], abs=1e-9)
    assert [row.get("steps") for row in rows] == [None, None, 3, 3, 3]
    last, before = weights(out / "stages/3-text"), weights(out / "stages/2-logits")
    assert all(torch.equal(t, last[name]) for name, t in weights(out).items())
    assert not torch.equal(last["embedding.weight"], before["embedding.weight"])
    copied, matched = weights(out / "stages/0-copy"), weights(out / "stages/1-mixers")
    changed = {n for n, t in matched.items() if not torch.equal(t, copied[n])}
    assert changed
    assert all(name.startswith("blocks.0.mix.") for name in changed)
    capsys.readouterr()
    assert call("eval", out) == 0
    assert "measured already" in capsys.readouterr().err
    assert call("report", out, "-o", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count(">mixers</th>") == 1
    assert call("compare", out, out / "init") == 0
    assert call("convert", out, "--pattern", "M-G-", "--out", tmp_path / "again", "--no-eval") == 0
    stages = tmp_path / "out/stages/1-mixers"
    state = checkpoint.load_train_state(checkpoint.latest(stages))
    assert all(name.startswith("blocks.0.mix.") for name in state["optimizer"])


class Stopping:
    """Asks a training to stop at its second step, once for each stage."""

    def __init__(self, told: set[str]) -> None:
        self.told, self.name = told, ""

    def start(self, name: str, step: int, steps: int) -> None:
        self.name = name

    def update(self, step: int, loss: float, n_tokens: int) -> None:
        if step == 2 and self.name not in self.told:
            self.told.add(self.name)
            signal.raise_signal(signal.SIGTERM)

    def close(self, state: str) -> None:
        pass


def test_a_call_that_goes_on_ends_as_one_that_was_not_stopped(place, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    teacher = {"teacher": str(place / "teacher")}
    found = [load_conversion(place / "c.toml", (), teacher) for _ in range(2)]
    assert converted(*found[0], whole, asks=False).state == "done"
    told: set[str] = set()
    stages = []
    for _ in range(4):
        made = converted(
            *load_conversion(place / "c.toml", (), teacher, parts),
            parts,
            resume=True,
            asks=False,
            progress=lambda: Stopping(told),
        )
        stages.append((made.state, made.stage))
    assert stages == [
        *(("interrupted", name) for name in ("mixers", "logits", "text")),
        ("done", "text"),
    ]
    one, other = weights(whole), weights(parts)
    assert all(torch.equal(t, other[name]) for name, t in one.items())
    for stage in ("1-mixers", "2-logits", "3-text"):
        losses = [Run(out / "stages" / stage).metrics()[-1]["loss"] for out in (whole, parts)]
        assert losses[0] == losses[1]


def test_a_parallel_student_follows_without_leaving_the_teacher(place, tmp_path, capsys):
    (tmp_path / "p.toml").write_text(
        STAGES.format(pattern="({*M}-)2", steps=2).split('[[convert.stages]]\nkind = "logits"')[0]
    )
    out = tmp_path / "out"
    assert convert(place, out, "--json", recipe=tmp_path / "p.toml") == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert [row["stage"] for row in rows] == ["teacher", "copy", "mixers"]
    assert len({row["value"] for row in rows}) == 1


def test_layers_are_chosen_by_what_the_teacher_loses(place, tmp_path):
    out = tmp_path / "out"
    words = ("convert", place / "teacher", "--keep", "1", "--into", "G", "--out", out, "--no-eval")
    settings = ("--set", "convert.choose.window=1", "--set", "data.sources.text.weight=2.0")
    assert call(*words, *settings) == 0
    result = json.loads((out / "results/convert-layers.json").read_text())
    rows = result["tables"]["layers"]
    assert [row["rank"] for row in rows] == [1, 2]
    assert rows[0]["harm"] >= rows[1]["harm"]
    assert all(row["stderr"] > 0 and row["n"] == 8 for row in rows)
    kept = [row["layer"] for row in rows if row["is_kept"]]
    assert kept == [rows[0]["layer"]]
    assert json.loads((out / "convert.json").read_text())["kept"] == kept
    pattern = json.loads((out / "config.json").read_text())["model"]["pattern"]
    assert pattern == {0: "*-G-", 1: "G-*-"}[kept[0]]


def test_what_is_wrong_is_one_sentence_and_leaves_nothing(place, tmp_path, capsys):
    teacher, recipe = place / "teacher", ("--recipe", place / "c.toml")
    cases = [
        ((teacher, "--pattern", "M-M", *recipe), "has 3 sublayers"),
        ((teacher, "--pattern", "MM*-", *recipe), "sublayer 1 is 'M' where the teacher has '-'"),
        ((teacher, "--keep", "3"), "convert.keep = 3: must be at most 2"),
        ((teacher, "--keep-layers", "0,2"), "2 is no attention of the teacher"),
        ((teacher, "--keep-layers", "a"), "--keep-layers a: must be numbers"),
        ((teacher, *recipe, "--minutes", "0"), "--minutes 0: must be above 0"),
        ((teacher,), "one of pattern, keep and keep_layers must be given"),
        ((recipe[0], recipe[1]), "convert.teacher: no teacher is given"),
        (("--resume",), "to go on, add --resume to the whole command"),
        ((place / "nowhere", *recipe), "teacher = '"),
        ((teacher, *recipe, "--set", "convert.choose.tasks=[\"x\"]"), "'x' is no task"),
        ((teacher, *recipe, "--set", "convert.stages.mixers.lr=-1"), "convert.stages.0.lr = -1"),
    ]  # fmt: skip
    for words, says in cases:
        before = contents(place)
        assert call("convert", *words, "--out", tmp_path / "out") == 2, words
        told = capsys.readouterr().err
        assert says in told, told
        assert told.count("\n") == 1
        assert not (tmp_path / "out").exists()
        assert contents(place) == before


def test_another_tokenizer_than_the_teachers_is_refused(place, tmp_path, capsys):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"<bos>": 0, "<eos>": 1, "ada": 2, "<unk>": 3}, unk_token="<unk>"))
    words.add_special_tokens(["<bos>", "<eos>"])
    words.save(str(tmp_path / "words.json"))
    other = f"data.tokenizer={tmp_path / 'words.json'}"
    assert convert(place, tmp_path / "out", "--set", other) == 2
    told = capsys.readouterr().err
    assert "words.json" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_conversion_goes_on_as_it_was_declared(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert convert(place, out, "--no-eval", "--minutes", "1e-9") == 130
    capsys.readouterr()
    assert convert(place, out) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert convert(place, out, "--resume", "--set", "convert.stages.mixers.lr=1.0") == 2
    assert "convert.stages.0.lr = 1.0, but the conversion was begun with 0.005" in (
        capsys.readouterr().err
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    assert convert(place, tmp_path / "other") == 2
    assert (tmp_path / "other/file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_matched_mixers_beat_drawn_ones_by_far(tmp_path, capsys, seed):
    """The loss after stage 1 is below that of a student whose new mixers were drawn, by 20 %."""
    write_teacher(tmp_path, steps=120)
    (tmp_path / "c.toml").write_text(
        STAGES.format(pattern="M-*-", steps=40).split('[[convert.stages]]\nkind = "logits"')[0]
    )
    out = tmp_path / "out"
    assert convert(tmp_path, out, "--set", f"seed={seed}", "--json") == 0
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["stages"]
    teacher, _, matched = (row["value"] for row in rows)
    drawn = drawn_loss(tmp_path, out, seed)
    assert matched < 0.8 * drawn
    assert matched < teacher + 0.5 * (drawn - teacher)


def drawn_loss(place: Path, out: Path, seed: int) -> float:
    """Bits per byte of the teacher with a newly drawn mixer in the place of its first attention."""
    from braidlm.convert.copying import copy_weights
    from braidlm.convert.target import Change
    from braidlm.data.tokenizer import load_tokenizer
    from braidlm.tasks.ask import run_task
    from tests.convert.tiny import build

    teacher, _ = checkpoint.load_model(out / "init")
    student, recipe = checkpoint.load_model(out)
    fresh = build(recipe.spec, seed)
    copy_weights(student, teacher, (Change(0, (0,), None),), 0.0)
    drawn = fresh.state_dict()
    for name, tensor in student.state_dict().items():
        if name.startswith("blocks.0.mix."):
            tensor.copy_(drawn[name])
    return run_task(recipe.tasks[0], student, load_tokenizer("bytes"), recipe)["metrics"][
        "bits_per_byte"
    ]["value"]
