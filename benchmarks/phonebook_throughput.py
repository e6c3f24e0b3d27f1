"""Phonebook look-ups per second: how many items one evaluation answers, by their length.

    python benchmarks/phonebook_throughput.py --threads 2

Prints a table and ends in one JSON line. The model is untrained: the time does not depend on what
it answers. Seconds are the fastest of `--repeats` passes; on a machine that does other work,
processor seconds per item tell more than items per second.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import torch

from braidlm.arch.recipe import Recipe
from braidlm.arch.tasks import PhonebookTask
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.tasks.phonebook import PhonebookWork


def recipe_of(pattern: str, d_model: int) -> Recipe:
    """A model of bytes; the data is not read."""
    model = {"pattern": pattern, "d_model": d_model, "vocab_size": 264}
    return Recipe.from_dict({"model": model, "data": {"sources": [{"kind": "phonebook"}]}})


def measure(recipe: Recipe, length: int, n_items: int, repeats: int) -> dict[str, float]:
    """Return the fastest of several passes over the same items, in seconds and in items."""
    task = PhonebookTask(lengths=(length,), n_items=n_items)
    work = PhonebookWork(task, ByteTokenizer(), recipe)
    torch.manual_seed(0)
    model = HybridLM(recipe.spec)
    best = {"wall_sec": float("inf"), "processor_sec": float("inf")}
    with inference(model):
        for _ in range(repeats):
            wall, processor = time.perf_counter(), time.process_time()
            for batch in work.batches:
                work.score(model, batch)
            best["wall_sec"] = min(best["wall_sec"], time.perf_counter() - wall)
            best["processor_sec"] = min(best["processor_sec"], time.process_time() - processor)
    return {
        "length": length,
        "n_entries": sum(len(item.names) for item in work.items) / n_items,
        "items_per_sec": n_items / best["wall_sec"],
        "processor_sec_per_item": best["processor_sec"] / n_items,
    }


def main() -> None:
    """Measure every length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", default="M-*-")
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = recipe_of(options.pattern, options.d_model)
    rows = [measure(recipe, n, options.items, options.repeats) for n in options.lengths]
    print("length  entries  items/s  processor s/item")
    for row in rows:
        print(
            f"{row['length']:6d}  {row['n_entries']:7.1f}  {row['items_per_sec']:7.1f}"
            f"  {row['processor_sec_per_item']:16.5f}"
        )
    print(json.dumps(vars(options) | {"machine": platform.machine(), "rows": rows}))


if __name__ == "__main__":
    main()
