"""Worked examples in front of a question, and models that need so many of them."""

import numpy as np
import pytest
import torch

from braidlm.analysis.in_context import INSTRUMENT, after_examples
from braidlm.analysis.inputs import Asked, Document, Inputs
from braidlm.analysis.repeats import repeats
from braidlm.data.tokenizer import load_tokenizer
from braidlm.errors import InputError
from tests.analysis.known import look
from tests.analysis.test_twins import BYTES, mqar, phonebook
from tests.tasks.models import VOCAB, Known, Lookup


class Taught(Known):
    """Looks up as `Lookup` does once it has seen `needed` bigrams repeated."""

    def __init__(self, needed: int) -> None:
        super().__init__()
        self.needed, self.inner = needed, Lookup().eval()

    def logits(self, tokens, segments):
        n_repeats = (repeats(tokens[0].numpy())[0] > 0).cumsum()
        is_taught = torch.from_numpy(n_repeats >= self.needed)
        return self.inner.logits(tokens, segments) * is_taught[None, :, None]


def asking(documents):
    return Inputs("x", "recall", {}, documents, BYTES)


def test_own_questions_are_examples():
    inputs = asking(mqar())
    for number, document in enumerate(inputs.documents):
        pairs = {int(document.tokens[asked.query]): asked.answer[0] for asked in document.asked}
        for k in (0, 1, 3):
            made = after_examples(inputs, number, k)
            assert made is not None
            tail = made.tokens[-2 * k - 1 :].tolist()
            shown = dict(zip(tail[:-1:2], tail[1::2], strict=True))
            assert len(shown) == k
            assert shown.items() <= pairs.items()
            assert tail[-1] not in shown
            (asked,) = made.asked
            assert made.tokens[asked.query] == tail[-1]
            assert pairs[tail[-1]] == asked.answer[0] == made.tokens[asked.source[0]]
        assert after_examples(inputs, number, 4) is None


@pytest.mark.parametrize("needed", [0, 1, 2])
def test_a_model_that_needs_examples_is_right_from_so_many_on(needed):
    """The question itself repeats no bigram, an example repeats one."""
    documents = three_pairs()
    found = look(INSTRUMENT, Taught(needed), asking(documents))  # type: ignore[arg-type]
    right = {row["shots"]: row["accuracy"] for row in found.tables["by_shots"]}
    assert set(right) == {0, 1, 2}
    for k, accuracy in right.items():
        assert accuracy == float(k >= needed)
    assert found.metrics["gain"]["value"] == float(needed > 0)
    assert found.metrics["gain"]["n"] == len(documents)
    assert [row["tokens"] for row in found.tables["by_shots"]] == [10, 12, 14]
    assert found.tables["by_shots"][0]["nll"] == pytest.approx(
        0.0 if needed == 0 else np.log(VOCAB), abs=1e-4
    )


def three_pairs():
    """Prompts of three pairs with something behind each: no question follows a value by chance."""
    found = []
    for i in range(12):
        rng = np.random.default_rng(i)
        keys, values = rng.permutation(20)[:3], 40 + rng.permutation(20)[:3]
        pairs = np.stack((keys, values, 80 + np.arange(3)), 1).ravel()
        tokens = np.concatenate((pairs, keys))
        asked = tuple(Asked(9 + j, (int(v),), (3 * j + 1, 3 * j + 2)) for j, v in enumerate(values))
        found.append(Document(str(i), tokens, asked))
    return found


def test_other_prompts_are_examples_and_only_the_first_has_bos():
    inputs = asking(phonebook("standard"))
    alone, made = after_examples(inputs, 0, 0), after_examples(inputs, 0, 2)
    assert alone is not None
    assert made is not None
    assert (alone.tokens == inputs.documents[0].tokens).all()
    assert (made.tokens == BYTES.bos_id).sum() == 1
    assert (made.tokens[-len(alone.tokens) + 1 :] == alone.tokens[1:]).all()
    (asked,) = made.asked
    assert asked.query == len(made.tokens) - 1
    assert tuple(made.tokens[slice(*asked.source)].tolist()) == asked.answer
    text = BYTES.decode(made.tokens)
    for document in inputs.documents[1:]:
        answered = (*document.tokens[1:].tolist(), *document.asked[-1].answer)
        used = BYTES.decode(document.tokens[1:]) in text
        assert (BYTES.decode(np.array(answered)) in text) == used
    assert after_examples(inputs, 0, 5) is None


def test_text_said_twice_gains_what_a_lookup_knows():
    rng = np.random.default_rng(0)
    documents = [Document(str(i), np.tile(rng.permutation(40), 2)) for i in range(4)]
    found = look(INSTRUMENT, Lookup(), Inputs("", "text", {}, documents))  # type: ignore[arg-type]
    # Tokens 5 .. 9 are new; of the last 40 the first one, behind the whole list, cannot be known.
    assert found.metrics["gain"]["value"] == pytest.approx(np.log(VOCAB) * 39 / 40, rel=1e-5)
    rows = found.tables["by_position"]
    assert [(r["start"], r["end"]) for r in rows][-2:] == [(32, 64), (64, 79)]
    assert rows[-1]["loss"] < 1e-4
    assert rows[2]["loss"] == pytest.approx(np.log(VOCAB), rel=1e-5)


def test_what_asks_nothing_is_refused():
    inputs = Inputs("x", "recall", {}, [Document("d", np.arange(5))], load_tokenizer("bytes"))
    with pytest.raises(InputError, match="document 'd' asks nothing"):
        after_examples(inputs, 0, 0)
    with pytest.raises(InputError, match="in-context needs 2 prompts"):
        look(INSTRUMENT, Lookup(), asking(phonebook("standard")[:1]))  # type: ignore[arg-type]
