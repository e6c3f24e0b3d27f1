"""Biographies as training data: every document once an epoch, nothing in it that is held out."""

import json

import numpy as np
import pytest

from braidlm.arch.biographies import BiographiesSource, Telling
from braidlm.arch.experiment import DataConfig
from braidlm.arch.tasks.biographies import AskedForm
from braidlm.cli.main import main
from braidlm.data.biographies.asked import Asker
from braidlm.data.biographies.attributes import ATTRIBUTES
from braidlm.data.biographies.documents import MemorySplit, documents
from braidlm.data.biographies.form import naming
from braidlm.data.biographies.told import Teller
from braidlm.data.inspection import inspect
from braidlm.data.paraphrase.folder import read_manifest, read_pairs
from braidlm.data.prepare import build
from braidlm.data.streams import RowMixture

from ...tasks.models import BYTES

SOURCE = BiographiesSource(n_people=30, n_biographies=3, naming="always", questions=0.5)
FORMS: tuple[AskedForm, ...] = ("recited", "told", "others", "new", "question", "new_question")


def test_what_is_asked_stands_in_training_or_does_not_as_its_form_says():
    by_person: dict[str, str] = {}
    for told in documents(SOURCE):
        person = told.id.split("/")[1].split("#")[0]
        by_person[person] = f"{by_person.get(person, '')}\n{told.text}"
    everything, teller = "\n".join(by_person.values()), Teller(SOURCE)
    is_asked = teller.is_asked(SOURCE.questions)
    assert 0 < is_asked.sum() < 30
    asker, found = Asker(teller, 3, 3), dict.fromkeys(FORMS, 0)
    for number in range(30):
        own = by_person[str(number)]
        for asked in asker.asked(number, FORMS):
            found[asked.form] += 1
            told = f"{asked.prompt} {asked.answer}".lstrip()
            if asked.form in ("recited", "told"):
                assert told in own
            else:
                is_in_training = asked.form == "question" and is_asked[number]
                assert is_in_training or told not in everything
            if asked.form in ("new", "new_question", "others"):
                assert asked.prompt not in own
            if asked.form == "question" and not is_asked[number]:
                assert "Question:" not in own
    assert all(n > 0.9 * 30 * len(ATTRIBUTES) for n in found.values())


def test_no_form_and_no_name_that_is_held_out_stands_in_training():
    """Whole worlds, not only what a task happens to draw."""
    everything = "\n".join(told.text for told in documents(SOURCE))
    people = [Teller(SOURCE).world.person(number) for number in range(30)]
    for person in people:
        words = naming(person.name, person.is_female)
        for attribute in ATTRIBUTES:
            forms = attribute.forms
            for form in forms.new:
                assert form.before.format_map(words) not in everything
            for question in forms.newly_asked:
                assert question.format_map(words) not in everything
    strangers = Teller(Telling(), "held_out").world
    assert not any(strangers.person(i).name in everything for i in range(1000))


def test_an_epoch_holds_every_document_once_and_ends_again(tmp_path):
    data = DataConfig(seq_len=128, sources=(SOURCE,), cache_dir=str(tmp_path))
    rows = RowMixture(data, seed=2)
    stream = rows.streams[0]
    texts = {told.id: told.text for told in documents(SOURCE)}
    split = MemorySplit(documents(SOURCE), BYTES)
    n_rows = -(-int(split.lengths.sum()) // 128)
    got = {}
    for number in range(n_rows):
        row, at = stream.row(number), 0
        for document, start, stop in row.pieces:
            got.setdefault(document, {})[start] = row.tokens[at : at + stop - start]
            at += stop - start
    whole = {split.ids[d]: np.concatenate([p[s] for s in sorted(p)]) for d, p in got.items()}
    assert {name: BYTES.decode(ids[1:-1]) for name, ids in whole.items()} == texts
    assert all((ids[0], ids[-1]) == (BYTES.bos_id, BYTES.eos_id) for ids in whole.values())
    assert (stream.row(n_rows).tokens != stream.row(0).tokens).any()
    [shown] = inspect(data, 1)
    assert shown["kind"] == "biographies"
    assert shown["pieces"][0]["document"].startswith("person/")
    [told] = build(data)["sources"]
    assert told["train"] == {
        "documents": len(texts),
        "tokens": int(split.lengths.sum()),
        "bytes": sum(len(text.encode()) for text in texts.values()),
    }


def test_training_seeds_read_one_world_in_another_order(tmp_path):
    data = DataConfig(seq_len=64, sources=(SOURCE,), cache_dir=str(tmp_path))
    a, b = RowMixture(data, seed=0), RowMixture(data, seed=1)
    assert (a.row(0).row.tokens != b.row(0).row.tokens).any()
    kept = [MemorySplit(documents(SOURCE), BYTES).read(3, 0, 40).tolist() for _ in range(2)]
    assert kept[0] == kept[1]


def test_the_command_writes_texts_with_paraphrases_and_facts(tmp_path, capsys):
    out = tmp_path / "people"
    words = ["paraphrase", "--method", "biographies", "--out", str(out), "--seed", "3", "--quiet"]
    sets = ["--set", "n_people=12", "--set", "n_paraphrases=3", "--set", "naming=always"]
    assert main([*words, *sets]) == 0
    teller = Teller(Telling(n_people=12, world_seed=3, naming="always"))
    pairs = list(read_pairs(out))
    assert [pair.id for pair in pairs[2:4]] == ["person/0#2", "person/1#0"]
    for pair in pairs:
        person, k = pair.id.removeprefix("person/").split("#")
        assert pair.text == teller.biography(int(person)).text
        assert pair.paraphrase == teller.biography(int(person), int(k) + 1).text
    assert read_manifest(out)["counts"]["accepted"] == 36
    facts = [json.loads(line) for line in (out / "facts.jsonl").read_text().splitlines()]
    assert len(facts) == 12 * len(ATTRIBUTES)
    for fact in facts:
        told = [t for p in pairs if p.text_id == fact["person"] for t in (p.text, p.paraphrase)]
        assert all(fact["answer"] in text and fact["name"] in text for text in told)
        assert not any(prompt in text for prompt in fact["sentences"] for text in told)
        assert len(fact["questions"]) == 8
    before = (out / "pairs.jsonl").read_bytes()
    assert main([*words, *sets]) == 0  # again: nothing is done twice
    assert (out / "pairs.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["n_paraphrases=3", "n_forms=3"], "n_paraphrases = 3: must be below n_forms = 3"),
        (["n_people=0"], "n_people = 0: input should be greater than 0"),
        (["people=3"], "unknown field 'people'"),
        (["order=random"], "order = 'random'"),
        (["n_people=4000000"], "n_people = 4000000: input should be less than or equal to 3000000"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, capsys, sets, says):
    words = ["paraphrase", "--method", "biographies", "--out", str(tmp_path / "x")]
    assert main([*words, *(word for text in sets for word in ("--set", text))]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x" / "pairs.jsonl").exists()
