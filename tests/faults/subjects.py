"""What is damaged, how it is read, and what may come of it.

A reading returns plain data. After damage it must return the same, or be refused in one sentence
that names the file. Only of what people write by hand, and of logs that carry no checksum, may it
return something else: another recipe is another recipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from braidlm import checkpoint, report
from braidlm.arch.recipe import Recipe
from braidlm.cli.main import main
from braidlm.data.shards import SPLITS, open_shards
from braidlm.data.tokenizer import load_tokenizer
from braidlm.files import sealed
from braidlm.manifest import MANIFEST, read_manifest
from braidlm.runs import Run
from braidlm.study.book import check_grown, read_before
from braidlm.study.config import StudyConfig
from braidlm.train import train
from tests.faults import small
from tests.report import making


class RefusedError(Exception):
    """The command line ended with code 2; the text is what it said."""


@dataclass(frozen=True)
class Subject:
    """Files of a folder and the one way in which they are read."""

    name: str
    files: tuple[str, ...]
    """Patterns below the folder."""
    read: Callable[[Path], Any]
    """From the folder to plain data."""
    is_free: bool = False
    """Whether altered contents may be read as something else."""
    is_sealed: bool = False
    """Whether the manifest vouches for the damage, as if it had been saved so."""
    weight: int = 1
    """Share of the mutations."""
    writes: bool = False
    """Whether the reading changes files itself, so that all of them must be put back."""


def braid(*words: object) -> str:
    """Call the command line in this process and return what it prints.

    Raises:
        RefusedError: exit code 2.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    if code == 2:
        raise RefusedError(err.getvalue())
    assert code == 0, (code, err.getvalue())
    return out.getvalue()


def describe(folder: Path) -> Any:
    braid("describe", folder / "recipe.toml", "--each")
    return Recipe.load(folder / "recipe.toml").to_dict()


def study(folder: Path) -> Any:
    config = StudyConfig.load(folder / "study.toml")
    seeds = config.seeds[:2]
    runs = [config.recipe_of(arm, seed, folder) for arm in config.arms[:4] for seed in seeds]
    return [run.to_dict() for run in runs]


def pattern(folder: Path) -> Any:
    text = (folder / "pattern.txt").read_text(encoding="utf-8", errors="surrogateescape")
    return json.loads(braid("describe", "--json", "--", text))


def model(folder: Path) -> Any:
    newest = checkpoint.latest(folder / "run")
    loaded, recipe = checkpoint.load_model(newest)
    weights = {k: v.numpy().tobytes() for k, v in loaded.state_dict().items()}
    digest = hashlib.sha256(repr(sorted(weights.items())).encode()).hexdigest()
    return [digest, recipe.to_dict(), read_manifest(newest)["step"]]


def resumed(folder: Path) -> Any:
    """Go on for one update; only with that does every part of the state matter."""
    recipe = small.recipe(folder)
    steps = {"steps": small.STEPS + 1}
    longer = Recipe.from_dict(recipe.to_dict() | {"train": recipe.to_dict()["train"] | steps})
    train(longer, folder / "run", resume=True)
    found = small.outcome(folder)
    return [found["weights"], found["state"], found["metrics"]]


def shards(folder: Path) -> Any:
    (place,) = [p for p in (folder / "cache").iterdir() if p.is_dir()]
    opened = open_shards(place, verify="all")
    halves = [getattr(opened, split) for split in SPLITS]
    return [[(d.id, d.tokens.tolist(), d.n_bytes) for d in half.documents()] for half in halves] + [
        opened.summary(),
        opened.meta["tokenizer"],
        opened.meta["source"],
    ]


def tokenizer(folder: Path) -> Any:
    found = load_tokenizer(folder / "tokenizer.json")
    texts = ["the cat sat\n on  the mat", "naïve 日本 \x00", ""]
    ids = [found.encode(text).tolist() for text in texts]
    return [found.fingerprint, found.vocab_size, ids, [found.decode(i) for i in ids]]


def logs(folder: Path) -> Any:
    run = Run.open(folder / "run")
    return [run.config, run.env, run.metrics(), run.status(), run.results()]


def page(folder: Path) -> Any:
    data = report.tables([folder / "run"])
    report.build([folder / "run"], folder / "report.html")
    return json.loads(json.dumps(data, allow_nan=False))


def study_page(folder: Path) -> Any:
    data = report.tables([folder / "study"])
    return json.loads(json.dumps(data, allow_nan=False))


def study_book(folder: Path) -> Any:
    before = read_before(folder / "study", resume=True)
    assert before is not None
    config = StudyConfig.load(folder / "study.toml")
    check_grown(before, config, folder / "study")
    return before


_CHECKPOINT = "run/checkpoints/step-00000008/"
SUBJECTS = (
    Subject("recipe", ("recipe.toml",), describe, is_free=True, weight=4),
    Subject("study file", ("study.toml",), study, is_free=True, weight=3),
    Subject("pattern", ("pattern.txt",), pattern, is_free=True, weight=2),
    Subject("checkpoint", (f"{_CHECKPOINT}*",), model, weight=5),
    Subject("vouched weights", (f"{_CHECKPOINT}weights.safetensors",), model, True, True, 2),
    Subject("vouched config", (f"{_CHECKPOINT}config.json",), model, True, True, 2),
    Subject("vouched state", (f"{_CHECKPOINT}train_state.pt",), resumed, True, True, 1, True),
    Subject("resumed", (f"{_CHECKPOINT}*", "run/*.json*"), resumed, is_free=True, writes=True),
    Subject("shards", ("cache/*/*",), shards, weight=5),
    Subject("tokenizer", ("tokenizer.json",), tokenizer, is_free=True, weight=2),
    Subject("run files", ("run/*.json*", "run/results/*"), logs, is_free=True, weight=4),
    Subject("report", ("run/*.json*", "run/results/*"), page, is_free=True, weight=3, writes=True),
    Subject("study report", ("study/**/*.json*",), study_page, is_free=True, weight=2),
    Subject("study.json", ("study/study.json",), study_book, is_free=True, weight=2),
)

_STUDY = """name = "placement"
recipe = "recipe.toml"
seeds = [0, 1]
set = ["train.steps=3"]
[[arms]]
name = "a"
label = "Attention"
set = ['model.pattern="*-"']
[[arms]]
name = "m"
set = ['model.pattern="M-"', "train.lr=1e-3"]
"""


def prepare(folder: Path) -> None:
    """Make everything that is damaged, sound."""
    small.write_corpus(folder.parent)
    folder.mkdir()
    small.session(folder)
    root = Path(__file__).parents[2]
    shutil.copy(root / "recipes" / "tiny.toml", folder / "recipe.toml")
    (folder / "study.toml").write_text(_STUDY)
    (folder / "pattern.txt").write_text("(M-{M*}-)2*-M{MM}3")
    _write_tokenizer(folder / "tokenizer.json")
    for arm, letters in {"a": "*-", "m": "M-"}.items():
        for seed in (0, 1):
            results = [making.lm(1.5), making.mqar(0.9)]
            recipe = making.config(letters, seed=seed)
            making.write_run(folder / "study" / arm / f"seed-{seed}", recipe, results=results)
    entries = [
        {"name": a.name, "label": a.label or a.name, "overrides": ["train.steps=3", *a.set]}
        for a in StudyConfig.load(folder / "study.toml").arms
    ]
    runs = {f"{a}/seed-{s}": {"state": "done", "error": None} for a in "am" for s in (0, 1)}
    making.write_study(folder / "study", [], arms=entries, runs=runs)


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokens = Tokenizer(models.BPE(unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"])
    tokens.train_from_iterator(["the cat sat on the mat " * 5], trainer)
    tokens.save(str(path))


def seal(file: Path) -> None:
    """Let the manifest beside a file vouch for it as it is now."""
    manifest = file.with_name(MANIFEST)
    data, found = file.read_bytes(), json.loads(manifest.read_text())
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    found["files"][file.name] = entry
    manifest.write_text(json.dumps(sealed(found)))


def setup() -> None:
    """Be alone on one thread."""
    torch.set_num_threads(1)
