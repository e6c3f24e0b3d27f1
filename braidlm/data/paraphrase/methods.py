"""The methods by name: one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from braidlm.arch.biographies import BiographiesMethod
from braidlm.arch.config import Config, nearest
from braidlm.arch.sources import Corpus
from braidlm.data.biographies.method import BiographyPairs, facts
from braidlm.data.paraphrase.hf import HF, HFConfig
from braidlm.data.paraphrase.method import Method
from braidlm.data.paraphrase.openai import OpenAI, OpenAIConfig
from braidlm.data.paraphrase.pairs import Pairs, PairsConfig
from braidlm.data.paraphrase.reading import TextInput
from braidlm.data.paraphrase.rules.rewrite import Rules, RulesConfig
from braidlm.errors import InputError

Beside = Mapping[str, Iterable[dict[str, Any]]]
"""Name of a .jsonl file -> its records."""


class Kind(NamedTuple):
    """How a method is declared and made."""

    config: type[Config]
    """Its settings; what they hold decides the drafts, and stands in the manifest. Fields with
    ``exclude=True`` (addresses, budgets, batch sizes) do not decide them: a run may go on with
    others."""
    open: Callable[[Any, Any, int], Method]
    """(settings, input, seed) -> the method; the input is None where there is none."""
    source: type[Corpus] | None
    """What its input is: `TextInput` (passages by `read_passages`), `Corpus` (records), or None
    for a method that takes no input."""
    beside: Callable[[Any, int], Beside] = lambda config, seed: {}
    """(settings, seed) -> what stands in the folder beside the paraphrases."""


METHODS: Mapping[str, Kind] = {
    "hf": Kind(HFConfig, HF, TextInput),
    "openai": Kind(OpenAIConfig, OpenAI, TextInput),
    "pairs": Kind(PairsConfig, lambda config, source, seed: Pairs(config, source), Corpus),
    "rules": Kind(RulesConfig, Rules, TextInput),
    "biographies": Kind(
        BiographiesMethod,
        lambda config, source, seed: BiographyPairs(config, seed),
        None,
        lambda config, seed: {"facts.jsonl": facts(config, seed)},
    ),
}


class Opened(NamedTuple):
    """A method and what the manifest says of it."""

    method: Method
    settings: dict[str, Any]
    source: dict[str, Any] | None
    beside: Beside


def open_method(
    name: str, path: str | None, settings: Mapping[str, Any], source: Mapping[str, Any], seed: int
) -> Opened:
    """Return a method over an input.

    Args:
        name: of the method.
        path: of the input; None where the method takes none.
        settings: the method's own.
        source: fields of the input beside its path.
        seed: of all that is random.

    Raises:
        InputError: there is no such method, a setting is wrong, or an input is missing or too
            much.
    """
    if name not in METHODS:
        hint = nearest(name, list(METHODS))
        raise InputError(f"unknown --method '{name}'{hint}; allowed: {', '.join(METHODS)}")
    kind = METHODS[name]
    config = kind.config.of(dict(settings), f"--method {name}")
    read = _source(name, kind, path, source)
    method = kind.open(config, read, seed)
    plain = None if read is None else read.model_dump(mode="json", exclude=_OF_TRAINING)
    return Opened(method, config.model_dump(mode="json"), plain, kind.beside(config, seed))


_OF_TRAINING = {"kind", "name", "weight"}
"""Fields of a source that say how it is mixed, not what it holds."""


def _source(
    name: str, kind: Kind, path: str | None, source: Mapping[str, Any]
) -> Corpus | TextInput | None:
    if kind.source is None:
        if path is not None or source:
            raise InputError(f"IN = '{path}': --method {name} makes its texts and takes no input")
        return None
    if path is None:
        raise InputError(f"--method {name} needs an input: a file, a folder, or 'hf:NAME'")
    return kind.source.of({**source, "path": path}, "source")
