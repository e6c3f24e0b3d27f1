"""lm-evaluation-harness's tasks as tasks of ours, over files, against its own evaluation."""

import gzip
import json
import math
import socket
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from braidlm.arch.tasks import HarnessTask
from braidlm.arch.tasks.builtin import HARNESS, builtin
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.items import read_items
from braidlm.report.versus import compare
from braidlm.runs import Run
from braidlm.tasks import evaluate
from braidlm.tasks.harness.find import find, make
from braidlm.tasks.harness.model import register
from braidlm.tasks.harness.work import HarnessWork
from tests.house import blocks
from tests.tasks.harness.files import data_folder, mmlu
from tests.tasks.models import saved_run

GENERATES = """\
task: colours
dataset_path: nobody/colours
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{colour}}"
generation_kwargs: {until: ["."], max_gen_toks: 6}
filter_list:
  - name: first
    filter: [{function: take_first}]
  - name: lower
    filter: [{function: lowercase}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 7.0}
"""
ROLLS = """\
task: prose
dataset_path: nobody/prose
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module", autouse=True)
def _its_files_are_read_once():
    """Every manager of tasks reads the ten thousand files of the harness anew."""
    from lm_eval.tasks import _index

    build, folder = _index.TaskIndex.build, Path(_index.__file__).parent

    @cache
    def whole() -> dict:
        return build([folder])

    def read(paths: Iterable[Path], **settings: bool) -> dict:
        paths = list(paths)
        is_whole = paths == [folder] and not settings
        return dict(whole()) if is_whole else build(paths, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_index.TaskIndex, "build", staticmethod(read))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return saved_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data"))


def _theirs(run: Run, task: HarnessTask) -> dict:
    """What the harness's own evaluation says of the same run and the same task."""
    from lm_eval import evaluator

    made = [make(leaf, task) for leaf in find(task.task).leaves]
    tasks = {one.name: one.task for one in made}
    found = evaluator.evaluate(
        lm=register()(run=str(run.path)),
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        bootstrap_iters=0 if task.task == "lambada_openai" else 10,
    )
    assert found is not None
    return found.get("results", {})


FAST = ("piqa", "arc_easy", "winogrande", "lambada_openai", "truthfulqa_mc1")
EACH = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in HARNESS]


@pytest.mark.parametrize("name", EACH)
def test_every_built_in_task_scores_as_the_harness_does(name, run, data):
    (found,) = evaluate(run.path, [name], data=data)
    (task,) = builtin(name)
    assert isinstance(task, HarnessTask)
    theirs = _theirs(run, task.model_copy(update={"path": str(data)}))[name]
    for metric, entry in found["metrics"].items():
        if metric not in ("chance", "nll"):
            assert entry["value"] == pytest.approx(theirs[f"{metric},none"], rel=1e-5)
            if entry["unit"] == "share" and entry["value"] not in (0, 1):
                stderr = theirs[f"{metric}_stderr,none"]
                assert stderr == "N/A" or entry["stderr"] == pytest.approx(stderr, rel=1e-5)
    assert (found["n"], found["n_items"], found["is_extrapolated"]) == (5, 5, True)
    rows = read_items(run.results_dir, found)
    assert [row["id"] for row in rows] == [*"01234"]
    assert all(math.isfinite(p) for row in rows for p in row["logprobs"])
    assert len(rows[0]["logprobs"]) == len(rows[0]["is_greedy"])
    assert found["metrics"][found["metric"]]["value"] == pytest.approx(
        sum(row[found["metric"]] for row in rows) / 5
    )


def test_texts_and_answers_are_scored_as_the_harness_does(run, tmp_path):
    rows = [{"text": f"The door {i} is", "colour": "red " * i} for i in range(4)]
    for name, declared in (("colours", GENERATES), ("prose", ROLLS)):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.yaml").write_text(declared)
        (tmp_path / name / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    more = tmp_path / "tasks.toml"
    names = ("colours", "prose")
    more.write_text(
        "".join(
            f'[[tasks]]\nkind = "lm_eval"\nname = "{n}"\ntask = "{tmp_path / n}.yaml"\n'
            for n in names
        )
    )
    found = evaluate(run.path, tasks_file=more, data=tmp_path)
    for result in found:
        task = HarnessTask.of(
            result["task"]["config"] | {"name": result["name"], "path": str(tmp_path)}
        )
        theirs = _theirs(run, task)[result["name"]]
        for metric, entry in result["metrics"].items():
            key = metric if "," in metric else f"{metric},none"
            assert entry["value"] == pytest.approx(theirs[key], rel=1e-5), metric
    colours, prose = found
    assert set(colours["metrics"]) == {"exact_match,first", "exact_match,lower"}
    assert colours["harness"]["tasks"] == {"colours": 7.0}
    assert all("." not in a for r in read_items(run.results_dir, colours) for a in r["answers"])
    assert [entry["unit"] for entry in prose["metrics"].values()] == ["per word", "bits per byte"]


def test_worked_examples_come_from_another_split(run, data, tmp_path):
    task = HarnessTask(name="arc_easy", task="arc_easy", path=str(data), num_fewshot=2)
    (leaf,) = find("arc_easy").leaves
    with pytest.raises(InputError, match=r"arc_easy/train.jsonl .* num_fewshot = 2 needs worked"):
        make(leaf, task)
    there = data_folder(tmp_path / "more")
    lines = (data / "arc_easy" / "test.jsonl.gz").read_bytes()
    (there / "arc_easy" / "train.jsonl.gz").write_bytes(lines)
    made = make(leaf, task.model_copy(update={"path": str(there)}))
    assert (made.n_shots, made.split, made.task.config.num_fewshot) == (2, "test", 2)


def test_an_interrupted_task_goes_on_and_two_runs_are_paired(data, tmp_path, monkeypatch):
    run = saved_run(tmp_path / "one")
    measured, asked = HarnessWork.score, []

    def score(work, model, items):
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.append(list(items))
        return measured(work, model, items)

    monkeypatch.setattr(HarnessWork, "score", score)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run.path, ["piqa"], data=data, batch_size=2)
    monkeypatch.setattr(HarnessWork, "score", lambda *a: asked.append(list(a[2])) or measured(*a))
    (found,) = evaluate(run.path, ["piqa"], data=data, batch_size=2)
    assert sorted(i for batch in asked for i in batch) == list(range(5))
    other = saved_run(tmp_path / "other")
    evaluate(other.path, ["piqa"], "step-00000001", data=data)
    (pairs,) = compare(run.path, other.path, ["piqa"])
    assert set(pairs["metrics"]) == {"acc", "acc_norm"}
    assert found["data"]["splits"] == {"piqa": "validation"}


@pytest.mark.slow
def test_a_group_counts_every_document_the_same(run, tmp_path):
    names = ("anatomy", "astronomy")
    there = mmlu(tmp_path, names)
    tasks = [make(leaf, HarnessTask(task=f"mmlu_{n}", name=n, path=str(there), num_fewshot=5))
             for n in names for leaf in find(f"mmlu_{n}").leaves]  # fmt: skip
    assert [len(made.task.eval_docs) for made in tasks] == [3, 4]
    assert "about anatomy" in tasks[0].task.config.description
    with pytest.raises(InputError, match=r"test.jsonl holds no record with subject ="):
        evaluate(run.path, ["lm_eval:mmlu"], data=there)
    from braidlm.tasks.harness import find as finding

    group = [leaf for leaf in find("mmlu").leaves if leaf.name.removeprefix("mmlu_") in names]
    assert len(find("mmlu").leaves) == 57
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "_leaves", lambda *_: iter(group))
        (found,) = evaluate(run.path, ["lm_eval:mmlu"], data=there)
    lines = found["tables"]["by_task"]
    assert [(line["task"], line["n"]) for line in lines] == [
        ("mmlu_anatomy", 3),
        ("mmlu_astronomy", 4),
    ]
    whole = sum(line["acc"] * line["n"] for line in lines) / 7
    assert found["value"] == pytest.approx(whole)
    with pytest.raises(InputError, match="a mark of several tasks"):
        find("truthfulqa")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("rm", "data file {0}/piqa/validation.jsonl (or .gz, .xz, .zst) does not exist"),
        ("empty", "data file {0}/piqa/validation.jsonl.gz holds no record"),
        ("broken", "file {0}/piqa/validation.jsonl.gz, line 1 is not JSON"),
        ("fields", "validation.jsonl.gz, whose records must have the fields of baber/piqa"),
        ("later", "document 1 of 'piqa' does not have what lm-evaluation-harness reads"),
        ("types", "its records do not have one type"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(run, tmp_path, change, says, capsys):
    there = data_folder(tmp_path / "data")
    file = there / "piqa" / "validation.jsonl.gz"
    texts = {"empty": "", "broken": "{", "fields": '{"goal": 3}\n'}
    texts["types"] = '{"goal": 3}\n{"goal": {"a": "b"}}\n'
    whole = {"goal": "a", "sol1": "b", "sol2": "c", "label": 1}
    texts["later"] = "".join(json.dumps(r) + "\n" for r in (whole, whole | {"sol2": None}))
    file.unlink() if change == "rm" else file.write_bytes(gzip.compress(texts[change].encode()))
    assert main(["eval", str(run.path), "--tasks", "copa,piqa,lm", "--data", str(there)]) == 2
    shown = capsys.readouterr()
    [line] = [x for x in shown.err.strip().splitlines() if "measured already" not in x]
    assert line.startswith("braid: lm_eval-piqa: ")
    assert says.format(there) in line
    assert "lm_eval-copa  step" in shown.out


def test_a_package_that_is_missing_is_named(run, data, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["eval", str(run.path), "--tasks", "piqa,lm", "--data", str(data), "--force"]) == 2
    shown = capsys.readouterr()
    assert "pip install 'braidlm[eval]'" in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert "lm-held-out  step" in shown.out


@pytest.mark.slow
def test_a_name_that_the_harness_does_not_have_is_refused_with_the_nearest(run, capsys):
    assert main(["eval", str(run.path), "--tasks", "lm_eval:helaswag,lm"]) == 2
    shown = capsys.readouterr()
    assert "has no task 'helaswag' (did you mean 'hellaswag'?)" in shown.err
    assert "lm-held-out  step" in shown.out


def test_the_list_draws_the_requests(run, data, capsys):
    words = ["eval", str(run.path), "--tasks", "piqa", "--list", "--set", f"tasks.piqa.path={data}"]
    assert main(words) == 0
    assert "Question: Open the door\nAnswer:[ push]" in capsys.readouterr().out


@pytest.mark.slow
def test_the_harness_command_line_asks_a_run_of_ours(run, tmp_path, monkeypatch, capsys):
    """It hands over a device that this machine need not have."""
    from braidlm.tasks.harness.__main__ import main as theirs

    (tmp_path / "prose.yaml").write_text(ROLLS.replace("nobody/prose", "json"))
    (tmp_path / "prose.jsonl").write_text(json.dumps({"text": "The door is red."}) + "\n")
    with open(tmp_path / "prose.yaml", "a") as file:
        file.write(f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'prose.jsonl'}}}}}\n")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words = ["lm_eval", "--model", "braidlm", "--tasks", str(tmp_path / "prose.yaml")]
    monkeypatch.setattr(sys, "argv", [*words, "--model_args", f"run={run.path}"])
    assert theirs() == 0
    assert "bits_per_byte" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*words, "--model_args", "run=nowhere"])
    assert theirs() == 2
    assert "braidlm: nowhere is not a run directory" in capsys.readouterr().err


def test_the_folder_that_the_page_makes_is_asked_without_the_network(run, tmp_path, capsys):
    page = Path(__file__).parents[3] / "docs" / "tasks.md"
    (block,) = (text for text in blocks(page, "sh") if "mine/piqa/validation.jsonl" in text)
    lines = [line for line in block.splitlines() if line.startswith("{")]
    (tmp_path / "mine" / "piqa").mkdir(parents=True)
    (tmp_path / "mine" / "piqa" / "validation.jsonl").write_text("\n".join(lines) + "\n")
    words = ["eval", str(run.path), "--tasks", "piqa", "--data", str(tmp_path / "mine"), "--json"]
    assert main(words) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["n"], found["metrics"]["chance"]["value"]) == (2, 0.5)
