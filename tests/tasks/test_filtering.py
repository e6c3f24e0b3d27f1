"""A token filter: calibrated on the run's rows, told in the result, refused in a sentence."""

import json

import pytest
import torch

from braidlm import checkpoint
from braidlm.arch.config import differences
from braidlm.arch.tasks import LMTask, LongTextTask, MQARTask
from braidlm.arch.tasks.token_filter import TokenFilter
from braidlm.cli.eval import card
from braidlm.data.tokenizer import ByteTokenizer
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.runs import Run
from braidlm.tasks import evaluate, run_task
from braidlm.tasks.choose import with_tasks
from braidlm.tasks.filtering import calibrated, mamba_layers, slowest, told
from tests.tasks.models import recipe, saved_run

BYTES = ByteTokenizer()
ALL = TokenFilter(min_decay=1e-30)


@pytest.fixture
def run(tmp_path) -> Run:
    return saved_run(tmp_path)


def ask(folder, length: int, token_filter: TokenFilter | None) -> dict:
    config = recipe(folder)
    torch.manual_seed(0)
    task = MQARTask(n_items=6, length=length, n_pairs=(2,), token_filter=token_filter)
    return run_task(task, HybridLM(config.spec), BYTES, config)


def test_nothing_changes_up_to_the_trained_length(tmp_path):
    # The longest document of a row: an item of 24 tokens, or the 32 of a row of text.
    for length in (24, 32):
        plain, filtered = (ask(tmp_path, length, f) for f in (None, ALL))
        kept = filtered.pop("token_filter")
        assert filtered == plain
        assert (kept["channels"], kept["global"], kept["kept"]) == (4, 4, 1.0)


def test_beyond_it_tokens_are_skipped_and_the_result_says_how_many(tmp_path):
    plain, filtered = (ask(tmp_path, 128, f) for f in (None, ALL))
    kept = filtered["token_filter"]
    assert 0 < kept["kept"] < 0.5  # a quarter of what dt sums up to, on text
    assert kept["layers"] == [
        {"layer": "blocks.0.mix.mixer", "channels": 4, "global": 4, "kept": kept["kept"]}
    ]
    assert filtered["metrics"]["answer_nll"] != plain["metrics"]["answer_nll"]
    assert "token_filter" not in plain
    longer = ask(tmp_path, 512, ALL)["token_filter"]["kept"]
    assert longer < kept["kept"]


def test_no_channel_may_be_global(tmp_path):
    filtered = ask(tmp_path, 128, TokenFilter(min_decay=1 - 1e-12))
    assert filtered.pop("token_filter")["layers"][0] == {
        "layer": "blocks.0.mix.mixer",
        "channels": 4,
        "global": 0,
        "kept": None,
    }
    assert filtered == ask(tmp_path, 128, None)


def test_the_model_is_left_as_it_was(tmp_path):
    config = recipe(tmp_path)
    model = HybridLM(config.spec)
    tokens = torch.randint(300, (1, 128))
    with torch.no_grad():
        before = model(tokens).hidden
    task = MQARTask(n_items=2, length=128, token_filter=ALL)
    run_task(task, model, BYTES, config)
    (layer,) = mamba_layers(model).values()
    assert layer.step_rule is None
    with torch.no_grad():
        assert torch.equal(model(tokens).hidden, before)


def test_rows_of_the_training_calibrate(tmp_path):
    config = recipe(tmp_path)
    model = HybridLM(config.spec)
    layers = mamba_layers(model)
    with torch.no_grad():
        one = calibrated(model, layers, ALL, config)
        again = calibrated(model, layers, ALL, config)
        more = calibrated(model, layers, TokenFilter(n_rows=9), config)
    lengths = torch.tensor([100])
    limits = [found["blocks.0.mix.mixer"].limits(lengths) for found in (one, again, more)]
    assert one["blocks.0.mix.mixer"].length == 32
    assert torch.equal(limits[0], limits[1])
    assert not torch.equal(limits[0], limits[2])


def test_the_slowest_column_decides(tmp_path):
    config = recipe(tmp_path)
    spec = config.spec.model_validate(
        {**config.to_dict()["model"], "pattern": "SM", "mixers": {"S": {"d_state": 3}, "M": {}}}
    )
    mamba1, mamba2 = mamba_layers(HybridLM(spec)).values()
    with torch.no_grad():
        mamba1.dynamics.A_log[0] = torch.tensor([5.0, 2.0, 7.0]).log()
    rates = slowest(mamba1)
    assert rates.shape == (32,)
    assert torch.allclose(rates[:2], torch.tensor([2.0, 1.0]))
    assert torch.allclose(slowest(mamba2), mamba2.dynamics.A_log.exp())


def test_a_run_is_asked_with_it_from_the_command_line(run):
    (plain,) = evaluate(run.path, ["mqar"], overrides=["tasks.recall.length=96"])
    change = ["tasks.recall.length=96", "tasks.recall.token_filter.min_decay=1e-30"]
    (found,) = evaluate(run.path, ["mqar"], overrides=change)
    assert found["token_filter"]["global"] == 4
    unlike = [path for path, _, _ in differences(plain["task"], found["task"], "task")]
    assert unlike == ["task.config.token_filter"]  # which `report.treatments` allows
    assert found["metrics"]["answer_nll"] != plain["metrics"]["answer_nll"]
    assert "token filter: 4 of 4 channels are global; they keep" in card(found)
    assert json.loads((run.results_dir / "mqar-recall.json").read_text()) == found
    (kept,) = evaluate(run.path, ["mqar"], overrides=change)
    assert kept == found  # not measured again


@pytest.mark.parametrize("change", ["token_filter={}", "token_filter.n_rows=5"])
def test_a_built_in_task_is_asked_with_it(run, change):
    recipe, added = with_tasks(Run.open(run.path), None, [f"tasks.copying.{change}"], ["copying"])
    assert added == ["copying-copying"]
    assert recipe.tasks[-1].token_filter == TokenFilter()


def test_what_was_kept_survives_an_interruption(run, monkeypatch):
    from braidlm.tasks import scoring

    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 2 * 96)
    change = ["tasks.recall.length=96", "tasks.recall.token_filter.min_decay=1e-30"]
    (whole,) = evaluate(run.path, ["mqar"], overrides=change, batch_size=3)

    def stop(name: str, done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(run.path, ["mqar"], None, stop, overrides=change, batch_size=3, force=True)
    (rest,) = evaluate(run.path, ["mqar"], overrides=change, batch_size=3)
    assert rest["token_filter"] == whole["token_filter"]


def test_batches_add_up():
    batches = [{"a": [4, 2, 3, 10], "b": [4, 0, 0, 0]}, {"a": [4, 2, 1, 10], "b": [4, 0, 0, 0]}]
    assert told(batches)["token_filter"] == {
        "channels": 8,
        "global": 2,
        "kept": 0.2,
        "layers": [
            {"layer": "a", "channels": 4, "global": 2, "kept": 0.2},
            {"layer": "b", "channels": 4, "global": 0, "kept": None},
        ],
    }
    assert told([{}, {}]) == {}


def test_a_model_without_a_mamba_layer_is_refused(tmp_path):
    config = recipe(tmp_path)
    spec = config.spec.model_validate(
        {**config.to_dict()["model"], "pattern": "*", "mixers": {"*": {"head_dim": 8}}}
    )
    config = config.model_copy(update={"spec": spec})
    task = LMTask(token_filter=ALL)
    with pytest.raises(InputError, match=r"task 'held-out': token_filter needs a Mamba.*'\*' has"):
        run_task(task, HybridLM(spec), BYTES, config)


def test_windows_that_are_read_in_pieces_are_refused():
    fields = {"kind": "longtext", "lengths": [512], "token_filter": {}}
    assert LongTextTask.of({**fields, "tokens_at_once": 512}).token_filter == TokenFilter()
    with pytest.raises(InputError, match="tokens_at_once = 511: token_filter needs windows"):
        LongTextTask.of({**fields, "tokens_at_once": 511})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"min_decay": 0}, "token_filter.min_decay"),
        ({"min_decay": 1.0}, "token_filter.min_decay = 1.0"),
        ({"clamp_percent": 100.0}, "token_filter.clamp_percent = 100.0"),
        ({"n_rows": 0}, "token_filter.n_rows = 0"),
        ({"decay": 0.1}, "unknown field 'decay'"),
    ],
)
def test_a_wrong_field_is_one_sentence(fields, said):
    with pytest.raises(InputError) as caught:
        MQARTask.of({"kind": "mqar", "token_filter": fields})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_that_are_gone_are_named(run, tmp_path):
    for path in (tmp_path / "texts").iterdir():
        path.unlink()
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.unlink()
    change = ["tasks.recall.length=96", "tasks.recall.token_filter.min_decay=1e-30"]
    with pytest.raises(InputError, match="texts"):
        evaluate(run.path, ["mqar"], overrides=change)
    assert evaluate(run.path, ["mqar"])
    assert checkpoint.latest(run.path).is_dir()
