"""Declarations of generated symbols as training data: associative recall, MAD's tasks, copying."""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from braidlm.arch.config import Config


class MQARSource(Config):
    """Multi-query associative recall as training data.

    Source: Arora et al. 2023 (arXiv 2312.04927), zoology's generators.
    """

    kind: Literal["mqar"] = "mqar"
    """The source's kind."""
    name: str = "mqar"
    """Name in metrics and results."""
    weight: float = Field(default=1.0, gt=0)
    """Share of rows, relative to the other sources."""
    vocab_size: int = Field(default=64, gt=3)
    """Symbols: the lower half are keys, the upper half values; of two-part keys thirds."""
    token_offset: int = Field(default=0, ge=0)
    """Id of the first symbol in the model's vocabulary."""
    n_pairs: tuple[int, ...] = Field(default=(8,), min_length=1)
    """Key-value pairs of an item; drawn evenly from these."""
    length: int = Field(default=64, gt=3)
    """Tokens of an item."""
    alpha: float = Field(default=0.01, gt=0)
    """Exponent of the gap's distribution p(g) ~ alpha g^(alpha - 1): small favours near repeats."""
    num_passes: int = Field(default=1, gt=0)
    """How often the list of pairs is shown."""
    shuffle_passes: bool = False
    """Whether every pass after the first has an order of its own. Source: zoology, stacked_mqar."""
    n_updates: int = Field(default=0, ge=0)
    """Keys that get another value after the list; the last one is asked for. Source: zoology,
    forgetting_mqar, with 4 of 8."""
    key_parts: int = Field(default=1, ge=1, le=2)
    """2: a key is two symbols of a square grid, and neither tells the value. Source: zoology,
    compositional_ar."""
    random_non_queries: bool = True
    """Whether positions without a query hold random symbols instead of one filler."""

    @property
    def first_value(self) -> int:
        """The first symbol that is a value."""
        return self.key_parts * (self.vocab_size // (self.key_parts + 1))

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        self.check_pairs(self.n_pairs, self.length)
        return self

    def check_pairs(self, n_pairs: tuple[int, ...], length: int) -> None:
        """Refuse numbers of pairs that do not fit into the symbols, or into `length` tokens.

        Raises:
            ValueError: naming the number or the length, and what is allowed.
        """
        for n in n_pairs:
            check_pairs(self.vocab_size, n, length, self.num_passes, self.n_updates, self.key_parts)


def check_pairs(
    vocab_size: int, n_pairs: int, length: int, num_passes: int, n_updates: int, key_parts: int
) -> None:
    """Refuse pairs that do not fit; see `MQARSource` for the numbers.

    Raises:
        ValueError: naming the number or the length, and what is allowed.
    """
    width = key_parts + 1
    per_part = vocab_size // width
    n_values = vocab_size - key_parts * per_part
    # The first symbol of all is the filler; a grid's sides are that long at most.
    most = min((per_part - 1) ** key_parts, n_values - n_updates)
    if key_parts == 2 and isqrt(n_pairs) ** 2 != n_pairs:
        raise ValueError(
            f"n_pairs = {n_pairs}: must be a square number, as key_parts = 2 make a grid"
        )
    if not 1 <= n_pairs <= most:
        raise ValueError(
            f"n_pairs = {n_pairs}: must be between 1 and {most} for vocab_size = {vocab_size}"
        )
    if n_updates > n_pairs:
        raise ValueError(f"n_updates = {n_updates}: must be at most n_pairs = {n_pairs}")
    needed = width * (n_pairs * (num_passes + 1) + n_updates)
    if needed > length:
        raise ValueError(f"length = {length}: must be at least {needed} for {n_pairs} pairs")


MADName = Literal[
    "in_context_recall",
    "noisy_in_context_recall",
    "fuzzy_in_context_recall",
    "selective_copying",
    "memorization",
    "compression",
]


class Baseline(NamedTuple):
    """A task's published size."""

    vocab_size: int
    length: int
    noise_vocab_size: int = 0
    frac_noise: float = 0.0


BASELINES: dict[MADName, Baseline] = {
    "in_context_recall": Baseline(16, 128),
    "noisy_in_context_recall": Baseline(32, 128, 16, 0.2),
    "fuzzy_in_context_recall": Baseline(16, 128),
    "selective_copying": Baseline(16, 256),
    "memorization": Baseline(256, 32),
    "compression": Baseline(16, 62),
}
"""MAD's baselines; of compression both halves count: 31 symbols to read, and to give back."""


class MADSource(Config):
    """One of MAD's six synthetic tasks as training data.

    Source: Poli et al. 2024 (arXiv 2403.17844); mad-lab's `configs/tasks` for the defaults, which
        are those of the task.
    """

    kind: Literal["mad"] = "mad"
    """The source's kind."""
    name: str = "mad"
    """Name in metrics and results."""
    weight: float = Field(default=1.0, gt=0)
    """Share of rows, relative to the other sources."""
    task: MADName = "in_context_recall"
    """Which one."""
    vocab_size: int = Field(default=16, gt=4)
    """Symbols, those of noise and signs included; default: the task's baseline."""
    token_offset: int = Field(default=0, ge=0)
    """Id of the first symbol in the model's vocabulary."""
    length: int = Field(default=128, gt=3)
    """Tokens of an item, even; default: the task's baseline."""
    noise_vocab_size: int = Field(default=0, ge=0)
    """noisy_in_context_recall: symbols that are noise, 16 there."""
    frac_noise: float = Field(default=0.0, ge=0, lt=1)
    """noisy_in_context_recall: chance of a pair to be noise, 0.2 there."""
    n_copy: int = Field(default=16, gt=0)
    """selective_copying: symbols that are copied. Source: mad-lab."""
    key_size: int = Field(default=3, ge=1, le=8)
    """fuzzy_in_context_recall: symbols of a key at most. Source: mad-lab."""
    value_size: int = Field(default=3, ge=1, le=8)
    """fuzzy_in_context_recall: symbols of a value at most. Source: mad-lab."""
    map_seed: int = Field(default=12345, ge=0)
    """memorization: names the map from keys to values. Source: mad-lab."""
    learn_all: bool = True
    """The recall tasks: whether every next token carries loss in training, as in mad-lab, or the
    answers alone."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_baseline(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("task", "in_context_recall") not in BASELINES:
            return data
        return BASELINES[data.get("task", "in_context_recall")]._asdict() | data

    @model_validator(mode="after")
    def _symbols_fit(self) -> Self:
        is_noisy = self.task == "noisy_in_context_recall"
        if not is_noisy and (self.noise_vocab_size or self.frac_noise):
            raise ValueError(
                f"noise_vocab_size = {self.noise_vocab_size}, frac_noise = {self.frac_noise}: "
                f"only for noisy_in_context_recall, not {self.task}"
            )
        if is_noisy and not 0 < self.noise_vocab_size <= self.vocab_size - 4:
            raise ValueError(
                f"noise_vocab_size = {self.noise_vocab_size}: must be between 1 and "
                f"{self.vocab_size - 4} (vocab_size - 4)"
            )
        n_keys = (self.vocab_size - 1) // 2
        if self.task == "fuzzy_in_context_recall" and n_keys < max(self.key_size, self.value_size):
            raise ValueError(
                f"vocab_size = {self.vocab_size}: must be at least "
                f"{2 * max(self.key_size, self.value_size) + 1} for keys of {self.key_size} and "
                f"values of {self.value_size} different symbols"
            )
        self.check_length(self.length)
        return self

    def check_length(self, length: int) -> None:
        """Refuse a length that no item of the task has.

        Raises:
            ValueError: naming the length, and what is allowed.
        """
        least = 4
        if self.task == "selective_copying":
            least = 2 * self.n_copy + 2
        if self.task == "fuzzy_in_context_recall":
            least = 3 * (self.key_size + self.value_size)
        if length < least:
            raise ValueError(f"length = {length}: must be at least {least} for {self.task}")
        if length % 2:
            raise ValueError(f"length = {length}: must be even for {self.task}")


class CopyingSource(Config):
    """Copies of uniform strings, or look-ups of n-grams in them, as training data.

    Source: Jelassi et al. 2024 (arXiv 2402.01032), sections 3 and 4.
    """

    kind: Literal["copying"] = "copying"
    """The source's kind."""
    name: str = "copying"
    """Name in metrics and results."""
    weight: float = Field(default=1.0, gt=0)
    """Share of rows, relative to the other sources."""
    vocab_size: int = Field(default=28, gt=3)
    """Symbols, the blank and the sign to begin included: 26 letters there."""
    token_offset: int = Field(default=0, ge=0)
    """Id of the first symbol in the model's vocabulary."""
    n_symbols: tuple[int, ...] = Field(default=(8, 16, 24), min_length=1)
    """Symbols of a string; drawn evenly from these."""
    n_gram: int = Field(default=0, ge=0)
    """0: the whole string is copied; else the symbols of the n-gram that is looked up in it."""
    n_answer: int = Field(default=1, gt=0)
    """Look-ups: symbols behind the n-gram that are asked for."""

    @property
    def length(self) -> int:
        """Tokens of an item: that of the longest string."""
        return self.length_of(max(self.n_symbols))

    def length_of(self, n_symbols: int) -> int:
        """Return the tokens of an item with a string of `n_symbols`."""
        return n_symbols + 1 + (self.n_gram + self.n_answer if self.n_gram else n_symbols)

    @model_validator(mode="after")
    def _strings_fit(self) -> Self:
        self.check_strings(self.n_symbols)
        return self

    def check_strings(self, n_symbols: tuple[int, ...]) -> None:
        """Refuse strings in which nothing could be looked up.

        Raises:
            ValueError: naming the string or the n-gram, and what is allowed.
        """
        least = self.n_gram + self.n_answer if self.n_gram else 1
        for n in n_symbols:
            if n < least:
                raise ValueError(f"n_symbols = {n}: must be at least {least}")
            if self.n_gram and (self.vocab_size - 2) ** self.n_gram < n:
                raise ValueError(
                    f"n_gram = {self.n_gram}: too few for strings of {n} out of "
                    f"{self.vocab_size - 2} symbols, in which it must stand once"
                )


SymbolSource = MQARSource | MADSource | CopyingSource
"""Sources of symbols, which read no tokenizer and whose items are never cut."""
