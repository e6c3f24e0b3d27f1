"""Paraphrases by a language model behind an endpoint of OpenAI's protocol: vLLM, llama.cpp."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pydantic import Field, field_validator

from braidlm.arch.config import Config
from braidlm.data.paraphrase.asking import Asker, Patience
from braidlm.data.paraphrase.budget import Budget
from braidlm.data.paraphrase.endpoint import Address, Endpoint
from braidlm.data.paraphrase.method import Draft, Passage, PassageError
from braidlm.data.paraphrase.prompting import DEFAULT_PROMPT, Template, draft_of, fill
from braidlm.data.paraphrase.reading import TextInput, read_passages
from braidlm.data.seeding import key_of
from braidlm.errors import InputError


class OpenAIConfig(Config):
    """Which model is asked for what; and, outside the manifest, where, how fast and how much.

    The second kind does not decide what is written: a run may go on at another address, with
    another budget.
    """

    model: str = Field(min_length=1)
    """Name of the model, as the endpoint knows it."""
    prompt: Template = DEFAULT_PROMPT
    """What is asked, with "{text}" where the text goes."""
    system: str = ""
    """System message; empty: none is sent."""
    n: int = Field(default=1, ge=1, le=64)
    """Paraphrases of each text, each by a request of its own."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Divides the logits; 0 takes the most probable token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Probability of the nucleus that is sampled from; 1 keeps every token."""
    max_tokens: int = Field(default=512, ge=1)
    """Of an answer; one that is cut there is rejected."""

    url: str = Field(exclude=True)
    """Address, such as http://127.0.0.1:8000/v1."""
    key_env: str = Field(default="", exclude=True)
    """Name of the environment variable that holds the key; empty: none is sent. The key itself
    is written nowhere."""
    concurrency: int = Field(default=4, ge=1, le=512, exclude=True)
    """Requests at a time."""
    timeout_sec: float = Field(default=120.0, gt=0, le=86400, exclude=True)
    """For one request, from connecting to the last byte."""
    retries: int = Field(default=5, ge=0, le=100, exclude=True)
    """Times that a request which failed is sent again."""
    first_wait_sec: float = Field(default=1.0, ge=0, le=3600, exclude=True)
    """Before the first retry; doubles with each, up to 60 s, and is shortened by up to a half."""
    max_requests: int = Field(default=0, ge=0, exclude=True)
    """Budget of one run: requests, those that fail included; 0: any."""
    max_total_tokens: int = Field(default=0, ge=0, exclude=True)
    """Budget of one run: tokens of prompts and answers; 0: any."""
    max_sec: float = Field(default=0.0, ge=0, exclude=True)
    """Budget of one run: seconds; 0: any."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        Address.parse(url)
        return url


class OpenAI:
    """Asks for each paraphrase by one request, `concurrency` at a time.

    Raises:
        InputError: the environment lacks the key, or it cannot be sent.
    """

    batch_size = 1

    def __init__(self, config: OpenAIConfig, source: TextInput, seed: int) -> None:
        self._config, self._source, self._seed = config, source, seed
        self.workers = config.concurrency
        c = config
        budget = Budget(c.max_requests, c.max_total_tokens, c.max_sec)
        patience = Patience(c.timeout_sec, c.retries, c.first_wait_sec)
        body = {
            "model": c.model,
            "max_tokens": c.max_tokens,
            "temperature": c.temperature,
            "top_p": c.top_p,
        }
        endpoint = Endpoint(Address.parse(c.url), key_of_environment(c.key_env))
        self._asker = Asker(endpoint, budget, patience, body)

    def passages(self) -> Iterator[Passage]:
        """Yield the passages of the input.

        Raises:
            InputError: as `read_passages`.
        """
        return read_passages(self._source)

    def paraphrase(self, batch: Sequence[Passage]) -> Sequence[Sequence[Draft]]:
        """Return n drafts of each passage; one without a usable answer holds the reason.

        Raises:
            StoppedError: the endpoint is down, or the budget spent.
            InputError: the endpoint refuses whatever is asked.
        """
        return [[self._draft(p, n) for n in p.wanted or range(self._config.n)] for p in batch]

    def close(self) -> None:
        """End the requests under way."""
        self._asker.close()

    def _draft(self, passage: Passage, n: int) -> Draft:
        c = self._config
        seed = key_of(f"{self._seed}/{passage.id}#{n}") >> 33  # 31 bits: every endpoint takes it
        try:
            answer = self._asker.ask(fill(c.prompt, passage.text), system=c.system, seed=seed)
        except PassageError as error:
            return Draft("", reason=str(error))
        return draft_of(answer.text, passage.text, cut_at=c.max_tokens if answer.is_cut else None)


def key_of_environment(name: str) -> str:
    """Return the key that an environment variable holds; "" without a name.

    Raises:
        InputError: there is no such variable, or it is empty.
    """
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise InputError(
            f"key_env = {name!r}: the environment has no such variable, or it is empty"
        )
    return key
