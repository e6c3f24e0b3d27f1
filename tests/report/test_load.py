import pytest

from braidlm.errors import InputError
from braidlm.report.load import load

from .making import config, lm, write_run, write_study


def test_a_study_gives_its_arms_in_its_own_order(tmp_path):
    for seed in (10, 2):
        write_run(tmp_path / "b" / f"seed-{seed}", config(seed=seed))
    write_run(tmp_path / "a" / "seed-2", config(seed=2))
    write_study(tmp_path, ["b", "a"], seeds=[2, 10], name="mine")
    found = load([tmp_path])
    assert found.title == "mine"
    assert [(arm.name, [run.seed for run in arm.runs]) for arm in found.arms] == [
        ("b", [2, 10]),
        ("a", [2]),
    ]
    assert [(m.arm, m.seed, m.state) for m in found.missing] == [("a", "10", "not started")]


def test_runs_that_differ_in_the_seed_alone_are_one_arm(tmp_path):
    one = write_run(tmp_path / "x", config(name="same", seed=0))
    two = write_run(tmp_path / "y", config(name="same", seed=1))
    other = write_run(tmp_path / "z", config("M-M-", name="same", seed=0))
    found = load([one, two, other])
    assert [(arm.name, len(arm.runs)) for arm in found.arms] == [("same (x)", 2), ("same (z)", 1)]


def test_two_studies_with_the_same_arm_keep_both(tmp_path):
    for study in ("one", "two"):
        write_run(tmp_path / study / "a" / "seed-0")
        write_study(tmp_path / study, ["a"], name=study)
    found = load([tmp_path / "one", tmp_path / "two"])
    assert [arm.name for arm in found.arms] == ["a (one)", "a (two)"]
    assert found.title == "one and two"


def test_the_same_run_twice_gives_two_names(tmp_path):
    write_run(tmp_path / "r" / "a" / "seed-0")
    write_study(tmp_path / "r", ["a"])
    names = [arm.name for arm in load([tmp_path / "r", tmp_path / "r"]).arms]
    assert len(set(names)) == 2


def test_a_directory_that_is_neither_is_refused_by_name(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.*neither a run .* nor a study"):
        load([run, tmp_path / "empty"])
    with pytest.raises(InputError, match="neither"):
        load([tmp_path / "absent"])


def test_nothing_readable_is_refused(tmp_path):
    write_study(tmp_path / "study", ["a"])
    with pytest.raises(InputError, match="no readable run"):
        load([tmp_path / "study"])
    broken = write_run(tmp_path / "broken")
    (broken / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"no readable run in '.*broken'"):
        load([broken])
    with pytest.raises(InputError, match="no readable run"):
        load([])


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_schema_version_is_named(tmp_path, version):
    run = write_run(tmp_path / "run", results=[lm(1.5, schema_version=version)])
    with pytest.raises(InputError, match=rf"lm-held-out\.json.*schema_version {version!r}"):
        load([run])
    write_run(tmp_path / "study" / "a" / "seed-0")
    write_study(tmp_path / "study", ["a"], schema_version=version)
    with pytest.raises(InputError, match=r"study\.json.*schema_version"):
        load([tmp_path / "study"])


def test_a_failure_that_run_and_study_both_tell_is_told_once(tmp_path):
    told = {"error": "step 2: loss = nan", "state": "failed"}
    run = write_run(
        tmp_path / "a" / "seed-0", state="failed", error="NonFinite: step 2: loss = nan"
    )
    write_study(tmp_path, ["a"], seeds=[0], runs={"a/seed-0": told})
    (found,) = load([tmp_path]).arms
    assert found.runs[0].path == run
    assert found.runs[0].notes == ()
    write_study(tmp_path, ["a"], seeds=[0], runs={"a/seed-0": told | {"error": "killed"}})
    assert load([tmp_path]).arms[0].runs[0].notes == ("killed",)


@pytest.mark.parametrize(
    ("matched", "words"),
    [(True, "True"), ("parameters", "parameters"), (["parameters"], "parameters"), (5, "5")],
)
def test_what_a_study_matched_may_be_written_in_any_way(tmp_path, matched, words):
    write_run(tmp_path / "a" / "seed-0")
    write_study(tmp_path, ["a"], matched=matched)
    assert load([tmp_path]).matched == (words,)
