"""Paraphrases that exist already: collections whose records hold a text and its rewrites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from braidlm.arch.config import Config
from braidlm.arch.sources import Corpus
from braidlm.data.corpora import Record, read_records
from braidlm.data.paraphrase.method import Draft, Passage
from braidlm.data.records import text_of
from braidlm.errors import InputError


class PairsConfig(Config):
    """Which fields of a record are read."""

    text: str = Field(default="text", min_length=1)
    """Field that holds the text."""
    paraphrases: tuple[str, ...] = Field(default=("paraphrase",), min_length=1)
    """Fields that hold a paraphrase, or a list of them, in this order. A record may lack one, or
    hold null in it, but not lack all."""
    id: str = ""
    """Field (text or whole number) that names the text; empty: its file and line."""
    is_shuffled: bool = False
    """Whether each text is given what belongs to the text before it, false pairs that a gate should
    reject: a test of its bounds."""


class Pairs:
    """Takes the paraphrases that stand in the records of .jsonl and .parquet files or data sets."""

    workers = 1
    batch_size = 256

    def __init__(self, config: PairsConfig, source: Corpus) -> None:
        self._config, self._source = config, source

    def passages(self) -> Iterator[Passage]:
        """Yield the text of each record with the paraphrases that it holds.

        Raises:
            InputError: as `read_records`, or a field is absent or no text.
        """
        read = self._read()
        if not self._config.is_shuffled:
            yield from read
            return
        first = previous = next(read, None)
        for passage in read:
            assert previous is not None
            yield passage._replace(given=previous.given)
            previous = passage
        if first is not None and previous is not None:
            yield first._replace(given=previous.given)

    def paraphrase(self, batch: Sequence[Passage]) -> Sequence[Sequence[Draft]]:
        """Return what the records hold."""
        return [[Draft(text) for text in passage.given] for passage in batch]

    def _read(self) -> Iterator[Passage]:
        for record in read_records(self._source, None):
            text = text_of(record.fields, self._config.text, record.where)
            yield Passage(self._name(record), text, tuple(self._given(record)))

    def _name(self, record: Record) -> str:
        if not self._config.id:
            return record.id
        value = record.fields.get(self._config.id)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InputError(
                f'{record.where}: field "{self._config.id}" must be text or a whole number, not '
                f"{value!r:.60}"
            )
        return str(value)

    def _given(self, record: Record) -> Iterator[str]:
        fields = self._config.paraphrases
        if not any(name in record.fields for name in fields):
            text_of(record.fields, fields[0], record.where)  # says what is there
        for name in fields:
            value: Any = record.fields.get(name)
            texts = [value] if isinstance(value, str) else value or []
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise InputError(
                    f'{record.where}: field "{name}" must be a text or a list of texts, not '
                    f"{value!r:.60}"
                )
            yield from texts
