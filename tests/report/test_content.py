import json
import math

import pytest

from braidlm import report
from braidlm.errors import InputError

from .making import config, documents, lm, losses, mqar, write, write_run, write_study


def _study(path, arms, **fields):
    """arms: name -> (pattern, [(bits, accuracy) per seed])."""
    for name, (pattern, seeds) in arms.items():
        for seed, (bits, accuracy) in enumerate(seeds):
            write_run(
                path / name / f"seed-{seed}",
                config(pattern, name=name, seed=seed),
                results=[lm(bits), mqar(accuracy)],
            )
    return write_study(path, list(arms), **fields) or path


@pytest.fixture
def three(tmp_path):
    arms = {
        "full": ("*-*-", [(1.50, 0.98), (1.52, 0.96)]),
        "hybrid": ("M-*-", [(1.45, 0.97), (1.47, 0.95)]),
        "ssm": ("M-M-", [(1.46, 0.30), (1.48, 0.32)]),
    }
    return report.tables([_study(tmp_path, arms)])


def test_metrics_are_means_with_both_errors(three):
    full = three["arms"][0]
    assert (full["name"], full["seeds"], full["pattern"]) == ("full", [0, 1], "*-*-")
    bits = full["metrics"]["lm-held-out.bits_per_byte"]
    assert bits["mean"] == pytest.approx(1.51)
    assert bits["seed_stderr"] == pytest.approx(0.01)
    assert bits["item_stderr"] == pytest.approx(0.01)
    assert (bits["n_seeds"], bits["n_items"], bits["values"]) == (2, 400, [1.50, 1.52])
    assert full["metrics"]["mqar-recall.accuracy"]["mean"] == pytest.approx(0.97)
    assert full["metrics"]["mqar-recall.graded"]["mean"] == pytest.approx(6 * 0.97)


def test_it_is_json_without_nan(three, tmp_path):
    json.loads(json.dumps(three, allow_nan=False))
    run = write_run(tmp_path / "odd", config() | {"note": float("inf")}, results=[lm(1.5)])
    json.dumps(report.tables([run]), allow_nan=False)


def test_the_summary_names_the_best_and_what_is_within_error(three):
    words = " ".join(three["summary"])
    assert "3 arms have 2 seeds each (0 and 1)." in words
    assert "Recall (MQAR accuracy) is highest for full, at 0.970 (chance 0.031); hybrid is" in words
    assert "Bits per byte is lowest for hybrid, at 1.460, but every other arm is within" in words
    assert "same training tokens (within 1 %)" in words
    assert "Of the arms within error of the best recall, hybrid keeps the smallest cache" in words
    lead = three["leads"]["mqar-recall.accuracy"]
    assert lead["best"] == "full"
    assert [lead["others"][name]["is_within_error"] for name in ("hybrid", "ssm")] == [True, False]


def test_recall_at_chance_has_no_winner_and_recommends_no_cache(tmp_path):
    arms = {"full": ("*-*-", [(1.50, 0.03), (1.52, 0.03)]), "ssm": ("M-M-", [(1.46, 0.01)] * 2)}
    words = " ".join(report.tables([_study(tmp_path, arms)])["summary"])
    assert "No arm has recall (MQAR accuracy) above chance (0.031): at most 0.030." in words
    assert "smallest" not in words
    assert "Bits per byte is lowest for ssm" in words


def test_cache_follows_the_context(tmp_path):
    run = write_run(tmp_path / "run", config("M-*-"))
    short, long = (report.tables([run], context=c)["arms"][0] for c in (1000, 3000))
    assert long["kv_bytes"] == 3 * short["kv_bytes"] > 0
    assert long["state_bytes"] == short["state_bytes"] > 0
    with pytest.raises(InputError, match="context = 0"):
        report.tables([run], context=0)


def test_one_seed_says_so(tmp_path):
    arms = {"a": ("*-", [(1.5, 0.98)]), "b": ("M-", [(1.6, 0.30)])}
    data = report.tables([_study(tmp_path, arms, seeds=[0])])
    assert data["arms"][0]["metrics"]["mqar-recall.accuracy"]["seed_stderr"] is None
    assert data["notes"] == ["1 seed: item error only, so the luck of training is not measured."]
    assert any("(95 %, items only)" in sentence for sentence in data["summary"])


def test_bits_per_byte_are_compared_document_by_document(tmp_path):
    """Documents differ far more than the arms; on each of them the same arm is better."""
    results = [lm(1.50, stderr=0.3), lm(1.48, stderr=0.3)]
    results[1]["tables"]["by_document"] = documents(1.48, noise=0.002)
    runs = [
        write_run(tmp_path / f"r{i}", config(pattern, name=f"r{i}"), results=[results[i]])
        for i, pattern in enumerate(("M-", "*-"))
    ]
    gap = report.tables(runs)["leads"]["lm-held-out.bits_per_byte"]["others"]["r0"]
    assert gap["is_paired"]
    assert not gap["is_within_error"]
    assert gap["value"] == pytest.approx(-0.02)
    # noise of 0.002 alternates over six documents: deviation 0.002 * sqrt(6 / 5), error / sqrt(6)
    assert gap["half_width"] == pytest.approx(2.571 * 0.002 / math.sqrt(5))


def test_the_noise_of_arithmetic_is_not_shown_as_digits(tmp_path):
    """Every document differs by the same amount: the error is zero but for rounding."""
    runs = [
        write_run(tmp_path / f"r{i}", config(p, name=f"r{i}"), results=[lm(1.5 + 0.37 * i)])
        for i, p in enumerate(("M-", "*-"))
    ]
    words = " ".join(report.tables(runs)["summary"])
    assert "ahead of r1 by 0.3700 ± 0.0000 (95 %, items only)" in words


def test_other_documents_are_not_paired(tmp_path):
    first, second = lm(1.50), lm(1.48)
    second["tables"]["by_document"][0]["document"] = "elsewhere"
    runs = [
        write_run(tmp_path / f"r{i}", config(p, name=f"r{i}"), results=[r])
        for i, (p, r) in enumerate((("M-", first), ("*-", second)))
    ]
    gap = report.tables(runs)["leads"]["lm-held-out.bits_per_byte"]["others"]["r0"]
    assert not gap["is_paired"]
    assert gap["is_within_error"]


def test_loss_curve_is_averaged_over_seeds_and_binned(tmp_path):
    runs = [
        write_run(tmp_path / f"s{s}", config(seed=s), metrics=losses(1000, 2.0 + s)) for s in (0, 1)
    ]
    rows = report.tables(runs)["curves"]["whole"]["arm"]
    assert len(rows) <= 90
    assert (rows[0]["step"], rows[0]["mean"]) == (1.0, pytest.approx(5.5))
    assert (rows[0]["low"], rows[0]["high"], rows[0]["n_seeds"]) == (5.0, 6.0, 2)
    tail = report.tables(runs)["curves"]["tail"]["arm"]
    assert tail[0]["step"] >= 500
    assert len(tail) == 24
    assert tail[-1]["mean"] == pytest.approx(2.5 + 3 * 980**-0.5, abs=0.01)


def test_a_broken_loss_is_left_out_and_told(tmp_path):
    rows = [*losses(50, 2.0), {"step": 51, "loss": None}, {"step": 52, "loss": math.nan}]
    run = write_run(tmp_path / "run", metrics=rows, state="failed", error="loss is not finite")
    data = report.tables([run])
    assert max(r["step"] for r in data["curves"]["whole"]["arm"]) <= 50
    (problem,) = data["problems"]
    assert (problem["state"], problem["seed"]) == ("failed", "0")
    assert "loss is not finite; the training loss is not finite from step 51" in problem["error"]
    assert "1 run did not end" in data["summary"][0]


def test_missing_and_null_results_are_null(tmp_path):
    null = mqar(0.5)
    null["metrics"]["accuracy"]["value"] = None
    one = write_run(tmp_path / "a", config("M-", name="a"), results=[lm(1.5)])
    two = write_run(tmp_path / "b", config("*-", name="b"), results=[null])
    metrics = [arm["metrics"] for arm in report.tables([one, two])["arms"]]
    assert metrics[0]["mqar-recall.accuracy"] is None
    assert metrics[1]["mqar-recall.accuracy"] is None
    assert metrics[1]["mqar-recall.graded"]["mean"] == 3.0


def test_an_unknown_kind_gets_a_column_of_its_own(tmp_path):
    result = lm(0.7) | {"kind": "needle", "name": "long", "metric": "exact_match"}
    result["metrics"] = {"exact_match": {"value": 0.7, "stderr": 0.1, "n": 9, "unit": "share"}}
    data = report.tables([write_run(tmp_path / "run", results=[result])])
    (column,) = data["columns"]
    assert (column["title"], column["better"]) == ("needle exact match", "higher")
    assert data["arms"][0]["metrics"]["needle-long.exact_match"]["mean"] == 0.7


def test_by_pairs_holds_chance_and_both_measures(three):
    rows = three["by_pairs"]["mqar-recall"]["ssm"]
    assert [row["n_pairs"] for row in rows] == [4, 8, 16, 32]
    assert rows[1]["accuracy"]["mean"] == pytest.approx(0.21)
    assert rows[1]["accuracy"]["seed_stderr"] == pytest.approx(0.01)
    assert three["chance"]["mqar-recall"] == 1 / 32
    assert three["in_context_chance"]["mqar-recall"][0] == {"n_pairs": 4, "in_context_chance": 0.25}


def test_what_was_not_measured_alike_is_told(tmp_path):
    one = lm(1.5, dtype="bfloat16", ops={"ssd": "triton"}, step=50)
    two = lm(1.4, is_extrapolated=True, seq_len=128, trained_seq_len=64)
    runs = [
        write_run(tmp_path / "a", config("M-", name="a"), results=[one]),
        write_run(tmp_path / "b", config("*-", name="b"), results=[two]),
    ]
    told = " ".join(report.tables(runs)["cautions"])
    assert "dtype differs between runs: bfloat16 (1) and float32 (1)" in told
    assert "ssd=triton (1) and ssd=chunk (1)" in told
    assert "attention" not in told
    assert "measured before the end of training: a seed 0 (step 50 of 100)" in told
    assert "128 tokens are longer than the 64 tokens of training" in told


def test_weights_that_were_given_and_tables_of_stages_are_not_early(tmp_path):
    stages = {**lm(1.5, step=0), "kind": "convert", "name": "stages"}
    run = write_run(tmp_path / "run", config(), results=[lm(1.5, step=100), stages])
    write_run(run / "init", config("*-", name="given"), results=[lm(1.4, step=0)])
    write(run / "init" / "status.json", {"state": "done", "step": 0, "steps": 0})
    found = report.tables([run, run / "init"])
    assert [arm["label"] for arm in found["arms"]] == ["arm", "given"]
    assert not any("before the end" in told for told in found["cautions"])


def test_training_is_what_was_spent_and_not_what_the_config_of_the_last_stage_says(tmp_path):
    rows = [
        {"stage": stage, "task": "lm-x", "metric": "nll", "value": 1.0, "tokens": n}
        for stage, n in (("teacher", None), ("mixers", 300), ("text", 70))
    ]
    stages = {**lm(1.5), "kind": "convert", "name": "stages", "tables": {"stages": rows}}
    student = write_run(tmp_path / "run", config(), results=[stages])
    write_run(student / "init", config("*-", name="given"), results=[lm(1.4, step=0)])
    write(student / "init" / "status.json", {"state": "done", "step": 0, "steps": 0})
    trained = write_run(tmp_path / "trained", config(name="trained"), results=[lm(1.5)])
    found = report.tables([student, student / "init", trained])["arms"]
    spent = {arm["label"]: (arm["training_tokens"], arm["training_flops"]) for arm in found}
    assert spent["arm"] == (370, None)
    assert spent["given"] == (None, None)
    assert None not in spent["trained"]


def test_a_declared_match_that_does_not_hold_is_told(three, tmp_path):
    assert three["cautions"][0].startswith("training FLOPs: declared equal, but the largest arm")
    arms = {"a": ("M-", [(1.5, 0.9)]), "b": ("M-", [(1.5, 0.9)])}
    assert report.tables([_study(tmp_path / "equal", arms, seeds=[0])])["cautions"] == []


def test_reproduce_names_commands_versions_and_configs(three):
    found = three["reproduce"]
    assert found["commands"][0] == {"run": "study", "command": "braid study study.toml"}
    assert len(found["commands"]) == 7
    assert list(found["environment"]["packages: torch"]) == ["2.13.0"]
    assert len(found["environment"]["packages: torch"]["2.13.0"]) == 6
    assert found["configs"]["ssm"]["model"]["pattern"] == "M-M-"
    assert found["measured"][0]["operators"] == "ssd=chunk, attention=sdpa"


def test_one_arm_is_described_and_not_ranked(tmp_path):
    run = write_run(tmp_path / "run", results=[lm(1.5), mqar(0.25)])
    words = " ".join(report.tables([run])["summary"])
    assert words.startswith("One arm, arm, has 1 seed (0). Recall (MQAR accuracy) is 0.250 (chance")
    assert "Bits per byte is 1.500." in words
    assert "every arm" not in words


def test_what_the_study_knows_of_a_failed_run_is_shown_once(tmp_path):
    write_run(tmp_path / "a" / "seed-0", config("M-"), results=[lm(1.5)])
    write_run(
        tmp_path / "b" / "seed-0",
        config("*-"),
        results=[lm(1.5)],
        state="failed",
        error="step 3: loss = nan",
    )
    runs = {
        "a/seed-0": {"state": "failed", "error": "braid: task 'recall' needs a longer context"},
        "b/seed-0": {"state": "failed", "error": "braid: step 3: loss = nan"},
    }
    found = report.tables([write_study(tmp_path, ["a", "b"], seeds=[0], runs=runs)])["problems"]
    assert [row["error"] for row in found] == [
        "braid: task 'recall' needs a longer context",
        "step 3: loss = nan",
    ]
