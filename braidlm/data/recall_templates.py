"""Wordings of one question about one text: what stands before the text, and between the two.

published    TEXT\\n\\nThe tower was built in
labelled     Text: TEXT\\n\\nTask: The tower was built in
instructed   Read the text, then answer from it.\\n\\nTEXT\\n\\nThe tower was built in
fenced       ###\\nTEXT\\n###\\nThe tower was built in
joined       TEXT The tower was built in
"""

from __future__ import annotations

from typing import NamedTuple

from braidlm.arch.tasks.recall import RecallTemplate
from braidlm.data.passages import Passage


class Around(NamedTuple):
    """What stands around a text and its question."""

    start: str
    """Before the text."""
    link: str
    """Between text and question."""


AROUND: dict[RecallTemplate, Around] = {
    "labelled": Around("Text: ", "\n\nTask: "),
    "instructed": Around("Read the text, then answer from it.\n\n", "\n\n"),
    "fenced": Around("###\n", "\n###\n"),
    "joined": Around("", " "),
}
"""All but "published", which changes nothing."""


def worded(passage: Passage, template: RecallTemplate) -> Passage:
    """Return a passage whose prompts are worded by a template."""
    around = AROUND.get(template)
    named = passage._replace(template=template)
    return named if around is None else named._replace(start=around.start, link=around.link)


def wordings(passage: Passage, templates: tuple[RecallTemplate, ...]) -> list[Passage]:
    """Return a passage in each of the templates; as it is published where there are none."""
    return [worded(passage, template) for template in templates] or [passage]


def longest(passage: Passage, templates: tuple[RecallTemplate, ...]) -> Passage:
    """Return the passage in the wording that takes the most room, so that a cut fits all."""
    return max(wordings(passage, templates), key=lambda p: len(p.prompt("").encode()))
