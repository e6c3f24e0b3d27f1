from types import SimpleNamespace

from braidlm.train.tally import Tally


def batch(counts, tokens):
    return SimpleNamespace(source_counts=counts, source_tokens=tokens)


def test_what_was_read_is_counted_by_source_and_travels():
    tally = Tally()
    tally.add(batch({"b": 2}, {"b": (20, 7)}))
    tally.add(batch({"a": 1, "b": 1}, {"a": (10, 9), "b": (9, 3)}))
    again = Tally()
    again.load(dict(tally.rows), tally.state())
    for each in (tally, again):
        told = each.told(lambda rows: {name: 5 * n for name, n in rows.items()})
        assert told == {
            "sources": {"a": 1, "b": 3},
            "source_tokens": {
                "a": {"input": 10, "loss": 9, "unique": 5},
                "b": {"input": 29, "loss": 10, "unique": 15},
            },
        }
    assert tally.told(None)["source_tokens"]["a"]["unique"] is None


def test_a_checkpoint_without_tokens_gives_its_rows():
    tally = Tally()
    tally.load({"a": 4}, {})
    assert tally.told(None)["sources"] == {"a": 4}
