"""Windows of texts and paraphrases: what stands where, what is learnt, and that arms are equal."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.data.mixture import Mixture
from braidlm.data.packing import IGNORE, Row
from braidlm.data.paraphrase_stream import ParaphraseStream
from braidlm.data.paraphrase_windows import Window

from .folders import ARMS, T, declared, in_memory, pairs_of, stream_of, text_of, write_folder

BOS, EOS = T.bos_id, T.eos_id
THREE = [("a#0", "Aa bb. C d.", "Z aa. Bb."), ("b#0", "Ee.", "Ff gg.")]
THREE += [("c#0", "Hh ii jj.", "Kk ll mm nn.")]
HAND = {
    ("after", "paraphrase"): "<Hh ii jj./[Kk ll mm ]nn./Aa bb. C d./Ee./Aa bb. C d./",
    ("before", "paraphrase"): "<Kk ll mm nn./[Hh ii jj.]/Aa bb. C d./Ee./Aa bb. C d./",
    ("far", "paraphrase"): "<Hh ii jj./Aa bb. C d./[Kk ll mm ]nn./Ee./Aa bb. C d./",
    ("after", "repeat"): "<Hh ii jj./[Hh ii jj.]/Aa bb. C d./Ee./Aa bb. C d./Ee.",
    ("far", "repeat"): "<Hh ii jj./Aa bb. C d./[Hh ii jj.]/Ee./Aa bb. C d./Ee.",
    ("after", "unrelated"): "<Hh ii jj./[Z aa. Bb.]/Ff/Aa bb. C d./Ee./Aa bb. C d./",
    ("before", "unrelated"): "<Z aa. Bb./Ff/[Hh ii jj.]/Aa bb. C d./Ee./Aa bb. C d./",
    ("far", "unrelated"): "<Hh ii jj./Aa bb. C d./[Z aa. Bb.]/Ff/Ee./Aa bb. C d./",
    ("plain", "paraphrase"): "<Hh ii jj./Aa bb. C d./Ee./Aa bb. C d./Ee./[Aa bb. C ]",
}
"""A window of 52 bytes that is filled with texts; in brackets what is learnt."""


def texts_of(stream: ParaphraseStream, window: Window, role: str) -> list[str]:
    """The texts of a role, from left to right."""
    found = [text for text in window.texts if text.role == role]
    return [T.decode(np.concatenate([stream.texts.read(s) for s in t.spans])) for t in found]


def drawn(tokens: np.ndarray, targets: np.ndarray) -> str:
    """Tokens as text, bos as <, eos as >, brackets around what is learnt."""
    special, text, was = {BOS: "<", EOS: ">"}, "", False
    learnt = [False, *(targets != IGNORE).tolist()]
    for token, is_learnt in zip(tokens.tolist(), learnt, strict=False):
        text += "" if is_learnt == was else "[" if is_learnt else "]"
        text += special.get(token) or chr(token)
        was = is_learnt
    return text + "]" * was


@pytest.mark.parametrize(("layout", "second"), HAND)
def test_a_window_by_hand(layout, second):
    fields: dict[str, Any] = {"layout": layout, "second": second, "separator": "/"}
    stream = in_memory(THREE, 52, 3, length=52, gap_documents=1, loss="second", **fields)
    row = stream.row(0)
    assert drawn(row.tokens, row.targets) == HAND[layout, second]
    assert [tuple(piece) for piece in row.pieces] == [(2, 0, 52)]


def test_separate_documents_by_hand():
    fields: dict[str, Any] = {"layout": "separate", "separator": "/", "length": 52}
    row = in_memory(THREE, 60, 3, **fields, gap_documents=1, loss="second").row(0)
    text = "<Hh ii jj.><Aa bb. C d.><Ee.><Aa bb. C d.><Ee.><Aa b" + chr(T.pad_id) * 8
    assert drawn(row.tokens, np.full(60, IGNORE)) == text
    assert [piece.stop for piece in row.pieces] == [11, 13, 5, 13, 5, 5]
    # Learnt are the last nine that follow something in their own document.
    columns = np.flatnonzero(row.targets != IGNORE)
    assert columns.tolist() == [40, 42, 43, 44, 45, 47, 48, 49, 50]
    assert row.targets[columns].tolist() == [EOS, *b"Ee.", EOS, *b"Aa b"]


WORDS = st.lists(st.sampled_from(["a", "Bb", "ccc.", "Dddd?", "東", "12"]), min_size=1, max_size=9)
FRAMES = st.fixed_dictionaries(
    {
        "length": st.integers(40, 120),
        "separator": st.sampled_from(["", "/", "\n\n", " -- "]),
        "part": st.sampled_from([0.3, 0.5, 1.0]),
        "rest": st.sampled_from(["original", "left_out"]),
        "fraction": st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        "unrelated": st.sampled_from(["text", "paraphrase"]),
        "too_long": st.just("cut"),
    }
)
GAPS = st.one_of(
    st.fixed_dictionaries({"gap_documents": st.integers(0, 2)}),
    st.fixed_dictionaries({"gap_tokens": st.integers(9, 25)}),
)


@st.composite
def folders(draw) -> list[tuple[str, str, str]]:
    """Pairs of four texts or more, all different, with one to three paraphrases."""
    texts = draw(st.lists(WORDS.map(" ".join), min_size=4, max_size=7, unique=True))
    found = []
    for i, text in enumerate(texts):
        paraphrases = draw(st.lists(WORDS.map(" ".join), min_size=1, max_size=3))
        found += [(f"{i}#{j}", text, p) for j, p in enumerate(paraphrases)]
    return found


def arms_of(pairs: list[tuple[str, str, str]], seq_len: int, seed: int, frame: dict[str, Any]):
    """The stream of each arm that the frame has."""
    has_gap = frame.get("gap_documents") or frame.get("gap_tokens")
    for layout, second in ARMS:
        if (layout != "far" or has_gap) and (second != "partial" or frame["part"] < 1):
            yield in_memory(pairs, seq_len, seed, **frame, layout=layout, second=second)


@settings(max_examples=12, deadline=None)
@given(folders(), FRAMES, GAPS, st.integers(0, 9))
def test_every_arm_has_equal_tokens_in_every_window(pairs, frame, gap, seed):
    frame |= gap
    seen: dict[int, set[tuple[int, tuple[str, ...], int]]] = {}
    for stream in arms_of(pairs, 2 * frame["length"] + 3, seed, {**frame, "loss": "second"}):
        counts = [0, 0]
        for number in range(len(stream.texts) + 2):
            row = stream.row(number)
            n_read = sum(piece.stop - piece.start for piece in row.pieces)
            assert n_read == 2 * frame["length"]
            for half in (0, 1):
                place = 2 * number + half
                window = stream.windows.window(place)
                columns = slice(half * frame["length"], (half + 1) * frame["length"])
                n_learnt = int((row.targets[columns] != IGNORE).sum())
                assert n_learnt == window.n_asked >= 1
                original = tuple(texts_of(stream, window, "original"))
                seen.setdefault(place, set()).add((n_learnt, original, len(row.tokens)))
                counts[0] += n_learnt
        found = stream.counts(number + 1)
        assert found[:2] == (2 * frame["length"] * (number + 1), counts[0])
    assert all(len(arms) == 1 for arms in seen.values())


@settings(max_examples=12, deadline=None)
@given(folders(), FRAMES, GAPS, st.integers(0, 9), st.sampled_from(["all", "second"]))
def test_no_token_is_lost_or_invented_and_each_stands_where_it_must(pairs, frame, gap, seed, loss):
    frame |= gap
    for stream in arms_of(pairs, frame["length"], seed, {**frame, "loss": loss}):
        between = T.encode(frame["separator"]).tolist() if frame["separator"] else [EOS, BOS]
        for number in range(len(stream.texts) + 2):
            window, row = stream.windows.window(number), stream.row(number)
            check_tokens(stream, window, row.tokens, [EOS, BOS] if window.is_separate else between)
            check_places(stream, window, len(between))
            check_targets(window, row, loss)


def check_tokens(stream: ParaphraseStream, window: Window, tokens: np.ndarray, between: list[int]):
    """bos, the texts, and between them the separator, cut at the end of the window alone."""
    wanted = [BOS]
    for text in window.texts:
        for span in text.spans:
            wanted += stream.texts.read(span).tolist()
        wanted += between
    n = len(tokens)
    assert n <= len(wanted) <= n + len(between)
    assert tokens.tolist() == wanted[:n]
    split = stream.shards.train
    for text in window.texts:
        assert all(span.length > 0 for span in text.spans)
        if text.role != "second":
            [span] = text.spans
            whole = split.read(span.pair, 1, 1 + int(stream.texts.n_text[span.pair])).tolist()
            assert stream.texts.read(span).tolist() == whole[: span.length]


def check_places(stream: ParaphraseStream, window: Window, n_between: int):
    """The gap is as wide as was asked; an original and its paraphrase stand whole."""
    source, roles = stream.source, [text.role for text in window.texts]
    at = roles.index("original")
    original = window.texts[at]
    assert original.length == min(
        stream.share, stream.texts.text(number_of(stream, original)).length
    )
    others = [number_of(stream, text) for text in window.texts if text.role == "other"]
    assert number_of(stream, original) not in others
    if window.asked_text is None:
        assert "second" not in roles
        assert at == 0
        return
    first, starts = roles.index("second"), stream.starts(window)
    is_before = source.layout == "before"
    assert window.asked_text == (at if is_before else first)
    if source.second == "paraphrase":
        [span] = window.texts[first].spans
        whole = stream.texts.paraphrase(span.pair)
        assert span == whole.head(stream.share)
        assert number_of(stream, window.texts[first]) == number_of(stream, original)
    if is_before:
        assert starts[at] - n_between == 1 + sum(
            text.length + n_between * (i > 0) for i, text in enumerate(window.texts[:at])
        )
        return
    distance = starts[first] - starts[at] - original.length
    if source.layout == "after":
        assert distance == n_between
    elif source.gap_tokens:
        assert source.gap_tokens - n_between <= distance <= source.gap_tokens
    else:
        assert roles[at + 1 : first] == ["other"] * source.gap_documents
        gap = {number_of(stream, text) for text in window.texts[at + 1 : first]}
        assert len(gap) == source.gap_documents


def number_of(stream: ParaphraseStream, text: Any) -> int:
    return stream.texts.number[text.spans[0].pair]


def check_targets(window: Window, row: Row, loss: str):
    """What is learnt is what follows in the same document, and no other place than was asked."""
    at = 0
    for piece in row.pieces:
        stop = at + piece.stop - piece.start
        learnt = row.targets[at:stop]
        follows = np.append(row.tokens[at + 1 : stop], IGNORE)
        assert ((learnt == follows) | (learnt == IGNORE)).all()
        if loss == "all":
            assert (learnt == follows).all()
        at = stop
    assert at == len(row.tokens)
    assert len(row.pieces) == 1 or window.is_separate


def test_plain_and_separate_differ_in_documents_alone_where_eos_and_bos_part_texts():
    fields: dict[str, Any] = {"length": 150, "separator": "", "loss": "all"}
    plain, separate = (
        in_memory(pairs_of(9), 310, 1, layout=n, **fields) for n in ("plain", "separate")
    )
    for number in range(8):
        one, other = plain.row(number), separate.row(number)
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert len(one.pieces) == 2 < len(other.pieces)


@pytest.mark.parametrize("layout", ["after", "plain", "separate"])
def test_each_epoch_has_each_text_once_and_the_next_paraphrase_of_it(layout):
    stream = in_memory(pairs_of(7), 256, 2, length=256, layout=layout)
    seen: dict[str, list[str]] = {}
    for epoch in range(6):
        windows = [stream.windows.window(7 * epoch + i) for i in range(7)]
        originals = [texts_of(stream, window, "original")[0] for window in windows]
        assert sorted(originals) == sorted(map(text_of, range(7)))
        for original, window in zip(originals, windows, strict=True):
            seen.setdefault(original, []).extend(texts_of(stream, window, "second"))
    if layout == "after":
        for i in range(7):
            shown = Counter(seen[text_of(i)])
            assert len(shown) == 1 + i % 3
            assert set(shown.values()) == {6 // (1 + i % 3)}


def test_the_unrelated_arm_shows_every_paraphrase_once_and_none_beside_its_text():
    pairs = pairs_of(12, most=1)
    fields: dict[str, Any] = {"length": 256, "layout": "far", "gap_documents": 2}
    stream = in_memory(pairs, 256, 0, **fields, second="unrelated")
    shown = []
    for number in range(12):
        window = stream.windows.window(number)
        [first, *_] = [text.spans[0].pair for text in window.texts if text.role == "second"]
        others = [number_of(stream, text) for text in window.texts if text.role != "second"]
        assert stream.texts.number[first] not in others
        shown.append(first)
    assert sorted(shown) == list(range(12))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_fraction_is_exact(fraction):
    stream = in_memory(pairs_of(7), 256, 0, length=256, fraction=fraction)
    has_second = [bool(texts_of(stream, stream.windows.window(i), "second")) for i in range(200)]
    assert sum(has_second) == round(200 * fraction)
    for i in range(0, 200, 20):
        assert abs(sum(has_second[i : i + 20]) - 20 * fraction) <= 1


def test_partial_takes_a_run_of_sentences_from_the_paraphrase_and_the_others_from_the_text():
    pairs = [
        (f"{i}#0", f"One {i}. Two {i}. Tre {i}. Fou {i}.", f"I {i}. II {i}. III {i}. IV {i}.")
        for i in range(5)
    ]
    fields: dict[str, Any] = {"length": 128, "part": 0.5, "second": "partial"}
    stream = in_memory(pairs, 128, 0, **fields)
    seen = set()
    for number in range(40):
        window = stream.windows.window(number)
        [text], [second] = (texts_of(stream, window, role) for role in ("original", "second"))
        i = text[4]
        is_new = [f" {part} {i}." in f" {second}" for part in ("I", "II", "III", "IV")]
        is_old = [f" {part} {i}." in f" {second}" for part in ("One", "Two", "Tre", "Fou")]
        assert [not new for new in is_new] == is_old
        assert sum(is_new) == 2
        assert len(second) == sum(map(len, second.split(" "))) + 7  # no space is lost or doubled
        seen.add(tuple(is_new))
    assert seen == {(1, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 1)}
    left_out = in_memory(pairs, 128, 0, **fields, rest="left_out")
    [second] = texts_of(left_out, left_out.windows.window(0), "second")
    assert len(second.strip().split(". ")) == 2
    assert "T" not in second


def test_counts_are_those_of_the_rows_however_they_are_asked_for(tmp_path):
    folder = write_folder(tmp_path / "p", pairs_of(9))
    for loss in ("all", "second"):
        stream = stream_of(declared(folder, loss=loss, layout="far"))
        seen, n_learnt = set(), 0
        for number in range(8):
            n_learnt += int((stream.row(number).targets != IGNORE).sum())
            for half in (0, 1):
                for text in stream.windows.window(2 * number + half).texts:
                    seen |= {(s.pair, at) for s in text.spans for at in range(s.start, s.stop)}
            assert stream.counts(number + 1) == (512 * (number + 1), n_learnt, len(seen))
        assert stream.counts(3) == stream_of(declared(folder, loss=loss, layout="far")).counts(3)
    # Every text and every paraphrase is shown after as many epochs as one has at most.
    sizes = [len(p.encode()) for _, _, p in pairs_of(9)] + [len(text_of(i)) for i in range(9)]
    assert stream.unique_tokens(40) == sum(sizes)


def test_a_batch_does_not_depend_on_those_before_over_epochs_too(tmp_path):
    data = declared(write_folder(tmp_path / "p", pairs_of(9)), layout="far", fraction=0.5)
    walked = Mixture(data, batch_size=3, seed=4)
    for step in range(12):
        before = walked.batch(step)
    fresh = Mixture(data, batch_size=3, seed=4).batch(11)
    assert before.tokens.equal(fresh.tokens)
    assert before.targets.equal(fresh.targets)
    assert before.segments.doc.equal(fresh.segments.doc)
    assert fresh.source_tokens == {"paraphrase": (fresh.n_tokens, fresh.n_targets)}
    assert not Mixture(data, batch_size=3, seed=5).batch(11).tokens.equal(fresh.tokens)


def test_all_arms_read_the_same_shards(tmp_path):
    folder = write_folder(tmp_path / "p", pairs_of(9))
    folders = {
        stream_of(declared(folder, layout=layout, second=second)).shards.folder
        for layout, second in ARMS
    }
    assert len(folders) == 1


def test_a_tokenizer_of_words_and_the_bytes_see_the_same_texts(tmp_path, bpe_file):
    data = declared(write_folder(tmp_path / "p", pairs_of(9)), second="partial")
    stream = stream_of(data.model_copy(update={"tokenizer": str(bpe_file)}))
    tokenizer = stream.tokenizer
    window = stream.windows.window(0)
    text = tokenizer.decode(stream.tokens(window))
    assert any(text.startswith(text_of(i) + "\n\n") for i in range(9))
    assert len(stream.tokens(window)) == 256 < len(text)
    for text in window.texts:
        if text.role == "second":
            parts = [tokenizer.decode(stream.texts.read(span)) for span in text.spans]
            assert all(part.rstrip().endswith(".") for part in parts)
