"""Paraphrases by a model of transformers that lies in a folder: causal or sequence to sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from braidlm.arch.config import Config
from braidlm.data.paraphrase.method import Draft, Passage
from braidlm.data.paraphrase.prompting import DEFAULT_PROMPT, Template, draft_of, fill
from braidlm.data.paraphrase.reading import TextInput, read_passages
from braidlm.data.seeding import key_of

if TYPE_CHECKING:
    from braidlm.data.paraphrase.hf_model import Written


class HFConfig(Config):
    """Which model writes, what it is asked, and how its tokens are drawn.

    What the model's own generation config proposes (penalties, beams, top-k) is not used, but for
    the tokens that end an answer.
    """

    model: str = Field(min_length=1)
    """Folder of a checkpoint and its tokenizer; nothing is fetched, and no code of it is run."""
    prompt: Template = DEFAULT_PROMPT
    """What is asked, with "{text}" where the text goes; "paraphrase: {text}" for many T5 models."""
    system: str = ""
    """System message, for a chat template; empty: none."""
    chat_template: bool = True
    """Whether the prompt goes into the tokenizer's chat template, where it has one."""
    n: int = Field(default=1, ge=1, le=64)
    """Paraphrases of each text."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Divides the logits; 0 takes the most probable token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Probability of the nucleus that is sampled from; 1 keeps every token."""
    max_tokens: int = Field(default=512, ge=1)
    """Of an answer; one that is cut there is rejected."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the weights while they are used."""

    batch_size: int = Field(default=8, ge=1, le=4096, exclude=True)
    """Prompts at once."""
    device: str = Field(default="auto", exclude=True)
    """auto (a GPU if there is one), cpu or cuda."""


class _Row(NamedTuple):
    passage: Passage
    n: int


class HF:
    """Writes in batches; each paraphrase has a random stream of its own, whatever its batch.

    Raises:
        InputError: no such folder, no model or tokenizer in it, or no such device.
    """

    workers = 1

    def __init__(self, config: HFConfig, source: TextInput, seed: int) -> None:
        from braidlm.data.paraphrase.hf_model import LocalModel  # takes torch, as no other does

        self._config, self._source, self._seed = config, source, seed
        self.batch_size = config.batch_size
        self._model = LocalModel(config.model, config.device, config.dtype)
        self._model.check_prompt(system=config.system, is_chat=config.chat_template)

    def passages(self) -> Iterator[Passage]:
        """Yield the passages of the input.

        Raises:
            InputError: as `read_passages`.
        """
        return read_passages(self._source)

    def paraphrase(self, batch: Sequence[Passage]) -> Sequence[Sequence[Draft]]:
        """Return n drafts of each passage; one without a usable answer holds the reason."""
        each = range(self._config.n)
        rows = [_Row(passage, n) for passage in batch for n in passage.wanted or each]
        drafts: list[Draft] = []
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            drafts += map(self._draft, some, self._write(some))
        written = iter(drafts)
        return [list(islice(written, len(p.wanted or each))) for p in batch]

    def _write(self, rows: Sequence[_Row]) -> list[Written]:
        c = self._config
        prompts = [
            self._model.prompt(fill(c.prompt, row.passage.text), c.system, c.chat_template)
            for row in rows
        ]
        seeds = [key_of(f"{self._seed}/{row.passage.id}#{row.n}") >> 1 for row in rows]
        return self._model.write(
            prompts, seeds, max_tokens=c.max_tokens, temperature=c.temperature, top_p=c.top_p
        )

    def _draft(self, row: _Row, written: Written) -> Draft:
        if written.why_not:
            return Draft("", reason=written.why_not)
        cut_at = self._config.max_tokens if written.is_cut else None
        return draft_of(written.text, row.passage.text, cut_at=cut_at)
