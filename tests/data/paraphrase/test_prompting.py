"""The paraphrase in what a model says, or the reason why there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidlm.data.paraphrase.prompting import (
    DEFAULT_PROMPT,
    UnusableError,
    check_template,
    draft_of,
    fill,
    paraphrase_in,
)

SOURCE = "Marie Curie won the prize in 1903."
GOOD = "In 1903 the prize went to Marie Curie."


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"  {GOOD}\n",
        f'"{GOOD}"',
        f"“{GOOD}”",
        f"'{GOOD}'",
        f"`{GOOD}`",
        f"```\n{GOOD}\n```",
        f"```text\n{GOOD}\n```",
        f"Here is a paraphrase: {GOOD}",
        f"Here is a paraphrase:\n\n{GOOD}",
        f'Here is the rewritten text:\n"{GOOD}"',
        f"Here's a rephrased version of the text:\n{GOOD}",
        f"Sure! {GOOD}",
        f"Sure! Here's a reworded version: {GOOD}",
        f"Certainly, here is the text in other words: {GOOD}",
        f"Paraphrase: {GOOD}",
        f"**Paraphrase:** {GOOD}",
        f"Rewritten text: {GOOD}",
        f"Text: {GOOD}",
        f"Answer: {GOOD}",
        f"<think>\nWhich words? 1. these\n2. those\n</think>\n\n{GOOD}",
        f"{GOOD}\n\nNote: the year is as it was.",
        f"{GOOD}\n\n(Note that I kept the name.)",
        f"{GOOD}\n\nLet me know if you need another one!",
        f"{GOOD}\n\nThis paraphrase keeps all names.\nIt keeps the date too.",
    ],
)
def test_what_is_said_around_it_is_taken_away(answer):
    assert paraphrase_in(answer, SOURCE) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "Here is what happened: the king died.",
        "The rule was plain: no dogs.",
        "“Go,” she said, “and stay.”",
        '"Go" and "stay" were all that she said, "no more"',
        "'Tis the season, he said, and 'twas'",
        "One line.\n\nAnother paragraph, about 1. May and 2. June.",
        "He was sorry, as an airman can be.",
        "Surely it rained.",
        "The note was brief.\nNothing else was said.",
        "a < b > c and <b>bold</b> [1]",
        "She said: “Sure, why not?”",
    ],
)
def test_an_innocent_text_stays_as_it_is(text):
    assert paraphrase_in(text, SOURCE) == text


@pytest.mark.parametrize(
    "text",
    [
        '"Quoted."',
        "Paraphrase: a rewording: it says the same.",
        "Sure, it rained.",
        "Text: a word.",
        "A rule.\n\nNote: an exception.",
        "1. One.\n2. Two.",
        "I cannot swim.",
        "```\ncode\n```",
    ],
)
def test_what_the_source_has_too_is_no_chatter(text):
    assert paraphrase_in(text, text) == text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty_answer"),
        (" \n ", "empty_answer"),
        ('""', "empty_answer"),
        ("Here is the paraphrase:", "empty_answer"),
        ("<think>hm</think>", "empty_answer"),
        ("<think>hm, and", "truncated: it was still thinking"),
        ("I'm sorry, but I can't help with that.", "declined"),
        ("As an AI language model, I have no opinion.", "declined"),
        (f"1. {GOOD}\n2. The prize of 1903 was hers.", "several_answers"),
        (f"Option 1: {GOOD}\nOption 2: The prize was hers.", "several_answers"),
        (f"{GOOD}<|im_end|>", "bad_characters: '<|im_end|>'"),
        (f"{GOOD}</s>", "bad_characters: '</s>'"),
        (f"{GOOD}\x00", r"bad_characters: '\x00'"),
        (f"{GOOD}\ud800", r"bad_characters: '\ud800'"),
        (f"{GOOD}\ufffd", "bad_characters: '\ufffd'"),
    ],
)
def test_what_cannot_be_used_has_its_reason_and_is_kept(answer, reason):
    with pytest.raises(UnusableError) as caught:
        paraphrase_in(answer, SOURCE)
    assert str(caught.value) == reason
    draft = draft_of(answer, SOURCE)
    assert (draft.text, draft.reason) == (answer.strip(), reason)


def test_an_answer_that_was_cut_is_kept_for_the_eye_alone():
    draft = draft_of(GOOD, SOURCE, cut_at=9)
    assert (draft.text, draft.reason) == (GOOD, "truncated: at 9 tokens")
    assert draft_of(GOOD, SOURCE).reason == ""


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_answer_gives_a_clean_text_or_a_reason(answer, source):
    """And what was cleaned is clean: cleaning again changes nothing that the source has not."""
    draft = draft_of(answer, source)
    assert bool(draft.text) or bool(draft.reason)
    if not draft.reason:
        assert draft.text == draft.text.strip()
        assert draft.text in answer


@given(st.text())
def test_a_text_goes_into_its_place_whatever_it_holds(text):
    assert fill("a {text} {b}", text) == f"a {text} {{b}}"
    assert fill(DEFAULT_PROMPT, text).endswith(f"Text: {text}")


@pytest.mark.parametrize("template", ["", "Rewrite this.", "{text} {text}", "{ text }"])
def test_a_template_without_one_place_is_refused(template):
    with pytest.raises(ValueError, match=r"must hold '\{text\}' once"):
        check_template(template)
