import random

import pytest
import torch

from braidlm.arch.config import differences
from braidlm.errors import InputError
from braidlm.train import train
from braidlm.train.resume import check_same_run, random_states, set_random_states

from .test_loop import real_recipe
from .tiny import recipe, run


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 80},
        {"activation_checkpointing": 2},
        {"telemetry_every": 3},
        {"log_to": ["trackio"]},
        {"log_every": 7},
        {"checkpoint_every": 3},
        {"keep_checkpoints": 1},
    ],
)
def test_length_and_frequencies_are_free(change):
    check_same_run(recipe().to_dict(), recipe(**change), "run")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lr", 0.01, r"train\.lr = 0\.01, but the run was started with 0\.05"),
        ("batch_size", 8, r"train\.batch_size = 8, but the run was started with 4"),
        ("precision", "bf16", r"train\.precision = 'bf16'"),
        ("compile", True, r"train\.compile = True"),
        ("decay_shape", "sqrt", r"train\.decay_shape = 'sqrt'"),
        ("optimizer", "muon", r"train\.optimizer = 'muon'"),
        ("muon", {"lr": 0.1}, r"train\.muon\.lr = 0\.1"),
    ],
)
def test_another_training_is_refused_by_field(field, value, words):
    with pytest.raises(InputError, match=words):
        check_same_run(recipe().to_dict(), recipe(**{field: value}), "run")


def test_another_model_seed_or_data_is_refused_and_other_tasks_are_not():
    stored = recipe().to_dict()

    def changed(part, value):
        return type(recipe()).from_dict(stored | {part: value})

    with pytest.raises(InputError, match="seed = 8"):
        check_same_run(stored, changed("seed", 8), "run")
    model = {"pattern": "*-", "d_model": 16, "vocab_size": 16}
    with pytest.raises(InputError, match=r"model\.d_model = 16"):
        check_same_run(stored, changed("model", model), "run")
    data = stored["data"] | {"seq_len": 9}
    with pytest.raises(InputError, match=r"data\.seq_len = 9"):
        check_same_run(stored, changed("data", data), "run")
    check_same_run(stored, changed("data", stored["data"] | {"cache_dir": "elsewhere"}), "run")
    check_same_run(stored, changed("tasks", [{"kind": "mqar"}]), "run")
    check_same_run(stored, changed("name", "other"), "run")


def test_a_field_that_is_newer_than_the_run_counts_as_its_default():
    stored = recipe().to_dict()
    del stored["train"]["anneal_fraction"]
    check_same_run(stored, recipe(), "run")
    with pytest.raises(InputError, match=r"train\.anneal_fraction = 0\.5"):
        check_same_run(stored, recipe(anneal_fraction=0.5), "run")


def test_differences_name_every_leaf():
    old = {"a": 1, "b": [{"c": 2}, 3], "d": [1]}
    new = {"a": 1, "b": [{"c": 4}, 3], "d": [1, 2], "e": 5}
    assert list(differences(old, new, "x")) == [
        ("x.b.0.c", 2, 4),
        ("x.d", [1], [1, 2]),
        ("x.e", None, 5),
    ]


def test_random_states_return_and_survive_a_file(tmp_path):
    random.random()
    torch.save(random_states(), tmp_path / "random.pt")
    expected = [random.random(), torch.rand(()).item(), random.gauss(0, 1)]
    random.seed(99)
    torch.manual_seed(99)
    set_random_states(torch.load(tmp_path / "random.pt", weights_only=True))
    assert [random.random(), torch.rand(()).item(), random.gauss(0, 1)] == expected


def test_what_a_kill_left_among_the_checkpoints_goes_when_the_run_goes_on(tmp_path):
    run(tmp_path / "run", recipe(checkpoint_every=4))
    places = tmp_path / "run" / "checkpoints"
    for name in (".step-00000004.old", ".step-00000009.77.tmp"):
        (places / name).mkdir()
        (places / name / "weights.safetensors").write_text("half")
    run(tmp_path / "run", recipe(checkpoint_every=4), resume=True)
    assert sorted(p.name for p in places.iterdir()) == ["step-00000004", "step-00000008"]
    run(tmp_path / "run", recipe(checkpoint_every=4, keep_checkpoints=1), resume=True)
    assert [p.name for p in places.iterdir()] == ["step-00000008"]


def test_a_text_that_changed_between_two_sessions_is_refused(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven eight nine ten\n\n" * 40, encoding="utf-8")
    plain = real_recipe("fp32").to_dict()
    plain["model"]["vocab_size"] = 259
    plain["data"] = {
        "seq_len": 24,
        "tokenizer": "bytes",
        "cache_dir": str(tmp_path / "cache"),
        "sources": [{"kind": "text", "name": "mine", "path": str(text)}],
    }
    train(
        type(recipe()).from_dict(plain | {"train": plain["train"] | {"steps": 2}}), tmp_path / "run"
    )
    text.write_text("ten nine eight seven six five four three two one\n\n" * 40, encoding="utf-8")
    words = "text of data source 'mine' is not the one that this run has read"
    with pytest.raises(InputError, match=words):
        train(type(recipe()).from_dict(plain), tmp_path / "run", resume=True)
