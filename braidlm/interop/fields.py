"""Fields of a foreign configuration, each described once and read in both directions.

A family's description is a tuple of such fields. Our side is flat: ``d_model`` is a field of the
spec, ``*.n_heads`` one of the mixer of letter ``*``, ``fusion.combine`` one of the fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from braidlm.errors import InputError

Flat = dict[str, Any]
"""Path of a field of ours -> its value."""

HARMLESS = frozenset(
    {
        *("model_type", "architectures", "transformers_version", "torch_dtype", "dtype"),
        *("_name_or_path", "name_or_path", "auto_map", "initializer_range", "use_cache"),
        *("pad_token_id", "bos_token_id", "eos_token_id", "max_position_embeddings"),
        *("attention_dropout", "hidden_dropout", "num_logits_to_keep", "pretraining_tp"),
        *("output_router_logits", "output_attentions", "output_hidden_states", "return_dict"),
        *("_attn_implementation", "attn_implementation", "_attn_implementation_autoset"),
        *("rescale_prenorm_residual", "residual_in_fp32", "use_mamba_kernels", "problem_type"),
        *("z_loss_coefficient", "router_aux_loss_coef", "mamba_ssm_cache_dtype", "id2label"),
        *("label2id", "task_specific_params", "chunk_size_feed_forward", "is_encoder_decoder"),
        *("tokenizer_class", "braid_tokenizer", "unk_token_id", "sep_token_id"),
        *("_model_name_or_path", "is_llama_config", "transformers.js_config"),
    }
)
"""What decides nothing of the function that a model computes in evaluation."""


class Foreign:
    """A foreign configuration, with the defaults of its class, that remembers what was read."""

    def __init__(self, data: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
        self.data, self.defaults, self.where = data, defaults, where
        self.used: set[str] = set()

    def get(self, key: str) -> Any:
        """Return a value, or the default where the file has none or null.

        Raises:
            InputError: there is neither.
        """
        self.used.add(key)
        value = self.data.get(key)
        if value is not None:
            return value
        if key not in self.defaults:
            raise InputError(f"{self.where}: '{key}' is missing")
        default = self.defaults[key]
        return default(self) if callable(default) else default

    def whole(self, key: str) -> int:
        """Return a value that must be a whole number of at least 1.

        Raises:
            InputError: it is something else.
        """
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(key, value, "a whole number of at least 1")
        return value

    def error(self, key: str, value: Any, allowed: str = "") -> InputError:
        """Return the refusal of a value that we do not compute."""
        hint = f"; allowed: {allowed}" if allowed else ""
        text = f"{value!r:.80}"
        return InputError(
            f"{self.where}: config field {key} = {text}: no field of ours expresses it{hint}"
        )

    def check_all_read(self, harmless: frozenset[str]) -> None:
        """Refuse a field that nobody has read: it may decide what the model computes.

        Raises:
            InputError: naming the first such field.
        """
        for key in sorted(self.data):
            value = self.data[key]
            says_nothing = value is None or value is False or value == [] or value == {}
            if key not in self.used | harmless | HARMLESS and not says_nothing:
                raise self.error(key, value)


class Field(Protocol):
    """One fact of a configuration."""

    def read(self, config: Foreign, /) -> Flat:
        """Return what it says in our fields.

        Raises:
            InputError: we do not compute that.
        """
        ...

    def write(self, ours: Flat, /) -> dict[str, Any]:
        """Return how it is said in theirs; {} where our side has nothing to say.

        Raises:
            InputError: theirs cannot say it.
        """
        ...


@dataclass(frozen=True)
class Same:
    """One value on both sides."""

    theirs: str
    ours: str

    def read(self, config: Foreign) -> Flat:
        """Return the value under our name."""
        return {self.ours: config.get(self.theirs)}

    def write(self, ours: Flat) -> dict[str, Any]:
        """Return the value under their name."""
        return {self.theirs: ours[self.ours]} if self.ours in ours else {}


@dataclass(frozen=True)
class Must:
    """A field of theirs that has one value, or some that mean the same, for what we compute."""

    theirs: str
    value: Any
    same: tuple[Any, ...] = ()

    def read(self, config: Foreign) -> Flat:
        """Refuse any other value."""
        found = config.get(self.theirs)
        if found != self.value and found not in self.same:
            raise config.error(self.theirs, found, repr(self.value))
        return {}

    def write(self, ours: Flat) -> dict[str, Any]:
        """Return that value."""
        return {self.theirs: self.value}


@dataclass(frozen=True)
class Past:
    """A field of older files, which need not be there and is not written: one value is computed."""

    theirs: str
    value: Any

    def read(self, config: Foreign) -> Flat:
        """Refuse any other value."""
        config.used.add(self.theirs)
        found = config.data.get(self.theirs)
        if found not in (None, self.value):
            raise config.error(self.theirs, found, repr(self.value))
        return {}

    def write(self, ours: Flat) -> dict[str, Any]:
        """Say nothing."""
        return {}


@dataclass(frozen=True)
class Ours:
    """A field of ours that has one value in all models of a family."""

    ours: str
    value: Any

    def read(self, config: Foreign) -> Flat:
        """Return that value."""
        return {self.ours: self.value}

    def write(self, ours: Flat) -> dict[str, Any]:
        """Say nothing: another value is found when what was written is read again."""
        return {}


@dataclass(frozen=True)
class Coded:
    """What takes a function in each direction."""

    read: Callable[[Foreign], Flat]
    write: Callable[[Flat], dict[str, Any]]


@dataclass(frozen=True)
class Words:
    """A value that each side spells in its own words; the first spelling of theirs is written."""

    theirs: str
    ours: str
    words: tuple[tuple[Any, Any], ...]

    def read(self, config: Foreign) -> Flat:
        """Return our word."""
        found = config.get(self.theirs)
        for word, mine in self.words:
            if word == found and type(word) is type(found):
                return {self.ours: mine}
        raise config.error(self.theirs, found, ", ".join(repr(w) for w, _ in self.words))

    def write(self, ours: Flat) -> dict[str, Any]:
        """Return their word."""
        if self.ours not in ours:
            return {}
        for word, mine in self.words:
            if mine == ours[self.ours]:
                return {self.theirs: word}
        raise InputError(f"{self.ours} = {ours[self.ours]!r}: no {self.theirs} of theirs says it")
