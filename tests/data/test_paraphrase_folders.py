"""Which half a text is in, what cannot be laid out, and what is said of a folder."""

import json
from typing import Any

import pytest

from braidlm.arch import Recipe
from braidlm.cli.main import main
from braidlm.data.contamination import check_overlap
from braidlm.data.halves import is_held_out
from braidlm.data.inspection import inspect
from braidlm.data.prepare import build
from braidlm.data.streams import RowMixture
from braidlm.errors import InputError

from .folders import declared, pairs_of, stream_of, text_of, write_folder


def test_a_text_and_its_paraphrases_are_in_one_half(tmp_path):
    pairs = pairs_of(60)
    pairs += [("other/name#0", text_of(7), "The same text by another name.")]
    shards = stream_of(declared(write_folder(tmp_path / "p", pairs), held_out=0.3)).shards
    halves = {
        name: {i.rpartition("#")[0] for i in split.ids}
        for name, split in (("train", shards.train), ("held_out", shards.held_out))
    }
    both = halves["train"] & halves["held_out"]
    assert not both
    assert len(halves["train"]) + len(halves["held_out"]) == 61
    assert 8 <= len(halves["held_out"]) <= 30
    side = "train" if "book/7" in halves["train"] else "held_out"
    assert "other/name" in halves[side]
    assert len(shards.train) + len(shards.held_out) == len(pairs)


def test_a_half_is_chosen_by_the_name_and_not_by_what_the_text_says(tmp_path):
    one = [(name, text, p) for name, text, p in pairs_of(40)]
    other = [(name, text + " More.", p + " More.") for name, text, p in one]
    found = [
        stream_of(declared(write_folder(tmp_path / str(i), pairs), held_out=0.3)).shards.train.ids
        for i, pairs in enumerate((one, other))
    ]
    assert found[0] == found[1]


SHORT = [("a#0", "One.", "Eins."), ("b#0", "Two.", "Zwei."), ("c#0", "Three.", "Drei.")]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"gap_documents": 3, "layout": "far"},
            "needs 4 texts or more with gap_documents = 3, and has 3",
        ),
        (
            {"length": 14, "gap_documents": 0},
            "1 of 3 texts, or their paraphrases, have more than 5 tokens, their share of length = "
            "14, the first is c#0: raise length, or set too_long",
        ),
        (
            {"length": 16, "gap_documents": 0, "too_long": "drop", "separator": "-" * 9},
            "needs 2 texts or more, and has 0 (3 in the train half, held_out = 0.0; 3 have more "
            "than 3 tokens, their share of length = 16)",
        ),
        ({"length": 8, "gap_documents": 5}, "length = 8 is too short for 7 texts"),
        (
            {"gap_documents": 0, "gap_tokens": 4},
            "gap_tokens = 4 must be at least 5: two separators",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_refused_in_a_sentence(tmp_path, fields, said):
    folder = write_folder(tmp_path / "p", SHORT)
    with pytest.raises(InputError) as caught:
        stream_of(declared(folder, **fields))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


LINE = {"id": "a#0", "text": "One.", "paraphrase": "Eins.", "scores": {}}
DAMAGED = [
    ("", "holds no text"),
    (json.dumps(LINE)[:-4], "line 1 is not JSON"),
    (json.dumps({**LINE, "paraphrase": "  "}), 'a#0: field "paraphrase" is empty'),
    (json.dumps({**LINE, "text": ""}), 'a#0: field "text" is empty'),
    (json.dumps({"prompt": "x", "answer": "y"}), 'line 1: field "id" must be text'),
    (json.dumps({**LINE, "paraphrase": 3}), 'line 1: field "paraphrase" must be text'),
]


@pytest.mark.parametrize(("content", "said"), DAMAGED)
def test_a_damaged_folder_is_refused_by_line_and_leaves_no_shards(tmp_path, content, said):
    folder = write_folder(tmp_path / "p", [])
    (folder / "pairs.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        RowMixture(declared(folder))
    assert said in str(caught.value)
    assert "pairs.jsonl" in str(caught.value) or str(folder) in str(caught.value)
    assert not list((tmp_path / "shards").glob("*"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "is no folder: give one that `braid paraphrase` made"),
        ({}, "holds no pairs.jsonl: give a folder that `braid paraphrase` made"),
        ({"pairs.jsonl": "", "manifest.json": '{"kind": "x"}'}, "schema_version = None: must be 1"),
        ({"pairs.jsonl": "", "manifest.json": "{"}, "manifest.json is not readable as JSON"),
    ],
)
def test_a_folder_of_something_else_is_refused_by_the_command_too(tmp_path, capsys, files, said):
    folder = tmp_path / "p"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[model]\npattern = "M"\nvocab_size = 259\n'
        f'[data]\ncache_dir = "{tmp_path}/s"\n'
        f'[[data.sources]]\nkind = "paraphrase"\npath = "{folder}"\n'
    )
    assert main(["data", "build", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_build_says_what_is_cut_left_out_and_counted(tmp_path):
    pairs = [*SHORT, ("long#0", "Long. " * 40, "Short."), ("both#0", "Short too.", "Much. " * 30)]
    folder = write_folder(tmp_path / "p", pairs)
    fields: dict[str, Any] = {"length": 100, "seq_len": 211, "gap_documents": 0, "loss": "second"}
    [cut] = build(declared(folder, too_long="cut", **fields))["sources"]
    share = (100 - 1 - 2) // 2
    lost = (240 - share) + (180 - share)
    assert cut["windows"] == {
        "texts": 5,
        "paraphrases": 5,
        "length": 100,
        "share": share,
        "too_long": {"texts": 2, "tokens": lost, "policy": "cut"},
        "padding": 11,
    }
    assert cut["epoch"]["input"] == 3 * 200  # five windows, two in a row
    stream = stream_of(declared(folder, too_long="cut", **fields))
    learnt = sum(stream.windows.window(i).n_asked for i in range(6))
    assert cut["epoch"]["loss"] == learnt
    [left_out] = build(declared(folder, too_long="drop", **fields))["sources"]
    assert left_out["windows"]["too_long"] == {
        "texts": 2,
        "tokens": 240 + 6 + 10 + 180,
        "policy": "drop",
    }
    assert left_out["epoch"]["input"] == 2 * 200
    sizes = sum(len(text) for pair in SHORT for text in pair[1:])
    assert left_out["epoch"]["unique"] == sizes


def test_the_command_prints_windows_and_tokens(tmp_path, capsys):
    folder = write_folder(tmp_path / "p", pairs_of(9))
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[model]\npattern = "M"\nvocab_size = 259\n'
        f'[data]\ncache_dir = "{tmp_path}/s"\nheld_out = 0\nseq_len = 150\n'
        f'[[data.sources]]\nkind = "paraphrase"\npath = "{folder}"\nlength = 120\n'
        'too_long = "cut"\nloss = "second"\n'
    )
    assert main(["data", "build", str(recipe)]) == 0
    printed = capsys.readouterr().out
    assert "9 texts with 18 paraphrases, at most 58 tokens of each in a window of 120" in printed
    assert "30 tokens of each row are left empty" in printed
    stream = stream_of(Recipe.load(recipe).data)
    read, learnt, different = stream.counts(9)
    assert f"{read:,} tokens read, {learnt:,} learnt, {different:,} different" in printed
    assert main(["data", "inspect", str(recipe), "-n", "1"]) == 0
    assert "⟦" in capsys.readouterr().out


def test_inspection_says_what_stands_where(tmp_path):
    data = declared(write_folder(tmp_path / "p", pairs_of(9)), layout="far")
    stream = stream_of(data)
    for number, row in enumerate(inspect(data, 2)):
        assert row["kind"] == "paraphrase"
        for half, piece in enumerate(row["pieces"]):
            window = stream.windows.window(2 * number + half)
            assert [part["role"] for part in piece["parts"]] == [t.role for t in window.texts]
            original, gap, second, *_ = piece["parts"]
            assert (original["role"], gap["role"], second["role"]) == (
                "original",
                "other",
                "second",
            )
            name = original["document"].rpartition("#")[0]
            assert (
                second["document"].rpartition("#")[0]
                == name
                == piece["document"].rpartition("#")[0]
            )
            tokens = stream.row(number).tokens[second["start"] : second["stop"]]
            learnt = stream.tokenizer.decode(tokens[: window.n_asked])
            assert f"⟦{learnt}⟧" in piece["masked"]
            assert piece["loss"] == [[second["start"] - 1, second["start"] - 1 + window.n_asked]]


def test_duplicates_and_the_held_out_half_are_looked_for(tmp_path):
    words = "the quick brown fox jumps over a lazy dog and then it sleeps until the morning comes"
    pairs = [
        (f"t/{i}#0", f"{text_of(i)} {i} {words}.", f"New {i}. {text_of(i + 99)}") for i in range(30)
    ]
    copy = next(name for name in "abcdefgh" if not is_held_out(name, 0.3))
    pairs += [(f"{copy}#0", "A first text of its own.", "A first text of its own!")]
    recipe = Recipe.from_dict(
        {
            "model": {"pattern": "M", "vocab_size": 259},
            "data": declared(
                write_folder(tmp_path / "p", pairs), held_out=0.3, too_long="cut"
            ).model_dump(),
        }
    )
    found = check_overlap(recipe)
    [task] = found["tasks"]
    assert task["name"] == "held-out-paraphrase"
    n_held_out = len(stream_of(recipe.data).shards.held_out)
    assert task["n_found"] == task["n_items"] == n_held_out  # all share that run of words
    assert found["n_documents"] == 2 * (31 - n_held_out)  # texts and paraphrases apart
    assert found["duplicates"]["exact"] == 1  # the paraphrase that is its text but for a mark
