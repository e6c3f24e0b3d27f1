"""The page of paraphrases: samples, marks, counts, and texts that are full of markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from braidlm.errors import InputError
from braidlm.report.paraphrases import N_ACCEPTED, N_REJECTED, build


def folder_of(path: Path, accepted, rejected=(), **manifest) -> Path:
    """A folder as `braid paraphrase` leaves it: (text, paraphrase) and (text, paraphrase, why)."""
    reasons: dict[str, int] = {}
    with open(path / "pairs.jsonl", "w") as file:
        for i, (text, paraphrase) in enumerate(accepted):
            row = {"id": f"a{i}#0", "text": text, "paraphrase": paraphrase}
            file.write(json.dumps({**row, "scores": {"distance": 0.25}}) + "\n")
    with open(path / "rejected.jsonl", "w") as file:
        for i, (text, paraphrase, reason) in enumerate(rejected):
            kind = reason.partition(":")[0]
            reasons[kind] = reasons.get(kind, 0) + 1
            row = {"id": f"r{i}#0", "text": text, "paraphrase": paraphrase, "scores": {}}
            file.write(json.dumps({**row, "reason": reason}) + "\n")
    counts = {"read": 9, "texts": 7, "accepted": len(accepted), "rejected": reasons}
    header = {"method": "rules", "settings": {}, "seed": 0, "source": {"path": "x"}, "gate": {}}
    about = {**header, "counts": counts, "is_complete": True, "code_version": "0", **manifest}
    (path / "manifest.json").write_text(json.dumps(about))
    return path


class Cells(HTMLParser):
    """Gathers the text of each table cell, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []
        self._is_open = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("td", "th"):
            self._is_open = True
            self.cells.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._is_open = False

    def handle_data(self, data):
        if self._is_open:
            self.cells[-1] += data


def test_what_differs_is_marked_on_its_side(tmp_path):
    page = build(folder_of(tmp_path, [("The big cat sat.", "The large cat sat.")])).read_text()
    assert "The <del>big</del> cat sat." in page
    assert "The <ins>large</ins> cat sat." in page
    assert "9 texts read, 1 paraphrases of 7 texts accepted, 0 rejected." in page


def test_a_text_without_a_paraphrase_is_not_struck_out(tmp_path):
    page = build(folder_of(tmp_path, [], [("The cat sat.", "", "failed: x")])).read_text()
    assert "The cat sat." in Cells(page).cells
    assert "<del>The" not in page


def test_markup_in_texts_is_text(tmp_path):
    bad = '<script>alert(1)</script> <img src=x onerror="alert(2)"> </td></table> &amp; \u2028'
    plain = build(folder_of(tmp_path, [("a", "b")], [("a", "b", "names: c")])).read_text()
    page = build(folder_of(tmp_path, [(bad, bad + "!")], [(bad, "", f"names: {bad}")])).read_text()
    found = Cells(page)
    assert found.tags.count("script") == Cells(plain).tags.count("script")
    assert "img" not in found.tags
    assert bad in found.cells
    assert bad + "!" in found.cells


def test_samples_are_bounded_and_every_reason_has_its_own(tmp_path):
    accepted = [(f"text {i}", f"other {i}") for i in range(200)]
    rejected = [(f"t {i}", "x", f"{'names' if i % 3 else 'numbers'}: {i}") for i in range(300)]
    page = build(folder_of(tmp_path, accepted, rejected)).read_text()
    assert len(re.findall(r">a\d+#0<", page)) == N_ACCEPTED
    assert len(re.findall(r">r\d+#0<", page)) == 2 * N_REJECTED
    assert "<summary>names: 200</summary>" in page
    assert "<summary>numbers: 100</summary>" in page
    assert build(tmp_path).read_text() == page


def test_a_long_text_is_cut(tmp_path):
    page = build(folder_of(tmp_path, [("word " * 5000, "other")])).read_text()
    assert page.count("word ") < 500


def test_an_unfinished_folder_says_so_and_no_folder_is_refused(tmp_path):
    page = build(folder_of(tmp_path, [], is_complete=False)).read_text()
    assert "Unfinished" in page
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        build(tmp_path)
