"""MAD's tasks and copying asked of models that read by rule, and of one that knows nothing."""

import pytest
import torch

from braidlm.arch.symbols import BASELINES, CopyingSource, MADSource
from braidlm.arch.tasks import CopyingTask, MADTask
from braidlm.cli.main import main
from braidlm.data.symbol_items import eval_symbols
from braidlm.errors import InputError
from braidlm.tasks import describe, run_task
from tests.tasks.models import BYTES, SURE, Known, Lookup, Uniform, recipe, saved_run

VOCAB = 300


class ByRule(Known):
    """Says at place t what `rule` finds in the tokens up to t."""

    def __init__(self, rule) -> None:
        super().__init__(VOCAB)
        self.rule = rule

    def logits(self, tokens, segments):
        out = torch.zeros(*tokens.shape, VOCAB)
        for row, ids in enumerate(tokens.tolist()):
            for at in range(len(ids)):
                if (said := self.rule(ids[: at + 1])) is not None:
                    out[row, at, said] = SURE
        return out


def selective(seen):
    """Blank 14, sign 15: after the sign the symbols in their order."""
    if 15 not in seen or seen[-1] == 15:
        return None
    sign = seen.index(15)
    return [token for token in seen[:sign] if token < 14][len(seen) - sign - 2]


def given_back(seen):
    return None if seen[-1] != 15 else seen[seen.count(15) - 1]


def fuzzy(seen):
    """Keys 0 .. 6, values 7 .. 14: what followed the same key, as far as it has been said."""
    at = len(seen)
    while at and seen[at - 1] >= 7:
        at -= 1
    said, start = seen[at:], at
    while start and seen[start - 1] < 7:
        start -= 1
    key = seen[start:at]
    for i in range(start):
        if seen[i : i + len(key)] == key and seen[i + len(key)] >= 7:
            found = seen[i + len(key) + len(said)]
            return found if found >= 7 else None
    return None


def copied(seen):
    if 27 not in seen:
        return None
    sign = seen.index(27)
    return seen[len(seen) - 1 - sign] if len(seen) - 1 - sign < sign else None


MODELS = {
    "in_context_recall": Lookup(),
    "noisy_in_context_recall": Lookup(),
    "fuzzy_in_context_recall": ByRule(fuzzy),
    "selective_copying": ByRule(selective),
    "compression": ByRule(given_back),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_reader_by_rule_is_right_everywhere(name, tmp_path):
    task = MADTask(task=name, n_items=6)
    found = run_task(task, MODELS[name], BYTES, recipe(tmp_path))
    assert (found["metric"], found["value"], found["n"]) == ("accuracy", 1.0, 6)
    assert found["metrics"]["exact"]["value"] == 1.0
    assert found["seq_len"] == found["trained_seq_len"] == BASELINES[name].length
    assert all(row["accuracy"] == 1.0 for row in found["tables"]["by_class"])
    nothing = run_task(task, Uniform(), BYTES, recipe(tmp_path))
    assert nothing["value"] == pytest.approx(1 / VOCAB)
    assert nothing["metrics"]["answer_nll"]["value"] == pytest.approx(5.7038, abs=1e-3)


def test_a_map_that_was_learnt_is_known(tmp_path):
    config = recipe(tmp_path)
    items = eval_symbols(MADSource(task="memorization"), 300, 32)
    known = dict(
        zip(items.tokens[:, ::2].ravel().tolist(), items.targets[:, 1::2].ravel(), strict=True)
    )

    def rule(seen):
        return int(known[seen[-2]]) if seen[-1] == 255 else None

    task = MADTask(task="memorization", n_items=5)
    assert run_task(task, ByRule(rule), BYTES, config)["value"] == 1.0
    assert run_task(task, Lookup(), BYTES, config)["value"] < 0.1


def test_copies_are_asked_at_every_length_and_quarter(tmp_path):
    def short_sighted(seen):
        return copied(seen) if 27 in seen[:20] else 0

    task = CopyingTask(n_symbols=(8, 40), n_items=4)
    whole = run_task(task, ByRule(copied), BYTES, recipe(tmp_path))
    assert (whole["value"], whole["metrics"]["exact"]["value"]) == (1.0, 1.0)
    assert whole["is_extrapolated"]
    assert [row["class"] for row in whole["tables"]["by_class"]] == [
        f"quarter {i}" for i in (1, 2, 3, 4)
    ]
    assert [row["n"] for row in whole["tables"]["by_class"]] == [48] * 4
    short = run_task(task, ByRule(short_sighted), BYTES, recipe(tmp_path))
    first, second = short["tables"]["by_length"]
    assert (first["n_symbols"], first["accuracy"], first["exact"]) == (8, 1.0, 1.0)
    assert (second["n_symbols"], second["exact"]) == (40, 0.0)
    assert second["accuracy"] < 0.2


def test_a_task_takes_the_recipe_s_own_source(tmp_path):
    sources = [
        {"kind": "mad", "token_offset": 100, "length": 64},
        {"kind": "copying", "name": "strings", "n_symbols": [5], "token_offset": 50},
    ]
    config = recipe(tmp_path)
    text = config.to_dict()
    text["data"] |= {"sources": [*text["data"]["sources"], *sources], "seq_len": 128}
    config = type(config).from_dict(text)
    found = run_task(MADTask(n_items=3), Lookup(), BYTES, config)
    assert (found["value"], found["seq_len"]) == (1.0, 64)
    assert describe(MADTask(), config).startswith("64 tokens: k")
    assert describe(CopyingTask(source="strings"), config).startswith("5 symbols: x")
    longer = run_task(MADTask(n_items=3, lengths=(64, 256)), Lookup(), BYTES, config)
    assert [row["length"] for row in longer["tables"]["by_length"]] == [64, 256]
    with pytest.raises(InputError, match="task 'mad': length = 63: must be even"):
        run_task(MADTask(lengths=(63,)), Lookup(), BYTES, config)
    with pytest.raises(InputError, match="'strings' is no mad source of in_context_recall"):
        run_task(MADTask(source="strings"), Lookup(), BYTES, config)
    text["tasks"] = [{"kind": "copying", "source": "mad"}]
    with pytest.raises(InputError, match="source = 'mad' is no copying source of this recipe"):
        type(config).from_dict(text)


def test_symbols_beyond_the_vocabulary_are_refused(tmp_path):
    config = recipe(tmp_path)
    text = config.to_dict()
    text["data"]["sources"].append({"kind": "copying", "token_offset": 280, "n_symbols": [9]})
    with pytest.raises(InputError, match="token_offset \\+ vocab_size = 308 must not exceed"):
        type(config).from_dict(text)


def test_the_command_asks_built_in_ones(tmp_path, capsys):
    run = saved_run(tmp_path)
    words = ["eval", str(run.path), "--tasks", "mad_compression,copying"]
    assert main([*words, "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "mad_compression" in shown
    assert main([*words, "--list"]) == 0
    assert "|->x" in capsys.readouterr().out
    assert main([*words, "--set", "tasks.copying.n_symbols=[0]", "--limit", "1"]) == 2
    assert "n_symbols = 0: must be at least 1" in capsys.readouterr().err


def test_a_copying_source_knows_its_longest_item():
    assert CopyingSource(n_symbols=(4, 30)).length == 61
    assert CopyingSource(n_symbols=(30,), n_gram=2, n_answer=3).length == 36
