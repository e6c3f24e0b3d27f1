"""The method `rules`: each sentence of a passage through the rules that are switched on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from braidlm.arch.config import Config
from braidlm.data.paraphrase.method import Draft, Passage, PassageError
from braidlm.data.paraphrase.reading import TextInput, read_passages
from braidlm.data.paraphrase.rules.clauses import reorder
from braidlm.data.paraphrase.rules.formats import other_dates, other_numbers
from braidlm.data.paraphrase.rules.lexicon import read_lexicon
from braidlm.data.paraphrase.rules.lists import turned_lists
from braidlm.data.paraphrase.rules.packages import frequency, inflect, load_pipeline
from braidlm.data.paraphrase.rules.phrases import other_phrases
from braidlm.data.paraphrase.rules.sentence import Sentence, edited, text
from braidlm.data.paraphrase.rules.synonyms import Synonyms
from braidlm.data.paraphrase.rules.voice import change_voice
from braidlm.data.seeding import generator
from braidlm.errors import InputError

RuleName = Literal["synonyms", "clauses", "voice", "lists", "phrases", "numbers", "dates"]
_OF_TEXT = (("phrases", other_phrases), ("dates", other_dates), ("numbers", other_numbers))
"""Rules that need no grammar."""


class RulesConfig(Config):
    """Which rules are applied, and with what."""

    rules: tuple[RuleName, ...] = Field(
        default=("synonyms", "clauses", "voice", "lists", "phrases", "numbers", "dates"),
        min_length=1,
    )
    """The rules that are switched on."""
    drafts: int = Field(default=1, ge=1)
    """Paraphrases of one passage that are tried; equal ones count once."""
    pipeline: str = Field(default="en_core_web_sm", min_length=1)
    """spaCy pipeline with tagger, parser and names: an installed package or a folder."""
    wordnet: str = ""
    """Folder of WordNet's files data.*, or a file of its synsets in JSON lines; needed by the rule
    "synonyms" alone."""
    synonym_rate: float = Field(default=0.9, gt=0, le=1)
    """Share of the words that have a synonym that get one."""
    synonym_parts: tuple[Literal["n", "v", "a", "r"], ...] = ("n", "v", "a", "r")
    """Parts of speech that are replaced: nouns, verbs, adjectives, adverbs."""
    max_other_senses: int = Field(default=0, ge=0)
    """Senses that a synonym may have, in any part of speech, beside those of the word; it stands
    beside the word in every sense of the word."""
    min_frequency: float = Field(default=3.3, ge=0, le=8)
    """Least frequency of a synonym on the Zipf scale (3: once in a million words). It is at most
    1.5 below that of the word, too."""
    change_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the sentences that can be reordered, or put in the other voice, that are."""


class Rules:
    """Rewrites the passages of documents sentence by sentence."""

    workers = 1
    batch_size = 32

    def __init__(self, config: RulesConfig, source: TextInput, seed: int) -> None:
        """Load what the rules need.

        Raises:
            InputError: a package, the pipeline or WordNet is not there.
        """
        self._config, self._source, self._seed = config, source, seed
        self._pipeline: Any = load_pipeline(config.pipeline)
        self._inflect = inflect()
        self._synonyms = self._open_synonyms() if "synonyms" in config.rules else None

    def passages(self) -> Iterator[Passage]:
        """Yield the passages of the documents."""
        return read_passages(self._source)

    def paraphrase(self, batch: Sequence[Passage]) -> Sequence[Sequence[Draft] | PassageError]:
        """Return up to `drafts` rewritings of each passage that differ."""
        parsed = self._pipeline.pipe([passage.text for passage in batch])
        return [self._drafts(p, list(d.sents)) for p, d in zip(batch, parsed, strict=True)]

    def _open_synonyms(self) -> Synonyms:
        c = self._config
        if not c.wordnet:
            raise InputError(
                "--method rules: the rule 'synonyms' needs --set wordnet=DIR, the folder of "
                "WordNet's files data.noun, ... (/usr/share/wordnet after 'apt install "
                "wordnet-base'); or name the other rules by --set rules=[...]"
            )
        return Synonyms(
            read_lexicon(c.wordnet),
            self._inflect,
            frequency(),
            parts=c.synonym_parts,
            max_other_senses=c.max_other_senses,
            min_frequency=c.min_frequency,
        )

    def _drafts(self, passage: Passage, sentences: list[Any]) -> list[Draft] | PassageError:
        found: dict[str, Draft] = {}
        for number in range(self._config.drafts):
            random = generator(self._seed, "rules", passage.id, number)
            done = [self._sentence(sentence, random) for sentence in sentences]
            written = "".join(words for words, _ in done)
            share = sum(bool(used) for _, used in done) / max(len(done), 1)
            counts = {rule: float(sum(rule in used for _, used in done)) for rule in _used(done)}
            if written != passage.text and written not in found:
                found[written] = Draft(written, {"sentences_changed": round(share, 4), **counts})
        return list(found.values()) or PassageError("no rule applies")

    def _sentence(self, span: Any, random: np.random.Generator) -> tuple[str, list[str]]:
        """Return a sentence with the space behind it, and the rules that were used."""
        before = span.text_with_ws
        tokens = [token for token in span if not token.is_space]
        if not tokens:
            return before, []
        # The space around a sentence stays as it is.
        start = span.text.find(tokens[0].text)
        stop = before.rindex(tokens[-1].text) + len(tokens[-1].text)
        words, used = self._rewritten(Sentence(tokens), before[start:stop], random)
        return before[:start] + words + before[stop:], used

    def _rewritten(
        self, sentence: Sentence, before: str, random: np.random.Generator
    ) -> tuple[str, list[str]]:
        c, used = self._config, []
        changed: dict[int, str] = {}
        if self._synonyms:
            changed = self._synonyms.choose(sentence.tokens, c.synonym_rate, random)
            used += ["synonyms"] * bool(changed)
        words = text(sentence.tokens, changed) if changed else before
        is_moved = random.random() < c.change_rate
        if is_moved and "\n" not in before:
            for rule in ("voice", "clauses"):
                # The main verb is inflected anew in the other voice, and stays the same word.
                root = sentence.root if rule == "voice" else None
                kept = {at: word for at, word in changed.items() if root is None or at != root.i}
                moved = self._moved(rule, sentence, kept) if rule in c.rules else None
                if moved:
                    words, used = moved, [*(["synonyms"] if kept else []), rule]
                    break
            else:
                if "lists" in c.rules and (edits := turned_lists(sentence, changed)):
                    words, used = edited(sentence.tokens, edits, changed), [*used, "lists"]
        for rule, write in _OF_TEXT:
            if rule in c.rules and (written := write(words)) != words:
                words, used = written, [*used, rule]
        return words, used

    def _moved(self, rule: str, sentence: Sentence, changed: dict[int, str]) -> str | None:
        if rule == "clauses":
            return reorder(sentence, changed)
        return change_voice(sentence, changed, self._inflect)


def _used(done: list[tuple[str, list[str]]]) -> list[str]:
    return sorted({rule for _, used in done for rule in used})
