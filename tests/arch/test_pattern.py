import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.arch.pattern import MAX_SUBLAYERS, Group, Symbols, parse
from braidlm.errors import InputError

NVIDIA_8B = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"
NVIDIA_800M = "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-"

symbols = st.sampled_from("MSGAz*W+-E")
counts = st.sampled_from(["", "", "1", "2", "3", "12"])
braces = st.lists(symbols, min_size=2, max_size=4).map(lambda x: "{" + "".join(x) + "}")
patterns = st.recursive(
    st.tuples(symbols | braces, counts).map("".join),
    lambda inner: (
        st.tuples(
            st.lists(inner, min_size=1, max_size=3).map(lambda x: "(" + "".join(x) + ")"),
            st.sampled_from(["", "2", "3"]),
        ).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map("".join)
    ),
    max_leaves=6,
)


def expand_by_hand(text):
    """Rewrite innermost repeats as plain text until none is left, then cut into sublayers."""
    repeat = re.compile(r"(\([^()]*\)|\{[^{}]*\}|[^0-9(){}])([0-9]+)|(\([^()]*\))(?![0-9])")
    while match := repeat.search(text):
        whole = match[1] or match[3]
        body = whole[1:-1] if whole[0] == "(" else whole
        text = text[: match.start()] + body * int(match[2] or 1) + text[match.end() :]
    return tuple(tuple(x.strip("{}")) for x in re.findall(r"\{[^}]*\}|.", text))


@given(patterns)
def test_printing_and_parsing_again_changes_nothing(text):
    pattern = parse(text)
    assert parse(str(pattern)) == pattern
    assert str(parse(str(pattern))) == str(pattern)


@given(patterns)
def test_expansion_is_what_the_grammar_says(text):
    assert parse(text).expand() == expand_by_hand(text)


@given(patterns)
def test_the_canonical_text_declares_the_same_sublayers(text):
    assert parse(str(parse(text))).expand() == expand_by_hand(text)


@pytest.mark.parametrize(
    "text",
    ["M", "M-M-", "(M-)4", "(MMM*-)4", "{M*}-", "({M*}-)2M56", "((M-)3*-)2(M-)5", "{AAB}3",
     NVIDIA_8B, NVIDIA_800M],
)  # fmt: skip
def test_a_canonical_string_returns_unchanged(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("(M)", "M"), ("(M-)1", "M-"), ("M1", "M"), ("(M2)3", "M6"), ("((M-)2)3", "(M-)6"),
     ("(((*)))", "*"), ("M - \n M -", "M-M-"), ("({M*})2", "{M*}2"), ("M003", "M3")],
)  # fmt: skip
def test_other_spellings_have_one_canonical_form(text, canonical):
    assert str(parse(text)) == canonical


def test_expansion_by_example():
    assert parse("(M2{M*}-)2").expand() == (
        ("M",), ("M",), ("M", "*"), ("-",), ("M",), ("M",), ("M", "*"), ("-",)
    )  # fmt: skip
    assert parse("(M-)2").items == (Group((Symbols(("M",)), Symbols(("-",))), 2),)


@pytest.mark.parametrize("text", [NVIDIA_8B, NVIDIA_800M])
def test_a_megatron_string_means_one_sublayer_per_letter(text):
    assert parse(text).expand() == tuple((letter,) for letter in text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a pattern needs at least one symbol"),
        ("()", "character 2: a pattern needs at least one symbol"),
        ("(M", "a '(' is not closed"),
        ("M)", "character 2: ')' closes no group"),
        ("{M*", "a '{' is not closed"),
        ("{M}", "a parallel sublayer needs at least two symbols"),
        ("{}", "a parallel sublayer needs at least two symbols"),
        ("{M(*)}", "character 3: '(' is no symbol"),
        ("M|M", "character 2: '|' is Megatron's pipeline-stage split"),
        ("M/M", "character 2: '/' is Megatron's multi-token-prediction part"),
        ("M0", "a count of 0 is not between 1 and 4096"),
        ("M99999999999999999999", "a count of 999999999 is not between"),
        ("2M", "character 1: '2' is no symbol; use a letter, '*', '+' or '-'"),
        ("M é", "character 2: 'é' is no symbol"),
        ("M²", "character 2: '²' is no symbol"),
        ("(" * 20 + "M" + ")" * 20, "groups are nested deeper than 16"),
        ("(M4096)2", f"has 8192 sublayers; at most {MAX_SUBLAYERS} are allowed"),
        ("((((M4096)4096)4096)4096)4096", f"at most {MAX_SUBLAYERS} are allowed"),
    ],
)
def test_what_is_no_pattern_is_refused_in_one_sentence(text, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_a_message_shows_only_the_start_of_a_long_pattern():
    with pytest.raises(InputError) as caught:
        parse("M" * 5000)
    assert len(str(caught.value)) < 200
    assert len(parse("M" * MAX_SUBLAYERS).expand()) == MAX_SUBLAYERS
