"""Is a generated item ever slower to make than to ask or to train on?

    python benchmarks/generators.py

For every generator: processor milliseconds that an item costs to make, all of `make_ready` or of a
stream's row included, and those that a small model on one CPU thread takes for it: to answer it
(`Work.score`), or to learn from it (loss and gradients of the row). Prints two tables of Markdown
and ends in one JSON line; the exit code is 1 if any item is slower to make. The model is untrained:
the time does not depend on what it answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from braidlm.arch.recipe import Recipe
from braidlm.arch.symbols import BASELINES
from braidlm.arch.tasks import AnyTask, MQARTask, RulerTask
from braidlm.arch.tasks.builtin import BUILTIN
from braidlm.data.streams import RowMixture
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.segments import Segments
from braidlm.tasks.families import make_ready

MQAR: dict[str, dict[str, Any]] = {
    "mqar": {},
    "mqar_updates": {"n_updates": 8},
    "mqar_two_parts": {"key_parts": 2},
    "mqar_two_passes": {"num_passes": 2, "shuffle_passes": True},
}
"""Sources of MQAR beside what they share: 16 pairs in 256 tokens of 512 symbols."""
GENERATED = ("mad", "copying", "phonebook", "phonebook_keys", "ruler")


class Row(NamedTuple):
    """What one generator costs."""

    name: str
    tokens: int
    n: int
    make_ms: float
    run_ms: float


def recipe_of(pattern: str, d_model: int, vocab_size: int, sources: list[dict[str, Any]]) -> Recipe:
    """A small model, and generated data whose rows hold one item of the longest."""
    model = {"pattern": pattern, "d_model": d_model, "vocab_size": vocab_size}
    return Recipe.from_dict({"model": model, "data": {"seq_len": 512, "sources": sources}})


def sources() -> list[dict[str, Any]]:
    """Every kind of generated training data."""
    mqar = {"kind": "mqar", "vocab_size": 512, "n_pairs": [16], "length": 256}
    found = [mqar | {"name": name} | fields for name, fields in MQAR.items()]
    found += [{"kind": "mad", "name": f"mad_{task}", "task": task} for task in BASELINES]
    found += [{"kind": "copying", "n_symbols": [128]}]
    found += [{"kind": "copying", "name": "lookup", "n_symbols": [128], "n_gram": 3}]
    return [*found, {"kind": "phonebook", "lengths": [512]}]


def tasks(length: int, n_items: int, documents: Path) -> Iterator[AnyTask]:
    """Yield every generated task at one length, where it has one."""
    yield from (MQARTask(name=name, source=name, n_items=n_items) for name in MQAR)
    for name, entry in BUILTIN.items():
        if entry.task.kind not in GENERATED:
            continue
        fields = entry.task.model_dump(mode="json") | {"n_items": n_items, "name": name}
        if entry.task.kind in ("ruler", "phonebook", "phonebook_keys"):
            fields["lengths"] = [length]
        if isinstance(entry.task, RulerTask) and entry.task.documents:
            fields |= {"documents": str(documents), "documents_config": ""}
        if entry.task.kind == "copying":
            fields["n_symbols"] = [128]
        yield type(entry.task).of(fields)


def asked(task: AnyTask, tokenizer: Tokenizer, recipe: Recipe, model: HybridLM) -> Row:
    """Make the items of a task, then answer them."""
    began = time.process_time()
    work = make_ready(task, tokenizer, recipe)
    made = time.process_time()
    with inference(model):
        rows = [row for batch in work.batches for row in work.score(model, batch)]
    done, n = time.process_time(), len(rows)
    tokens = int(work.summary(rows)["seq_len"])
    return Row(task.name, tokens, n, (made - began) / n * 1e3, (done - made) / n * 1e3)


def trained(recipe: Recipe, model: HybridLM, n_rows: int) -> Row:
    """Draw rows of a source, then learn from them one by one."""
    stream, name = RowMixture(recipe.data, seed=0), recipe.data.sources[0].name
    stream.row(0)  # opens what is opened once
    began = time.process_time()
    rows = [stream.row(1 + i).row for i in range(n_rows)]
    made = time.process_time()
    for row in rows:
        tokens, targets = (torch.from_numpy(x)[None] for x in (row.tokens, row.targets))
        lengths = [piece.stop - piece.start for piece in row.pieces]
        segments = Segments.from_lengths([lengths], tokens.shape[1])
        model.loss(tokens, targets, segments).backward()
    done = time.process_time()
    each = [(made - began) / n_rows * 1e3, (done - made) / n_rows * 1e3]
    return Row(name, recipe.data.seq_len, n_rows, *each)


def documents(folder: Path) -> Path:
    """Write questions in the form of SQuAD: 200 articles of 5 paragraphs of 120 words."""
    path = folder / "questions.json"
    articles = [
        {"title": f"t{i}", "paragraphs": [_paragraph(f"{i} {j}") for j in range(5)]}
        for i in range(200)
    ]
    path.write_text(json.dumps({"data": articles}))
    return path


def _paragraph(name: str) -> dict[str, Any]:
    text = f"The name of {name} is known. " + "It is told in many words. " * 20
    asked = {"question": f"What of {name} is known?", "answers": [{"text": "The name"}]}
    return {"context": text, "qas": [asked | {"is_impossible": False}]}


def table(rows: list[Row], head: str) -> str:
    """Return a table of Markdown."""
    lines = [f"| {head} | tokens | make, ms | run, ms | make / run |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {r.name} | {r.tokens:,} | {r.make_ms:.2f} | {r.run_ms:.1f} | "
        f"{r.make_ms / r.run_ms:.3f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure every generator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", default="M*")
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--tokenizer", default="bytes")
    parser.add_argument("--length", type=int, default=2048, help="tokens of RULER and phonebooks")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--only", default="", help="names that hold this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(options.tokenizer)
    vocab_size = max(1024, tokenizer.vocab_size)
    shape = (options.pattern, options.d_model, vocab_size)
    torch.manual_seed(0)
    recipe = recipe_of(*shape, sources())
    model = HybridLM(recipe.spec)
    with tempfile.TemporaryDirectory() as folder:
        chosen = tasks(options.length, options.items, documents(Path(folder)))
        found = [
            asked(task, tokenizer, recipe, model) for task in chosen if options.only in task.name
        ]
    print(table(found, "task, an item"), end="\n\n", flush=True)
    rows = [
        trained(recipe_of(*shape, [source]), model, options.items)
        for source in sources()
        if options.only in source.get("name", source["kind"])
    ]
    if rows:
        print(table(rows, "source, a row"))
    told = [row._asdict() for row in (*found, *rows)]
    print("\n" + json.dumps(vars(options) | {"torch": torch.__version__, "rows": told}))
    sys.exit(any(row.make_ms > row.run_ms for row in (*found, *rows)))


if __name__ == "__main__":
    main()
