"""Text from tokens as they come: a character appears once all of its bytes are there."""

from __future__ import annotations

from braidlm.data.tokenizer import Tokenizer

_UNKNOWN = "\ufffd"


class TextStream:
    """Turns one row's tokens into pieces of text that join to the whole row's text.

    A token may end in the middle of a UTF-8 character. What has been decoded so far then ends in
    U+FFFD, which is held back until later tokens decide what it is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._n_shown = 0

    def push(self, token: int) -> str:
        """Take one more token; return the text that is now certain, possibly none."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return self._show(text.removesuffix(_UNKNOWN))

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character that never became complete."""
        return self._show(self._tokenizer.decode(self._ids))

    def _show(self, text: str) -> str:
        new = text[self._n_shown :]
        self._n_shown = max(self._n_shown, len(text))
        return new
