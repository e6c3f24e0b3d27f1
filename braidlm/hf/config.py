"""Our declaration as a configuration of transformers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from braidlm.arch import Spec
from braidlm.interop.own import MODEL_TYPE


class BraidConfig(PreTrainedConfig):
    """Holds a `Spec` as plain data, and the few sizes that other libraries ask for."""

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self, spec: dict[str, Any] | None = None, use_cache: bool = True, **settings: Any
    ) -> None:
        """Take a declaration.

        Args:
            spec: `Spec.model_dump(mode="json")`; None: the smallest model, for the library's sake.
            use_cache: whether a call outside training returns its state.
            settings: fields of every configuration, such as `bos_token_id`.

        Raises:
            InputError: a declaration that cannot be.
        """
        declared = Spec.of(spec or {"pattern": "*", "d_model": 64, "vocab_size": 2})
        self.spec = declared.model_dump(mode="json", exclude_none=True)
        self.vocab_size, self.hidden_size = declared.vocab_size, declared.d_model
        self.num_hidden_layers, self.use_cache = declared.n_layers, use_cache
        derived = ("vocab_size", "hidden_size", "num_hidden_layers", "tie_word_embeddings")
        rest = {key: value for key, value in settings.items() if key not in derived}
        rest["tie_word_embeddings"] = declared.tie_embeddings
        super().__init__(**rest)

    @property
    def declaration(self) -> Spec:
        """The model."""
        return Spec.of(self.spec)
