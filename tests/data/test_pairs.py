import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.arch.experiment import DataConfig
from braidlm.arch.pairs import PairsSource
from braidlm.arch.sources import TextSource
from braidlm.data.inspection import inspect
from braidlm.data.mixture import Mixture
from braidlm.data.packing import IGNORE, WholePacking
from braidlm.data.pair_stream import PairStream
from braidlm.data.prepare import build, open_text
from braidlm.data.shard_build import shard_key
from braidlm.data.shards import LEARNT, PROMPT, open_shards
from braidlm.data.streams import RowMixture
from braidlm.data.tokenizer import ByteTokenizer, load_tokenizer
from braidlm.errors import InputError

T = ByteTokenizer()
PAIRS = [(f"q{i}" + "?" * (i % 7), f"a{i * i}" * (1 + i % 3)) for i in range(60)]


def write_pairs(path, pairs, keys=("prompt", "answer")):
    lines = (json.dumps(dict(zip(keys, pair, strict=True))) + "\n" for pair in pairs)
    path.write_text("".join(lines))
    return path


@pytest.fixture
def declared(tmp_path):
    """Return a declaration of pairs, written to a file of their own."""

    def declare(pairs=PAIRS, seq_len=28, held_out=0.0, tokenizer="bytes", **fields):
        path = write_pairs(tmp_path / "pairs.jsonl", pairs)
        source = PairsSource(path=str(path), **fields)
        return DataConfig(
            seq_len=seq_len,
            sources=(source,),
            held_out=held_out,
            cache_dir=str(tmp_path / "s"),
            tokenizer=str(tokenizer),
        )

    return declare


def rows(data, n=None, seed=0):
    mixture = RowMixture(data, seed=seed)
    [stream] = mixture.streams
    assert isinstance(stream, PairStream)
    return stream, [stream.row(i) for i in range(stream.rows_per_epoch if n is None else n)]


def learnt_and_read(row, stream):
    """Return for each piece the text of its inputs without loss before it, and of its targets."""
    found, at = [], 0
    for piece in row.pieces:
        stop = at + piece.stop - piece.start
        targets = row.targets[at:stop]
        first = int(np.flatnonzero(targets != IGNORE)[0])
        assert (targets[first:-1] != IGNORE).all()
        assert targets[-1] == IGNORE  # nothing follows the eos
        assert row.tokens[at] == T.bos_id
        found.append((T.decode(row.tokens[at : at + first + 1]), targets[first:-1].tolist()))
        at = stop
    assert (row.tokens[at:] == T.pad_id).all()
    assert (row.targets[at:] == IGNORE).all()
    return found


def test_loss_lies_on_the_answer_and_its_eos_alone(declared):
    stream, packed = rows(declared())
    found = [pair for row in packed for pair in learnt_and_read(row, stream)]
    wanted = [(p, [*a.encode(), T.eos_id]) for p, a in PAIRS]
    assert sorted(found) == sorted(wanted)
    assert max(len(row.pieces) for row in packed) > 1


def test_one_row_by_hand(declared):
    _, [row] = rows(declared([("why?", "not")], seq_len=12))
    x = IGNORE
    assert row.tokens.tolist() == [256, *b"why?", *b"not", 257, 258, 258, 258]
    assert row.targets.tolist() == [x, x, x, x, *b"not", 257, x, x, x, x]


def test_with_loss_on_the_prompt_everything_after_bos_is_learnt(declared):
    _, [row] = rows(declared([("why?", "not")], seq_len=12, loss_on_prompt=True))
    assert row.targets.tolist() == [*b"why?not", 257, *[IGNORE] * 4]


def test_no_pair_is_cut_or_lost_and_each_epoch_gives_each_once(declared):
    data = declared()
    stream, packed = rows(data)
    n = stream.rows_per_epoch
    second = [stream.row(n + i) for i in range(n)]
    for epoch in (packed, second):
        assert sorted(p.document for row in epoch for p in row.pieces) == list(range(60))
        assert all(p.start == 0 for row in epoch for p in row.pieces)
    first_of = [[p.document for p in row.pieces] for row in packed]
    assert first_of != [[p.document for p in row.pieces] for row in second]


def test_a_row_is_a_function_of_seed_and_number(declared):
    data = declared()
    _, packed = rows(data)
    again = RowMixture(data).streams[0]
    np.testing.assert_array_equal(again.row(5).tokens, packed[5].tokens)
    np.testing.assert_array_equal(again.row(5).targets, packed[5].targets)
    other = RowMixture(data, seed=1).streams[0]
    assert any((other.row(i).tokens != packed[i].tokens).any() for i in range(5))


def test_pairs_in_a_batch_are_documents_of_their_own(declared):
    batch = Mixture(declared(), batch_size=4).batch(2)
    edges = batch.tokens == T.bos_id
    starts = batch.segments.position == 0
    real = batch.tokens != T.pad_id
    assert ((starts & real) == edges).all()


@pytest.mark.parametrize("loss_on_prompt", [False, True])
def test_a_long_prompt_is_cut_from_the_left(declared, loss_on_prompt):
    pairs = [("0123456789" * 3 + "end?", "yes"), ("p", "q")]
    declaration = declared(pairs, 10, loss_on_prompt=loss_on_prompt, too_long="cut_prompt")
    stream, packed = rows(declaration)
    [row] = [r for r in packed if len(r.pieces) == 1 and r.pieces[0].document == 0]
    assert row.tokens.tolist() == [256, *b"9end?"[:5], *b"yes", 257][-10:]
    learnt = [*b"9end?yes", 257] if loss_on_prompt else [*b"yes", 257]
    assert row.targets.tolist() == [*[IGNORE] * (9 - len(learnt)), *learnt, IGNORE]
    assert (stream.n_cut, stream.n_dropped) == (1, 0)


def test_long_pairs_are_dropped_or_refused_on_request(declared):
    pairs = [*PAIRS, ("x" * 50, "yes")]
    stream, packed = rows(declared(pairs, too_long="drop"))
    assert (stream.n_cut, stream.n_dropped) == (0, 1)
    assert sorted(p.document for row in packed for p in row.pieces) == list(range(60))
    says = (
        r"source 'pairs': 1 of 61 pairs are longer than seq_len = 28, the first is pairs.jsonl:61"
    )
    for fields in ({}, {"too_long": "refuse"}):
        with pytest.raises(InputError, match=says):
            RowMixture(declared(pairs, **fields))


@pytest.mark.parametrize("loss_on_prompt", [False, True])
def test_an_answer_longer_than_a_row_is_refused(declared, loss_on_prompt):
    fits, does_not = ("why?", "y" * 25), ("why?", "y" * 26)
    fields = {"loss_on_prompt": loss_on_prompt, "too_long": "cut_prompt"}
    _, [row] = rows(declared([fits], **fields))
    assert row.tokens[:3].tolist() == [256, ord("?"), ord("y")]
    with pytest.raises(InputError, match="1 answers do not fit into seq_len = 28 even without"):
        RowMixture(declared([fits, does_not], **fields))
    with pytest.raises(InputError, match=r"no pair to train on \(1 in the train half"):
        RowMixture(declared([does_not], too_long="drop"))


def test_what_is_too_long_is_counted_by_the_build(declared):
    data = declared([*PAIRS, ("x" * 50, "yes")], too_long="cut_prompt")
    [card] = build(data)["sources"]
    assert card["kind"] == "pairs"
    assert card["too_long"] == {"pairs": 1, "of": 61, "seq_len": 28, "policy": "cut_prompt"}


def test_the_shards_hold_the_mask(declared):
    shards = open_text(declared(PAIRS, held_out=0.3), "pairs")
    again = open_shards(shards.folder, verify=True)
    n = 0
    for split in (again.train, again.held_out):
        for i, document in enumerate(split.documents()):
            prompt, answer = PAIRS[int(document.id.split(":")[1]) - 1]
            mask = split.read_mask(i, 0, len(document.tokens)).tolist()
            assert mask == [0] + [PROMPT] * len(prompt) + [LEARNT] * (len(answer) + 1)
            assert document.n_bytes == len(prompt) + len(answer)
            n += 1
    assert n == 60
    assert len(again.held_out) > 8


def test_the_same_prompt_is_never_on_both_sides(declared):
    pairs = [(f"q{i % 40}", f"a{i}") for i in range(200)]
    shards = open_text(declared(pairs, held_out=0.4), "pairs")
    sides = [
        {pairs[int(i.split(":")[1]) - 1][0] for i in s.ids} for s in (shards.train, shards.held_out)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 40


def test_boundaries_of_a_tokenizer_are_those_of_the_parts(declared, bpe_file):
    """Tokens never join the end of a prompt with the start of its answer."""
    t = load_tokenizer(bpe_file)
    shards = open_text(declared([("the qu", "ick fox")], tokenizer=bpe_file), "pairs")
    [document] = shards.train.documents()
    parts = [t.encode("the qu"), t.encode("ick fox")]
    assert document.tokens.tolist() == [t.bos_id, *np.concatenate(parts), t.eos_id]
    assert shards.train.read_mask(0, 0, 99).tolist().count(PROMPT) == len(parts[0])


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_damaged_mask_is_named(declared, damage):
    data = declared()
    path = open_text(data, "pairs").folder / "train-00000.mask"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[7] ^= LEARNT
        path.write_bytes(content[: -1 if damage == "cut" else None])
    says = {"cut": "bytes, not", "altered": "was altered", "gone": "cannot be read"}[damage]
    with pytest.raises(InputError, match=rf"train-00000\.mask.* {says}"):
        RowMixture(data, verify=True)


def test_meta_that_hides_the_mask_is_refused(declared):
    folder = open_text(declared(), "pairs").folder
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"has_mask": False}))
    with pytest.raises(InputError, match="'has_mask' was altered"):
        open_shards(folder)


def test_the_mask_is_shown(declared):
    data = declared([("2+2=", "4"), ("é?", "è")])
    [shown] = inspect(data, n=1)
    assert shown["kind"] == "pairs"
    masked = {p["document"]: p["masked"] for p in shown["pieces"]}
    assert masked == {
        "pairs.jsonl:1": "<bos>2+2=⟦4<eos>⟧",
        "pairs.jsonl:2": "<bos>é?⟦è<eos>⟧",
    }
    folder = open_text(data, "pairs").folder
    [again] = inspect(folder, n=1)
    assert {p["masked"] for p in again["pieces"]} == set(masked.values())


def test_changing_what_is_learnt_makes_other_shards(declared):
    [source] = declared().sources
    others = ({}, {"too_long": "drop"}, {"name": "x"}, {"loss_on_prompt": True}, {"answer": "b"})
    keys = [shard_key(source.model_copy(update=fields), T, 0.0) for fields in others]
    assert [keys.index(key) for key in keys] == [0, 0, 0, 3, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "x"}, r'line 2 has no field "answer" \(fields: prompt\)'),
        ({"prompt": None, "answer": "x"}, 'line 2: field "prompt" must be text, not NoneType'),
        ({"prompt": "x", "answer": 4}, 'line 2: field "answer" must be text, not int'),
        ({"prompt": "x", "answer": " \n"}, 'line 2: field "answer" is empty: nothing to learn'),
    ],
)
def test_a_bad_pair_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "a"}) + "\n" + json.dumps(line) + "\n")
    data = DataConfig(sources=(PairsSource(path=str(path)),), cache_dir=str(tmp_path / "s"))
    with pytest.raises(InputError, match=r"a\.jsonl, " + message):
        build(data)
    assert list((tmp_path / "s").iterdir()) == []


def test_text_files_hold_no_pairs(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    data = DataConfig(sources=(PairsSource(path=str(tmp_path)),), cache_dir=str(tmp_path / "s"))
    with pytest.raises(InputError, match=r"a\.txt holds no records: give \.jsonl or \.parquet"):
        build(data)


def test_pairs_from_parquet_mix_with_text(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"q": ["why?"], "a": ["not"]}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("x" * 100)
    pairs = PairsSource(path=str(tmp_path / "a.parquet"), prompt="q", answer="a", weight=0.25)
    words = TextSource(path=str(tmp_path / "b.txt"), weight=0.75)
    data = DataConfig(sources=(words, pairs), seq_len=16, held_out=0, cache_dir=str(tmp_path / "s"))
    batch = Mixture(data, batch_size=8).batch(0)
    assert batch.source_counts == {"text": 6, "pairs": 2}
    for row, source in zip(batch.targets, batch.row_sources, strict=True):
        if source == "pairs":
            assert row[row != IGNORE].tolist() == [*b"not", 257]


@settings(max_examples=100)
@given(st.lists(st.integers(2, 12), max_size=40), st.integers(12, 30), st.randoms())
def test_whole_packing_is_the_plain_loop(lengths, seq_len, random):
    order = np.array(random.sample(range(len(lengths)), len(lengths)), dtype=np.int64)
    packing = WholePacking(np.array(lengths), seq_len, order)
    wanted: list[list[int]] = []
    room = 0
    for i in order.tolist():
        if lengths[i] > room:
            wanted.append([])
            room = seq_len
        wanted[-1].append(i)
        room -= lengths[i]
    assert [packing.documents(r).tolist() for r in range(packing.n_rows)] == wanted
