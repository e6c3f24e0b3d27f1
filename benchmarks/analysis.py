"""Seconds and the largest resident memory of looking inside a model, one instrument a process.

The weights are random and the documents too: what is computed does not depend on them. Recall
prompts are random tokens of which a few are asked for.

    python benchmarks/analysis.py --tokens 16384

Prints a table and ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.instrument import Instrument, Subject
from braidlm.analysis.table import INSTRUMENTS
from braidlm.arch import Spec
from braidlm.arch.cost import cost
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.generate.mode import inference
from braidlm.model import HybridLM

N_DOCUMENTS = {"surgery": 2, "retrieval-heads": 2}
"""Where one is not the least that tells the whole cost: a passkey lies at the shortest and at the
longest distance, and one half of the prompts finds heads for the other."""
N_ASKED = 8


def documents(instrument: Instrument, n_tokens: int) -> Inputs:
    """Random documents of the kind that an instrument reads."""
    found = []
    rng = np.random.default_rng(0)
    for number in range(N_DOCUMENTS.get(instrument.name, 1)):
        tokens = rng.integers(256, size=n_tokens)
        facts = rng.choice(n_tokens // 2, size=N_ASKED, replace=False).tolist()
        queries = np.sort(rng.choice(np.arange(n_tokens // 2, n_tokens), N_ASKED, replace=False))
        asked = [
            Asked(query, (int(tokens[fact]),), (fact, fact + 1))
            for query, fact in zip(queries.tolist(), facts, strict=True)
        ]
        is_recall = instrument.needs == "recall"
        found.append(Document(f"random/{number}", tokens, tuple(asked) if is_recall else ()))
    kind = "recall" if instrument.needs == "recall" else "text"
    return Inputs("", kind, {}, found, ByteTokenizer())


def look(name: str, spec: Spec, n_tokens: int, n_threads: int) -> dict[str, Any]:
    """One row of the table: use one instrument in this process."""
    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    instrument = INSTRUMENTS[name]
    subject = Subject(HybridLM(spec).eval(), documents(instrument, n_tokens))
    began, cpu = time.perf_counter(), time.process_time()
    if instrument.needs_grad:
        instrument.run(subject, lambda done, total: None)
    else:
        with inference(subject.model):
            instrument.run(subject, lambda done, total: None)
    return {
        "instrument": name,
        "n_documents": len(subject.inputs.documents),
        "sec": time.perf_counter() - began,
        "cpu_sec": time.process_time() - cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_a_child(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same in a process of its own: the largest memory of a process never falls again."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in vars(options).items()]
    command = [sys.executable, __file__, *words, f"--instruments={name}"]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout)


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", default="(M-M-M*-)3{M*}-")
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--vocab-size", type=int, default=50304)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--instruments", default=",".join(INSTRUMENTS))
    options = parser.parse_args()
    spec = Spec.parse(options.pattern, d_model=options.d_model, vocab_size=options.vocab_size)
    names = options.instruments.split(",")
    if len(names) == 1:
        print(json.dumps(look(names[0], spec, options.tokens, options.threads)))
        return
    n_params = cost(spec, options.tokens).n_params
    print(f"{spec.pattern}: {n_params:,} parameters, documents of {options.tokens:,} tokens")
    rows = []
    for name in names:
        row = in_a_child(name, options)
        rows.append(row)
        print(
            f"{name:16} {row['n_documents']:3} documents {row['sec']:7.1f} s "
            f"{row['cpu_sec']:7.1f} s of processors {row['peak_bytes'] / 2**30:6.2f} GiB",
            flush=True,
        )
    about = {"torch": torch.__version__, "machine": platform.machine(), "n_params": n_params}
    print(json.dumps({"benchmark": "analysis", "rows": rows, **vars(options), **about}))


if __name__ == "__main__":
    main()
