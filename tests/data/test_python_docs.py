import sys

import pytest

from braidlm.arch.sources import TextSource
from braidlm.data import python_docs
from braidlm.data.corpora import read_corpus


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setattr(python_docs, "_library", lambda: tmp_path)
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data/topics.py").write_text(
        "topics = {'while': 'Loops.', 'if': 'Branches.'}"
    )
    (tmp_path / "a.py").write_text(
        '"""Module a."""\nraise SystemExit("imported")\n'
        'class C:\n    """A class."""\n    def f(self):\n        """Says\n        f."""\n'
        'if True:\n    async def g():\n        """Says g."""\n'
    )
    (tmp_path / "b.py").write_text('def f():\n    """Says g."""\ndef h():\n    """New \\d."""\n')
    (tmp_path / "c.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test/t.py").write_text('"""Left out."""')
    return tmp_path


def test_documents_are_parsed_in_order_and_never_imported(library):
    found = [(d.id, d.text) for d in read_corpus(TextSource(path="python-docs"))]
    assert found == [
        ("a.py", "Module a.\n\nC\nA class.\n\nC.f\nSays\nf.\n\ng\nSays g."),
        ("b.py", "h\nNew \\d."),
        ("topics/if", "Branches."),
        ("topics/while", "Loops."),
    ]


@pytest.mark.slow
def test_this_machine_has_real_english():
    before = set(sys.modules)
    found = list(read_corpus(TextSource(path="python-docs")))
    assert found == list(read_corpus(TextSource(path="python-docs")))
    assert len({d.id for d in found}) == len(found) > 500
    assert sum(len(d.text) for d in found) > 2_000_000
    assert sum(d.text.count(" the ") for d in found) > 5_000
    assert not {"idlelib.pyshell", "turtledemo", "antigravity"} & (set(sys.modules) - before)
