"""What a source of paraphrases may say, and the one sentence where it may not."""

import pytest

from braidlm.arch.experiment import DataConfig
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.errors import InputError

WRONG = [
    ({"layout": "far"}, "layout = 'far': needs gap_documents or gap_tokens above 0"),
    (
        {"gap_documents": 2, "gap_tokens": 9},
        "gap_documents = 2, gap_tokens = 9: one of the two must be 0",
    ),
    ({"second": "partial"}, "second = 'partial': needs part below 1"),
    (
        {"layout": "plain", "second": "repeat"},
        "second = 'repeat': layout = 'plain' has no second text",
    ),
    ({"gap_tokens": 64, "length": 64}, "gap_tokens = 64: must be less than length = 64"),
    ({"fraction": 1.5}, "fraction"),
    ({"length": 300}, "source 'paraphrase': length = 300 is longer than seq_len = 256"),
    ({"layot": "far"}, "unknown field 'layot' (did you mean 'layout'?)"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG)
def test_what_cannot_be_is_refused_in_a_sentence(fields, said):
    with pytest.raises(InputError) as caught:
        DataConfig.of({"sources": [{"kind": "paraphrase", "path": "p", **fields}]})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["after", "before", "far", "plain", "separate"])
def test_arms_differ_in_two_fields_alone(layout):
    frame = {"path": "p", "gap_documents": 2, "part": 0.5, "loss": "second"}
    source = ParaphraseSource.of({**frame, "layout": layout})
    assert source.has_second == (layout in ("after", "before", "far"))
    if source.has_second:
        for second in ("partial", "repeat", "unrelated"):
            ParaphraseSource.of({**frame, "layout": layout, "second": second})
