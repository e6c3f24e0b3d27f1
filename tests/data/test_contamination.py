import json

import pytest

from braidlm.arch import Recipe
from braidlm.data.contamination import as_result, check_overlap
from braidlm.data.halves import is_held_out
from braidlm.errors import InputError
from braidlm.runs import Run

from .conftest import make_text, write_jsonl

DOCUMENTS = [
    f"Unlike {i * i} others, {make_text(i, 3)} stands for {i}" + f" word{i}" * 20 for i in range(80)
]


def recipe_of(tmp_path, documents, tasks=(), **source):
    path = write_jsonl(tmp_path / "corpus.jsonl", documents)
    text = {"kind": "text", "path": str(path)} | source
    return Recipe.of(
        {
            "model": {"pattern": "M", "d_model": 32, "vocab_size": 400},
            "data": {"sources": [text, {"kind": "mqar", "vocab_size": 64}], "held_out": 0.3},
            "tasks": list(tasks),
        }
    )


def test_held_out_documents_that_stand_in_training_too_are_found(tmp_path):
    held = [d for d in DOCUMENTS if is_held_out(d, 0.3)]
    train = [d for d in DOCUMENTS if not is_held_out(d, 0.3)]
    copied = next(f"{held[2]} {i}" for i in range(99) if not is_held_out(f"{held[2]} {i}", 0.3))
    recipe = recipe_of(tmp_path, [*DOCUMENTS, copied], [{"kind": "lm"}, {"kind": "mqar"}])
    found = check_overlap(recipe)
    [lm] = found["tasks"]
    assert (lm["name"], lm["n_items"], lm["n_found"]) == ("lm-held-out", len(held), 1)
    [worst] = lm["worst"]
    assert worst["item"] == f"corpus.jsonl:{DOCUMENTS.index(held[2]) + 1}"
    assert worst["training"] == "text:corpus.jsonl:81"
    assert worst["share"] == 1.0
    assert found["skipped"] == [{"name": "mqar-recall", "why": "it asks symbols, not text"}]
    assert found["n_documents"] == len(train) + 1
    assert found["n_bytes"] == sum(len(d.encode()) for d in [*train, copied])
    assert found["duplicates"]["documents"] == len(train) + 1


def test_files_of_items_are_compared_at_any_depth(tmp_path):
    recipe = recipe_of(tmp_path, DOCUMENTS)
    train = next(d for d in DOCUMENTS if not is_held_out(d, 0.3))
    records = [{"q": "x", "choices": {"text": ["no " * 20, train]}}, {"q": "y " * 20, "n": 5}]
    (tmp_path / "my quiz.v2.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "b.txt").write_text(f"{'z ' * 30}\n\n{train}\n")
    files = [tmp_path / "my quiz.v2.jsonl", tmp_path / "b.txt"]
    found = check_overlap(recipe, files, n=13, duplicates=False)
    quiz, plain = found["tasks"]
    assert (quiz["name"], quiz["n_items"], quiz["n_found"]) == ("my_quiz", 2, 1)
    assert quiz["worst"][0]["item"] == "my quiz.v2.jsonl:1"
    assert (plain["name"], plain["n_items"], plain["n_found"]) == ("b", 2, 1)
    assert found["duplicates"] is None
    [characters, _] = check_overlap(recipe, files, unit="characters")["tasks"]
    assert (characters["n"], characters["n_found"]) == (50, 1)


def test_pairs_are_training_text_and_generated_prompts_are_items(tmp_path):
    long = " ".join(f"w{i}" for i in range(200))
    pairs = [{"prompt": f"What is {i}?", "answer": f"{long} {i}"} for i in range(30)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    recipe = Recipe.of(
        {
            "model": {"pattern": "M", "d_model": 32, "vocab_size": 400},
            "data": {"sources": [{"kind": "pairs", "path": str(tmp_path / "p.jsonl")}]},
            "tasks": [{"kind": "phonebook", "n_items": 3}],
        }
    )
    found = check_overlap(recipe)
    assert [t["name"] for t in found["tasks"]] == ["phonebook-lookup"]
    assert (found["tasks"][0]["n_items"], found["tasks"][0]["n_found"]) == (3, 0)
    assert 20 < found["n_documents"] <= 30
    assert found["duplicates"]["near"] + found["duplicates"]["exact"] > 20


def test_the_result_file_is_complete(tmp_path):
    recipe = recipe_of(tmp_path, DOCUMENTS, [{"kind": "lm"}])
    found = check_overlap(recipe)
    run = Run.create(tmp_path / "run", recipe.to_dict())
    path = run.write_result("overlap", "lm-held-out", as_result(found, found["tasks"][0]))
    result = json.loads(path.read_text())
    assert result["value"] == found["tasks"][0]["share"]
    assert (result["metric"], result["n"]) == ("overlapping", found["tasks"][0]["n_items"])


def test_what_cannot_be_compared_is_refused(tmp_path):
    recipe = recipe_of(tmp_path, DOCUMENTS)
    with pytest.raises(InputError, match="nothing to compare: no task asks text"):
        check_overlap(recipe, duplicates=False)
    (tmp_path / "a.jsonl").write_text('{"q": 5}\n')
    write_jsonl(tmp_path / "b.jsonl", [])
    for files, says in (
        (["a.jsonl", "a.jsonl"], "another task or file is called 'a'"),
        (["b.jsonl"], "'b' has no item to compare"),
        (["c.jsonl"], r"c\.jsonl does not exist"),
        (["."], "must be a .jsonl or .txt file"),
    ):
        with pytest.raises(InputError, match=says):
            check_overlap(recipe, [tmp_path / f for f in files])
    assert check_overlap(recipe, [tmp_path / "a.jsonl"])["tasks"][0]["share"] is None
    with pytest.raises(InputError, match="no source has text to train on"):
        check_overlap(
            recipe.model_copy(
                update={"data": recipe.data.model_copy(update={"sources": recipe.data.sources[1:]})}
            ),
            [tmp_path / "a.jsonl"],
        )


def test_long_texts_and_look_ups_of_several_names_are_compared(tmp_path):
    """A book that was trained on is found; a phonebook drawn for testing is not."""
    train = next(d for d in DOCUMENTS if not is_held_out(d, 0.3))
    (tmp_path / "book.txt").write_text(f"{'z ' * 30}{train}")
    book = {"kind": "longtext", "path": str(tmp_path / "book.txt")}
    keys = {"kind": "phonebook_keys", "n_items": 2, "lengths": [512, 700], "depths": [0, 50]}
    found = check_overlap(recipe_of(tmp_path, DOCUMENTS, [book, keys]))
    longtext, phonebook = found["tasks"]
    assert (longtext["name"], longtext["n_items"], longtext["n_found"]) == (
        "longtext-longtext",
        1,
        1,
    )
    assert (phonebook["n_items"], phonebook["n_found"]) == (8, 0)
    assert found["skipped"] == []
