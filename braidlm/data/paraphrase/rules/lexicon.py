"""WordNet as synonyms: which other words stand for a word in every sense that it has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from braidlm.arch.sources import Corpus
from braidlm.data.corpora import read_records
from braidlm.errors import InputError

POS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
"""Parts of speech: how WordNet's files are called, and the letter of its synsets."""


class Lexicon:
    """Synsets by word and part of speech (n, v, a, r)."""

    def __init__(self, synsets: Iterator[tuple[str, tuple[str, ...]]]) -> None:
        """Take (part of speech, words of a synset, with spaces where they are several)."""
        self._synsets: dict[tuple[str, str], list[tuple[str, ...]]] = defaultdict(list)
        for pos, words in synsets:
            for word in words:
                self._synsets[pos, word.lower()].append(words)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._synsets

    def synonyms(self, word: str, pos: str, max_other_senses: int) -> tuple[str, ...]:
        """Return the words that stand beside a word in each of its senses, as single words in
        small letters.

        Args:
            word: a lemma.
            pos: its part of speech.
            max_other_senses: senses of a synonym, in any part of speech, in which the word does
                not stand.
        """
        senses = self._synsets.get((pos, word), [])
        shared = [w for w in dict.fromkeys(senses[0] if senses else ()) if w != word]
        return tuple(
            other
            for other in shared
            if other.isalpha()
            and other.islower()
            and all(other in sense for sense in senses)
            and self._other_senses(other, word) <= max_other_senses
        )

    def _other_senses(self, other: str, word: str) -> int:
        found = (sense for pos in POS.values() for sense in self._synsets.get((pos, other), ()))
        return sum(word not in sense for sense in found)

    def has_compound(self, first: str, second: str) -> bool:
        """Tell whether two words that follow each other are one entry, such as "fault line"."""
        return any((pos, f"{first} {second}") in self._synsets for pos in POS.values())


def read_lexicon(path: str) -> Lexicon:
    """Read WordNet from a folder of its own files (data.noun, data.verb, data.adj, data.adv), or
    from a file of JSON lines {"id": offset-letter, "lemmas": [...]}.

    Raises:
        InputError: neither is there, or a line is none of WordNet's.

    Source: WordNet's wndb(5WN) for the form of its files.
    """
    folder = Path(path)
    if folder.is_dir():
        return Lexicon(_of_folder(folder))
    if not folder.is_file():
        raise InputError(
            f"wordnet = '{path}': give the folder of WordNet's files data.noun, data.verb, "
            "data.adj and data.adv, or a file of its synsets in JSON lines"
        )
    return Lexicon(_of_records(path))


def _of_folder(folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, pos in POS.items():
        file = folder / f"data.{name}"
        if not file.is_file():
            raise InputError(f"wordnet = '{folder}': holds no file data.{name}")
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line or line.startswith("  "):  # the licence stands first
                continue
            parts = line.split(" ")
            try:
                words = parts[4 : 4 + 2 * int(parts[3], 16) : 2]
            except (IndexError, ValueError):
                raise InputError(f"{file}, line {number}: is no line of WordNet") from None
            # "galore(ip)": where an adjective stands in the sentence.
            yield pos, tuple(word.partition("(")[0].replace("_", " ") for word in words)


def _of_records(path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for record in read_records(Corpus(path=path), ("id", "lemmas")):
        name, lemmas = record.fields.get("id"), record.fields.get("lemmas")
        if not isinstance(name, str) or not isinstance(lemmas, list):
            raise InputError(f'{record.where}: needs "id" (offset-letter) and "lemmas" (a list)')
        pos = name.rpartition("-")[2].replace("s", "a")  # satellites are adjectives
        if pos not in POS.values():
            raise InputError(
                f'{record.where}: "id" = {name!r:.40} must end in -n, -v, -a, -s or -r'
            )
        yield pos, tuple(str(word).replace("_", " ") for word in lemmas)
