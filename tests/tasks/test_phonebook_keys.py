"""Several look-ups at once asked of readers, one of which reads only the end of the book."""

import json

import pytest

from braidlm.arch.tasks import PhonebookKeysTask
from braidlm.cli.main import main
from braidlm.errors import InputError
from braidlm.tasks import describe, run_task
from tests.tasks.models import BYTES, Speaker, recipe, saved_run


class Reader(Speaker):
    """Looks the names of the last line up; `first` leaves out what stands before in the book."""

    def __init__(self, first: int = 0) -> None:
        super().__init__()
        self.first = first

    def hears(self, text: str) -> bool:
        return ":" in text.rsplit("\n", 1)[1]

    def say(self, text: str) -> str:
        book, asked = text.split("\n\n")
        known = dict(line.split(": ") for line in book.splitlines()[self.first :])
        names, _, said = asked.rsplit("\n", 1)[1].partition(":")
        whole = " " + ", ".join(known.get(name, "0" * 7) for name in names.split(", "))
        return whole[len(said) :]


def test_a_reader_is_right_and_a_late_one_in_part(tmp_path):
    task = PhonebookKeysTask(n_items=6, lengths=(512, 700), n_keys=3)
    found = run_task(task, Reader(), BYTES, recipe(tmp_path))
    assert (found["metric"], found["value"], found["n"]) == ("string_match_all", 1.0, 12)
    assert [row["length"] for row in found["tables"]["by_length"]] == [512, 700]
    assert found["seq_len"] <= 700
    late = run_task(task, Reader(first=8), BYTES, recipe(tmp_path))
    assert 0.2 < late["value"] < 0.9


def test_depth_is_where_the_names_stand(tmp_path):
    task = PhonebookKeysTask(n_items=3, n_keys=2, depths=(0.0, 100.0))
    found = run_task(task, Reader(first=4), BYTES, recipe(tmp_path))
    rows = {row["depth"]: row["string_match_all"] for row in found["tables"]["by_group"]}
    assert rows == {0.0: 0.0, 100.0: 1.0}


def test_the_command_asks_and_refuses(tmp_path, capsys):
    run = saved_run(tmp_path)
    words = ["eval", str(run.path), "--tasks", "phonebook_keys"]
    words += ["--set", "tasks.phonebook_keys.n_items=2"]
    assert main([*words, "--lengths", "512"]) == 0
    stem = "phonebook_keys-phonebook_keys"
    result = json.loads((run.results_dir / f"{stem}.json").read_text())
    assert result["metric"] == "string_match_all"
    assert main([*words, "--lengths", "256"]) == 2
    assert "task 'phonebook_keys': length = 256: must be at least" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"depths = \[101.0\]: must be from 0 to 100"):
        PhonebookKeysTask(depths=(101.0,))
    with pytest.raises(ValueError, match="every value may stand there once"):
        PhonebookKeysTask(lengths=(512, 512))
    assert ", " in describe(PhonebookKeysTask(), recipe(tmp_path), BYTES).rsplit("\n", 1)[1]
    with pytest.raises(InputError, match="only 10 entries of 1 digits differ, too few"):
        run_task(PhonebookKeysTask(n_digits=1), Reader(), BYTES, recipe(tmp_path))
