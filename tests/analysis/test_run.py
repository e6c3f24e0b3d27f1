"""From a run directory to result files: what is written, kept, and refused."""

import json

import pytest

from braidlm.analysis import INSTRUMENTS, analyze
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.items import read_items
from tests.tasks.models import saved_run

NAME = "memory-length"


@pytest.fixture
def run(tmp_path):
    return saved_run(tmp_path)


def look(run, *names, **settings):
    return analyze(run.path, list(names) or None, n_documents=3, context=16, **settings)


def test_a_result_is_complete(run):
    (result,) = look(run, NAME)
    assert result == json.loads((run.results_dir / f"analysis-{NAME}.json").read_text())
    assert (result["kind"], result["name"], result["n"]) == ("analysis", NAME, 3)
    assert result["value"] == result["metrics"]["half_life"]["value"] > 0
    assert result["stderr"] > 0
    assert result["analysis"]["inputs"]["n_tokens"] == 48
    assert result["checkpoint"] == "step-00000002"
    assert result["ops"]["ssd"] == "chunk"
    assert result["why_not"] is None
    assert len(read_items(run.results_dir, result)) == 3


def test_what_is_there_is_kept_until_something_else_is_asked(run):
    kept = []
    (first,) = look(run, NAME, kept=kept.append)
    (again,) = look(run, NAME, kept=kept.append)
    assert again["written_at"] == first["written_at"]
    assert kept == [f"analysis-{NAME}"]
    look(run, NAME, kept=kept.append, force=True)
    look(run, NAME, kept=kept.append, layers="0")
    look(run, NAME, kept=kept.append, layers="0", checkpoint="step-00000001")
    analyze(run.path, [NAME], context=17, n_documents=3, kept=kept.append)
    (run.results_dir / f"analysis-{NAME}.items.jsonl").unlink()
    look(run, NAME, kept=kept.append)
    assert len(kept) == 1


def test_an_instrument_that_does_not_apply_says_why(run):
    (result,) = look(run, NAME, layers="1")
    assert result["why_not"] == "no layer has a state that decays"
    assert (result["metric"], result["value"], result["tables"]) == (None, None, {})
    (again,) = look(run, NAME, layers="1")
    assert again == result


def test_other_inputs_have_results_of_their_own(run, tmp_path):
    (tmp_path / "a.txt").write_text("some text of some length, and a little more of it")
    look(run, NAME, task="mqar")
    look(run, NAME, text=tmp_path / "a.txt")
    found = {path.name for path in run.results_dir.glob("*.json")}
    assert found == {f"analysis-{NAME}.recall.json", f"analysis-{NAME}.text.json"}


def test_what_does_not_apply_to_a_task_leaves_what_was_found_in_text(run):
    (first,) = look(run, "repeats")
    (no,) = look(run, "repeats", task="mqar")
    assert (no["name"], no["why_not"]) == (
        "repeats.recall",
        "it reads text, not recall prompts: leave --task out",
    )
    assert json.loads((run.results_dir / "analysis-repeats.json").read_text()) == first


def test_one_instrument_that_fails_keeps_no_other_from_its_result(run, capsys):
    words = ["analyze", str(run.path), "--context", "16", "--documents", "1"]
    assert main([*words, "--instruments", f"retrieval-heads,repeats,{NAME}"]) == 2
    said = capsys.readouterr()
    found = {path.name for path in run.results_dir.glob("*.json")}
    assert found == {f"analysis-{NAME}.json", "analysis-repeats.json"}
    assert "* half_life" in said.out
    assert said.err.startswith("braid: analysis-retrieval-heads.recall: ")
    assert "needs 2 prompts" in said.err
    with pytest.raises(InputError, match="needs 2 prompts"):
        analyze(run.path, ["retrieval-heads"], n_documents=1)


def test_a_page_that_cannot_be_written_is_told_before_anything_is_measured(run, capsys):
    words = ["analyze", str(run.path), "--instruments", NAME, "--context", "16"]
    assert main([*words, "-o", str(run.path)]) == 2
    assert "is a directory" in capsys.readouterr().err
    assert not list(run.results_dir.glob("*.json"))


def test_a_damaged_checkpoint_is_told_once(run):
    (run.path / "checkpoints" / "step-00000002" / "weights.safetensors").write_bytes(b"x")
    failed = []
    with pytest.raises(InputError, match="weights"):
        look(run, NAME, "repeats", failed=lambda *why: failed.append(why))
    assert failed == []


def test_instruments_have_names_that_are_file_names():
    for name, instrument in INSTRUMENTS.items():
        assert name == instrument.name == name.lower().replace("_", "-")
        assert instrument.title
        assert instrument.unit
        assert instrument.source


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"instruments": ["memory-lenght"]}, "did you mean 'memory-length'"),
        ({"instruments": []}, "no instrument is named"),
        ({"layers": "0,5"}, "'5' is no number or range of sublayers 0 to 1"),
        ({"layers": "1-0"}, "'1-0' is no number"),
        ({"layers": ""}, "'' is no number"),
        ({"context": 1}, "context = 1: must be at least 2"),
        ({"n_documents": 0}, "documents = 0: must be at least 1"),
        ({"task": "mqar", "text": "x.txt"}, "give one of them"),
        ({"task": "lm"}, "is no recall task"),
        ({"task": "mqr"}, "task 'mqr' is not in the recipe"),
        ({"checkpoint": "step-9"}, "has no checkpoint 'step-9'"),
    ],
)
def test_bad_requests(run, settings, said):
    with pytest.raises(InputError, match=said):
        analyze(run.path, **{"instruments": [NAME]} | settings)
    assert not list(run.results_dir.glob("*.json"))


def test_a_recipe_without_text(tmp_path):
    mqar = {"kind": "mqar", "vocab_size": 32, "token_offset": 260, "n_pairs": [2], "length": 24}
    run = saved_run(tmp_path, data={"seq_len": 32, "sources": [mqar]}, tasks=[{"kind": "mqar"}])
    with pytest.raises(InputError, match="no source of text: give a text"):
        look(run, NAME)


def text_of(folder):
    """Data of nothing but text, as an imported run has it."""
    text = {"kind": "text", "path": str(folder / "texts")}
    return {"seq_len": 32, "held_out": 0.5, "cache_dir": str(folder / "cache"), "sources": [text]}


def test_without_a_recall_task_heads_are_asked_a_probe(tmp_path):
    run = saved_run(tmp_path / "text", data=text_of(tmp_path / "text"), tasks=[])
    (result,) = analyze(run.path, ["retrieval-heads"], n_documents=4)
    assert result["why_not"] is None
    assert result["metrics"]["before"]["n"] == 2
    assert (run.results_dir / "analysis-retrieval-heads.phonebook-probe.json").is_file()
    mqar = {"kind": "mqar", "vocab_size": 32, "token_offset": 260, "n_pairs": [2], "length": 24}
    run = saved_run(tmp_path / "symbols", data={"seq_len": 32, "sources": [mqar]}, tasks=[])
    (result,) = analyze(run.path, ["retrieval-heads"], n_documents=4)
    assert result["why_not"] is None
    assert (run.results_dir / "analysis-retrieval-heads.mqar-probe.json").is_file()


def test_a_probe_that_cannot_be_asked_says_why(tmp_path):
    mad = {"kind": "mad", "task": "selective_copying"}
    symbols = saved_run(tmp_path / "symbols", data={"seq_len": 256, "sources": [mad]}, tasks=[])
    folder = tmp_path / "nameless"
    nameless = saved_run(folder, data=text_of(folder), tasks=[])
    (nameless.path / "hf").mkdir()
    (nameless.path / "hf" / "config.json").write_text('{"model_type": "mamba2"}')
    for run, words in ((symbols, "trained on symbols"), (nameless, "without a tokenizer")):
        (result,) = analyze(run.path, ["retrieval-heads"], n_documents=4)
        assert result["why_not"].startswith("the recipe has no recall task, and no probe can be")
        assert words in result["why_not"]


def test_a_model_that_came_without_a_tokenizer(run):
    (run.path / "hf").mkdir()
    (run.path / "hf" / "config.json").write_text('{"model_type": "mamba2"}')
    with pytest.raises(InputError, match="imported without a tokenizer"):
        look(run, NAME)
    (result,) = look(run, NAME, task="mqar")
    assert result["value"] > 0


def test_the_command_says_what_was_found(run, capsys):
    words = ["analyze", str(run.path), "--instruments", NAME, "--context", "16"]
    assert main([*words, "--documents", "2"]) == 0
    said = capsys.readouterr()
    assert "* half_life" in said.out
    assert "tokens" in said.out
    assert main([*words, "--documents", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["name"] == NAME
    assert "measured already" in said.err
    assert main([*words, "--layers", "1"]) == 0
    assert "not applicable: no layer has a state" in capsys.readouterr().out
    assert main([*words, "--layers", "7"]) == 2
