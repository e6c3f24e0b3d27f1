"""A folder of tiny data files in the fields of the Hub's data sets, one for each built-in task."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

CHOICES = {"text": ["red", "dark blue", "green", "grey"], "label": ["A", "B", "C", "D"]}


def _records(i: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Folder -> (split, the i-th record)."""
    letter, thing = "ABCD"[i % 4], ("door", "roof", "gate")[i % 3]
    asked = f"Which colour has the {thing} number {i}?"
    labelled = {"choices": CHOICES, "answerKey": letter}
    ends = ["opens it.", "sings of it [laughs].", "walks.", "sleeps till noon."]
    hellaswag = {"activity_label": "House", "ctx_a": f"A man sees a {thing}.", "ctx_b": "he then"}
    return {
        "hellaswag": ("validation", {**hellaswag, "endings": ends, "label": str(i % 4)}),
        "piqa": (
            "validation",
            {"goal": f"Open the {thing}", "sol1": "push", "sol2": "wait long", "label": i % 2},
        ),
        "arc_easy": ("test", {"id": str(i), "question": asked, **labelled}),
        "arc_challenge": ("test", {"id": str(i), "question": asked, **labelled}),
        "winogrande": (
            "validation",
            {
                "sentence": f"The {thing} hid the cat as _ was {i} feet large.",
                "option1": f"the {thing}",
                "option2": "the cat",
                "answer": str(i % 2 + 1),
            },
        ),
        "boolq": (
            "validation",
            {"passage": f"The {thing} is red.", "question": "is it red", "idx": i, "label": i % 2},
        ),
        "openbookqa": ("test", {"id": str(i), "question_stem": asked, **labelled}),
        "copa": (
            "validation",
            {
                "premise": f"The {thing} fell.",
                "choice1": "It was old.",
                "choice2": "It sang.",
                "question": ("cause", "effect")[i % 2],
                "idx": i,
                "label": i % 2,
            },
        ),
        "sciq": (
            "validation",
            {
                "question": asked,
                "support": f"All the {thing}s are red.",
                "correct_answer": "red",
                "distractor1": "blue",
                "distractor2": "green",
                "distractor3": f"grey {i}",
            },
        ),
        "social_i_qa": (
            "validation",
            {
                "context": f"Ann opened the {thing}.",
                "question": "Why?",
                "answerA": "to go",
                "answerB": "to sleep",
                "answerC": "to eat",
                "label": str(i % 3 + 1),
            },
        ),
        "commonsense_qa": (
            "validation",
            {
                "id": str(i),
                "question": asked,
                "question_concept": thing,
                "choices": {"text": [*CHOICES["text"], "pink"], "label": [*"ABCDE"]},
                "answerKey": letter,
            },
        ),
        "lambada_openai": ("test", {"text": f"Ann saw the {thing} and opened the {thing}"}),
        "truthfulqa": (
            "validation",
            {
                "question": asked,
                "mc1_targets": {"choices": ["red", "none", "blue"], "labels": [1, 0, 0]},
                "mc2_targets": {"choices": ["red", "rose", "blue", "no"], "labels": [1, 1, 0, 0]},
            },
        ),
    }


def data_folder(folder: Path, n: int = 5) -> Path:
    """Write n records of each, some files packed."""
    for name in _records(0):
        split = _records(0)[name][0]
        lines = "".join(json.dumps(_records(i)[name][1]) + "\n" for i in range(n))
        place = folder / name
        place.mkdir(parents=True)
        if len(name) % 2:
            (place / f"{split}.jsonl").write_text(lines)
        else:
            (place / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def mmlu(folder: Path, subjects: tuple[str, ...] = ("anatomy", "astronomy"), n: int = 3) -> Path:
    """Write MMLU's two files: 5 examples a subject, and n + its place questions."""
    (folder / "mmlu").mkdir(parents=True, exist_ok=True)
    for split, count in (("dev", 5), ("test", n)):
        rows = [
            {
                "question": f"What is {split} {i} of {subject}? ",
                "subject": subject,
                "choices": ["a bone", "a star", "a longer answer than others", "none"],
                "answer": (i + at) % 4,
            }
            for at, subject in enumerate(subjects)
            for i in range(count + (at if split == "test" else 0))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "mmlu" / f"{split}.jsonl").write_text(lines)
    return folder
