"""Fine-tuning from the command line: before and after, pairs that are wrong, runs that stop."""

import json
import shutil

import pytest

from tests.cli.conftest import ROOT

PAIRS = [{"prompt": f"{i} and {i} make ", "answer": str(2 * i)} for i in range(40)]


def lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def tuning(trained, tmp_path):
    """A recipe without a model that trains on pairs beside it, and asks what the init was asked."""
    text = (trained / "recipe.toml").read_text()
    tables = text[: text.index("[model]")] + text[text.index("[data]") :]
    source = f'[[data.sources]]\nkind = "pairs"\npath = "{tmp_path / "pairs.jsonl"}"\n\n'
    (tmp_path / "pairs.jsonl").write_text(lines(PAIRS))
    path = tmp_path / "tuning.toml"
    path.write_text(tables.replace("[[data.sources]]", source + "[[data.sources]]", 1))
    return path


def train(tuning, trained, *words):
    call = ("train", tuning, "--init", trained / "run", "--out", tuning.parent / "out")
    return (*call, "--set", f"data.cache_dir={tuning.parent / 'cache'}", *words)


def test_replayed_rows_are_inspected_before_a_training(braid, refused, trained, tuning):
    sets = [f"init={trained / 'run'}", "data.replay.fraction=0.5"]
    sets = [word for text in sets for word in ("--set", text)]
    out = braid("data", "inspect", tuning, *sets, "-n", 4).out
    assert out.count("(replay): ") == 2
    assert "; row 0 of the init's training, " in out
    found = braid("data", "inspect", tuning, *sets, "-n", 4, "--json")
    assert [row["kind"] for row in json.loads(found.out)].count("replay") == 2
    plain = trained / "recipe.toml"
    refused("data", "inspect", plain, *sets[2:], says="needs an init that was trained here")


def test_before_and_after_are_asked_the_same_and_compared(braid, trained, tuning):
    found = braid(*train(tuning, trained, "--progress", "none", "--json"))
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert [c["task"] for c in told["changes"]] == ["lm-held-out", "mqar-recall"]
    out = tuning.parent / "out"
    began = told["began_with"]
    last = json.loads((trained / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert began["origin"]["ended_with"]["lr"] == last["lr"]
    assert began["highest_loss"] >= began["first_loss"]
    for change in told["changes"]:
        stem, metric = change["task"], change["metric"]
        now, before = (
            json.loads((place / "results" / f"{stem}.json").read_text())
            for place in (out, out / "init")
        )
        assert now["task"] == before["task"]
        assert (now["step"], before["step"]) == (4, 0)
        values = [r["metrics"][metric]["value"] for r in (now, before)]
        gap = change["metrics"][metric]
        assert [gap["a"], gap["b"]] == values
        assert gap["difference"] == pytest.approx(values[0] - values[1])
    lm = told["changes"][0]["metrics"]["nll_per_token"]
    assert lm["difference"] != 0
    assert lm["half_width"] > 0
    first = json.loads((trained / "run" / "results" / "lm-held-out.json").read_text())
    assert lm["b"] == first["metrics"]["nll_per_token"]["value"]
    shown = braid("compare", out, out / "init")
    assert "95 %" in shown.out
    arms = json.loads(braid("report", out, "--json").out)["arms"]
    assert [arm["name"] for arm in arms] == ["tiny", "tiny before"]
    again = braid(*train(tuning, trained, "--resume", "--progress", "none"))
    assert again.code == 0
    assert f"its last loss {last['loss']:.4g}, learning rate {last['lr']:.4g}\nloss" in again.out
    assert shown.out in again.out


def test_a_changed_model_is_shown_as_such(braid, trained, tuning):
    text = tuning.read_text()
    tuning.write_text(text + '\n[init_changes.mixers."*"]\nrope_theta = 500000.0\n')
    words = ("--no-eval", "--progress", "none", "--set", "init_changes.mixers.*.window=16")
    assert braid(*train(tuning, trained, *words)).code == 0
    out = tuning.parent / "out"
    found = json.loads(braid("describe", out, "--json").out)["changes"]
    assert [(c["field"], c.get("from"), c["to"]) for c in found] == [
        ("mixers.*.rope_theta", 10000.0, 500000.0),
        ("mixers.*.window", None, 16),
    ]
    assert "mixers.*.rope_theta" in braid("describe", out).out
    (arm, before) = json.loads(braid("report", out, "--json").out)["arms"]
    assert arm["init_changes"][0] == "mixers.*.rope_theta 10000.0 → 500000.0"
    assert before["init_changes"] == []
    braid("report", out, "-o", out / "report.html")
    assert "changed from its init: mixers.*.rope" in (out / "report.html").read_text()


def test_without_tasks_nothing_is_compared(braid, trained, tuning):
    found = braid(*train(tuning, trained, "--no-eval", "--progress", "none", "--json"))
    assert json.loads(found.out)["changes"] == []
    assert not list((tuning.parent / "out" / "init" / "results").glob("*.json"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lines(PAIRS[:2]) + "{bad\n", ("pairs.jsonl, line 3 is not JSON",)),
        (lines([*PAIRS[:2], {"prompt": "x"}]), ('line 3 has no field "answer"', "prompt")),
        (lines([*PAIRS[:2], {"prompt": "x", "answer": ""}]), ('line 3: field "answer" is empty',)),
        ("", ("pairs.jsonl holds no text",)),
        (None, ("pairs.jsonl does not exist",)),
        (
            lines([*PAIRS, {"prompt": "x", "answer": "y" * 70}]),
            ("1 of", "pairs are longer than seq_len = 64", "pairs.jsonl:41"),
        ),
    ],
    ids=["malformed", "field", "blank", "empty", "missing", "long"],
)
def test_pairs_that_are_wrong_are_named_and_nothing_is_made(
    refused, trained, tuning, content, says
):
    if content is None:
        (tuning.parent / "pairs.jsonl").unlink()
    else:
        (tuning.parent / "pairs.jsonl").write_text(content)
    refused(*train(tuning, trained, "--set", "data.held_out=0.1"), says=says)
    assert not (tuning.parent / "out").exists()


def test_a_long_answer_is_refused_even_where_prompts_may_be_cut(refused, trained, tuning):
    (tuning.parent / "pairs.jsonl").write_text(lines([*PAIRS, {"prompt": "x", "answer": "y" * 70}]))
    words = train(tuning, trained, "--set", "data.sources.pairs.too_long=cut_prompt")
    says = ("1 answers do not fit into seq_len = 64", "pairs.jsonl:41")
    refused(*words, "--set", "data.held_out=0.1", says=says)


def test_a_run_that_is_gone_on_with_needs_no_init_any_more(braid, trained, tuning):
    init = shutil.copytree(trained / "run", tuning.parent / "init")
    call = ["train", tuning, "--init", init, "--out", tuning.parent / "out", "--no-eval"]
    call += ["--progress", "none", "--set", f"data.cache_dir={tuning.parent / 'cache'}"]
    assert braid(*call, "--set", "train.steps=2").code == 0
    shutil.rmtree(init)
    assert braid(*call, "--set", "train.steps=3", "--resume").code == 0


def test_the_shipped_recipes_have_the_model_of_the_base():
    from braidlm.arch import Recipe

    base = Recipe.load(ROOT / "recipes" / "base.toml")
    for name in ("finetune_phonebook", "finetune_squad"):
        recipe = Recipe.load(ROOT / "recipes" / f"{name}.toml")
        assert recipe.spec == base.spec
        assert recipe.data.tokenizer == base.data.tokenizer
