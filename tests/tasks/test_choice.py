"""Multiple choice in three formats and several wordings, through models that know what they say."""

import json
import math

import numpy as np
import pytest
import torch

from braidlm.arch.tasks import ChoiceTask
from braidlm.arch.tasks.choice import ChoiceTemplate, Format
from braidlm.cli.main import main
from braidlm.data.choice import Choice, choices
from braidlm.data.choice_templates import WORDINGS, prompt
from braidlm.errors import InputError
from braidlm.items import read_items
from braidlm.report.versus import compare
from braidlm.tasks import evaluate
from braidlm.tasks.ask import ask, in_order
from braidlm.tasks.choice import ChoiceWork, judged
from braidlm.tasks.partial import Partial
from tests.tasks.harness.files import mmlu
from tests.tasks.models import BYTES, Speaker, recipe, saved_run

BONE = Choice("1", "Which bone?", ("skull", "femur", "rib"), 1, "human_anatomy")
STAR = Choice("2", "Which star?", ("sun", "moon"), 0, "human_anatomy")
LISTED = "Which bone?\nA. skull\nB. femur\nC. rib\nAnswer:"


class Always(Speaker):
    """Says the same, whatever is asked, where an answer is due."""

    reach = 10**6

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    def say(self, text: str) -> str:
        tail = max((n for n in range(len(self.said)) if text.endswith(self.said[:n])), default=0)
        return self.said[tail:]


@pytest.fixture
def folder(tmp_path):
    return mmlu(tmp_path / "data")


def _summary(task: ChoiceTask, model: torch.nn.Module, tmp_path) -> tuple[dict, list[dict]]:
    work = ChoiceWork(task, BYTES, recipe(tmp_path))
    rows = in_order(
        work.batches, ask(work, work.batches, lambda: model, Partial(None, {}), "fp32", None)
    )
    return work.summary(rows), rows


def test_three_formats_of_one_question():
    head = "The following are multiple choice questions (with answers) about human anatomy.\n\n"
    shown = "Which star?\nA. sun\nB. moon\nAnswer: A\n\n"
    assert prompt(BONE, [STAR], "standard", "letters") == (
        head + shown + LISTED,
        [" A", " B", " C"],
    )
    context, answers = prompt(BONE, [STAR], "standard", "letters_and_text")
    assert context == head + shown.replace("Answer: A", "Answer: A. sun") + LISTED
    assert answers == [" A. skull", " B. femur", " C. rib"]
    context, answers = prompt(BONE, [STAR], "standard", "cloze")
    assert context == (
        "The following are questions (with answers) about human anatomy.\n\n"
        "Question: Which star?\nAnswer: sun\n\nQuestion: Which bone?\nAnswer:"
    )
    assert answers == [" skull", " femur", " rib"]


@pytest.mark.parametrize("form", ["letters", "letters_and_text", "cloze"])
def test_every_wording_differs_and_holds_all_that_is_asked(form: Format):
    found = [prompt(BONE, [STAR], template, form) for template in WORDINGS]
    contexts = [context for context, _ in found]
    if form == "cloze":  # the labels are not shown there
        assert len(set(contexts)) == 3
    else:
        assert len(set(contexts)) == len(WORDINGS)
        assert all(option in context for context in contexts for option in BONE.options)
    for context, answers in found:
        assert "Which bone?" in context
        assert context.index("Which star?") < context.index("Which bone?")
        assert not context[-1].isspace()
        assert len(set(answers)) == 3
        assert all(answer[0] == " " for answer in answers)


def test_the_prompts_are_those_of_the_harness(folder):
    pytest.importorskip("lm_eval")
    from pathlib import Path

    import lm_eval.tasks

    from braidlm.arch.tasks import HarnessTask
    from braidlm.tasks.harness.find import Leaf, _index, make

    root = Path(str(lm_eval.tasks.__file__)).parent / "mmlu"
    forms: dict[Format, tuple[str, str]] = {
        "letters": ("default", ""),
        "cloze": ("continuation", "_continuation"),
    }
    for form, (place, ending) in forms.items():
        name = f"mmlu_anatomy{ending}"
        entry = _index(root / place)[name]
        task = HarnessTask(name="x", task=name, path=str(folder), num_fewshot=5)
        made = make(Leaf(name, entry.yaml_path, entry.cfg or {}), task)
        theirs = []
        for doc in made.task.task_docs:
            context = made.task.fewshot_context(doc, num_fewshot=5)
            requests = made.task.construct_requests(doc=doc, ctx=context)
            theirs.append((context, [request.args[1] for request in requests]))
        ours = ChoiceTask(path=str(folder), subjects=("anatomy",), format=form)
        asked = choices(ours)
        examples = asked.examples["anatomy"]
        assert theirs == [prompt(c, examples, "standard", form) for c in asked.questions]


def test_scores_of_a_question():
    found = judged(np.array([-1.0, -2.0, -8.0]), np.array([1, 4, 8]), 1)
    assert found["acc"] == 0
    assert found["acc_norm"] == 1
    assert found["nll"] == 2
    assert found["choice_nll"] == pytest.approx(math.log(1 + math.e + math.exp(-6)))
    assert judged(np.zeros(4), np.ones(4), 2)["acc"] == 0.25


def test_who_always_says_one_letter_is_right_as_often_as_it_is(folder, tmp_path):
    task = ChoiceTask(path=str(folder), n_shots=1)
    found, rows = _summary(task, Always(" B"), tmp_path)
    right = [row["right"] == 1 for row in rows]
    assert [row["acc"] for row in rows] == right
    assert found["value"] == pytest.approx(sum(right) / 7)
    lines = found["tables"]["by_subject"]
    assert [(line["subject"], line["n"]) for line in lines] == [("anatomy", 3), ("astronomy", 4)]
    assert sum(line["acc"] * line["n"] for line in lines) == pytest.approx(sum(right))
    assert [line["over"] for line in found["tables"]["errors"]] == ["questions", "subjects"]
    assert [line["n"] for line in found["tables"]["errors"]] == [7, 2]
    assert found["metrics"]["chance"]["value"] == 0.25
    assert "over_templates" not in found["tables"]


def test_who_knows_one_wording_alone_shows_in_the_spread(folder, tmp_path):
    names: tuple[ChoiceTemplate, ...] = ("standard", "parentheses", "numbers")
    task = ChoiceTask(path=str(folder), n_shots=0, templates=names)
    found, rows = _summary(task, Always(" B"), tmp_path)
    by = {line["template"]: line["acc"] for line in found["tables"]["by_template"]}
    share = sum(row["right"] == 1 for row in rows) / len(rows)
    assert by == pytest.approx({"standard": share, "parentheses": 0.25, "numbers": 0.25})
    (line,) = [x for x in found["tables"]["over_templates"] if x["metric"] == "acc"]
    assert line["mean"] == pytest.approx((share + 0.5) / 3)
    assert line["spread"] == pytest.approx(np.std([share, 0.25, 0.25], ddof=1))
    assert (line["n"], line["n_templates"]) == (7, 3)
    assert found["metrics"]["template_spread"]["value"] == line["spread"]
    assert len(rows) == found["n_items"] == 21
    assert found["n"] == 7


def test_a_run_is_asked_compared_and_drawn(folder, tmp_path, capsys):
    runs = [saved_run(tmp_path / name) for name in ("a", "b")]
    names = ["mmlu", "mmlu_text", "mmlu_cloze"]
    for run, step in zip(runs, ("step-00000001", None), strict=True):
        found = evaluate(run.path, names, step, data=folder)
    assert [result["metric"] for result in found] == ["acc", "acc", "acc_norm"]
    (paired, *_) = compare(runs[0].path, runs[1].path, ["mmlu"])
    assert set(paired["metrics"]) == {"acc", "acc_norm", "choice_nll", "nll"}
    assert len(read_items(runs[1].results_dir, found[0])) == 7
    words = ["eval", str(runs[0].path), "--tasks", "mmlu", "--list"]
    assert main([*words, "--set", f"tasks.mmlu.path={folder}"]) == 0
    assert "Answer: ->  A | [ B] |  C |  D" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "tasks.mmlu.path=nowhere"], "data nowhere must be a folder that exists"),
        (["--set", "tasks.mmlu.n_shots=6"], "split 'dev' of {0} has 5 examples of anatomy"),
        (["--set", 'tasks.mmlu.subjects=["anatomi"]'], "(did you mean 'anatomy'?)"),
        (["--set", 'tasks.mmlu.templates=["new"]'], "input should be 'standard', 'parentheses'"),
        (["--set", 'tasks.mmlu.templates=["bare", "bare"]'], "every value may stand there once"),
        (["--set", "tasks.mmlu.format=roman"], "format = 'roman'"),
    ],
)
def test_a_wrong_field_is_one_sentence(folder, tmp_path, words, says, capsys):
    run = saved_run(tmp_path / "run")
    start = ["eval", str(run.path), "--tasks", "mmlu", "--set", f"tasks.mmlu.path={folder}"]
    assert main([*start, *words]) == 2
    shown = capsys.readouterr().err
    assert says.format(folder) in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (None, "holds no question"),
        ({"question": "?", "subject": "x", "choices": ["a"], "answer": 0}, "two texts or more"),
        (
            {"question": "?", "subject": "x", "choices": ["a", "b"], "answer": 2},
            "none of the choices",
        ),
        ({"question": "?", "subject": "x", "choices": ["a", " "], "answer": 0}, "an empty text"),
        ({"question": "?", "choices": ["a", "b"], "answer": 0}, 'no field "subject"'),
    ],
)
def test_a_record_that_asks_nothing_is_named(tmp_path, record, says):
    (tmp_path / "mmlu").mkdir()
    text = "" if record is None else json.dumps(record)
    (tmp_path / "mmlu" / "test.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"test\.jsonl") as error:
        choices(ChoiceTask(path=str(tmp_path)))
    assert says in str(error.value)


def test_letters_of_a_record_are_read(tmp_path):
    (tmp_path / "arc_easy").mkdir()
    record = {"question": " Q? ", "choices": {"text": ["x", "y"], "label": ["1", "2"]}}
    (tmp_path / "arc_easy" / "test.jsonl").write_text(json.dumps({**record, "answerKey": "2"}))
    asked = choices(ChoiceTask.of({"dataset": "arc_easy", "path": str(tmp_path)}))
    assert asked.questions == [Choice("1", "Q?", ("x", "y"), 1)]
