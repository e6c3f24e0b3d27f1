"""Closeness of meaning by a sentence-embedding model, where one is installed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from braidlm.errors import InputError

_BATCH = 64


class Similarity:
    """Cosine similarity of the embeddings of a text and its paraphrase.

    Source: Reimers and Gurevych 2019 (arXiv 1908.10084).
    """

    def __init__(self, model: str) -> None:
        """Load a model.

        Args:
            model: a folder, or a name from the Hugging Face Hub, as sentence-transformers reads it.

        Raises:
            InputError: the package is not installed, or it finds no such model.
        """
        try:
            library: Any = importlib.import_module("sentence_transformers")
        except ImportError:
            raise InputError(
                f"gate.semantic_model = '{model}': needs the package 'sentence-transformers', "
                "which is not installed: pip install 'braidlm[paraphrase]'; leave the field empty "
                "to judge without"
            ) from None
        try:
            self._model: Any = library.SentenceTransformer(model)
        except Exception as error:  # whatever a damaged or missing folder raises in five libraries
            first = str(error).strip().partition("\n")[0]
            raise InputError(f"gate.semantic_model = '{model}': cannot be read ({first})") from None

    def of(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the cosine of each (text, paraphrase), in [-1, 1]; each text is embedded once."""
        texts = sorted({text for pair in pairs for text in pair})
        found = self._model.encode(
            texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        at = dict(zip(texts, found, strict=True))
        return [float(at[text] @ at[paraphrase]) for text, paraphrase in pairs]
