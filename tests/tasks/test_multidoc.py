"""Questions among documents, asked of models that know where to look."""

import json

from braidlm.arch.tasks import MultiDocTask
from braidlm.tasks.ask import run_task
from tests.tasks.models import BYTES, Speaker, recipe

N = 6


def _task(tmp_path, **fields) -> MultiDocTask:
    path = tmp_path / "nq.jsonl"
    rows = [
        {"question": f"which one is {i}", "answers": [f"B{i}"], "title": f"T{i}"}
        | {"passage": f"the {i} is B{i}."}
        for i in range(N)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return MultiDocTask.of({"path": str(path), "max_new_tokens": 12} | fields)


class _Reader(Speaker):
    """Finds the document of the question where it is one of the last `n_seen`."""

    def __init__(self, n_seen: int) -> None:
        super().__init__()
        self.n_seen = n_seen

    def hears(self, text: str) -> bool:
        return "\nAnswer:" in text

    def say(self, text: str) -> str:
        prompt, _, said = text.rpartition("Answer:")
        asked = prompt.strip()[-1]
        lines = [line for line in prompt.split("\n") if line.startswith("Document [")]
        right = [line for line in lines[-self.n_seen :] if f"the {asked} is" in line]
        whole = f" the b{asked}!" if right else " none"
        return whole[len(said) :] if whole.startswith(said) else ""


def test_accuracy_falls_with_the_distance_for_who_reads_the_last_two_alone(tmp_path):
    task = _task(tmp_path, n_documents=[2, 5], depths=[0, 50, 100])
    found = run_task(task, _Reader(2), BYTES, recipe(tmp_path))
    assert found["metric"] == "best_subspan_em"
    cells = {
        (r["documents"], r["depth"]): r["best_subspan_em"] for r in found["tables"]["by_group"]
    }
    assert cells == {(2, 0): 1, (2, 50): 1, (2, 100): 1, (5, 0): 0, (5, 50): 0, (5, 100): 1}
    assert [r["best_subspan_em"] for r in found["tables"]["by_depth"]] == [0.5, 0.5, 1]
    assert found["metrics"]["squad_em"]["value"] == found["value"]  # "the b3!" is "B3" to SQuAD
    assert found["metrics"]["without_context"]["value"] == 0
    assert found["n"] == N  # a question at six places is one


def test_who_reads_all_has_a_full_score(tmp_path):
    task = _task(tmp_path, lengths=[400], depths=[0, 100], question_first=True, reads=2)
    found = run_task(task, _Reader(99), BYTES, recipe(tmp_path))
    assert found["value"] == 1
    assert found["data"]["dataset"] == "nq"
