"""`HybridLM` behind the interface of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from braidlm.errors import InputError
from braidlm.hf.cache import BraidCache
from braidlm.hf.config import BraidConfig
from braidlm.interop.names import Undrawn
from braidlm.model import HybridLM
from braidlm.segments import Segments


class BraidForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model of any declaration. Its weights are those of `HybridLM` behind "model."."""

    config_class = BraidConfig
    config: BraidConfig
    main_input_name = "input_ids"
    _tied_weights_keys = {"model.lm_head.weight": "model.embedding.weight"}  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["dynamics"]  # noqa: RUF012
    _is_stateful = True
    _supports_sdpa = True
    _supports_flash_attn = False

    def __init__(self, config: BraidConfig) -> None:
        super().__init__(config)
        self.model = HybridLM(config.declaration)
        self.shared = _later_uses(self.model)
        self._tied_weights_keys = {**type(self)._tied_weights_keys, **self.shared}
        self.post_init()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Name each tensor that is another one: a tied head, and later uses of shared letters."""
        head = type(self)._tied_weights_keys if self.config.tie_word_embeddings else {}
        named = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        return {**head, **{k: v for k, v in self.shared.items() if k in named}}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: BraidCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run the model.

        Args:
            input_ids: (B, T) new tokens.
            attention_mask: (B, columns seen and new): 0 at padding, on either side.
            position_ids: (B, T); without a mask and a cache, each 0 begins a packed document.
            past_key_values: what an earlier call returned, changed by this one.
            labels: (B, T): `input_ids` again, -100 where nothing is learnt; shifted here.
            use_cache: whether the state is returned; None: unless training.
            logits_to_keep: compute those of the last tokens alone; 0: all.
            output_attentions: not to be had.
            output_hidden_states: not to be had.
            return_dict: False: a tuple.
            inputs_embeds: not to be had: the model reads tokens.
            num_items_in_batch: what the loss is divided by, instead of its own tokens.

        Raises:
            InputError: a mask of another shape, or with padding between tokens of one row.
        """
        if output_attentions or output_hidden_states or inputs_embeds is not None:
            raise InputError(
                "output_attentions, output_hidden_states, inputs_embeds: not to be had; leave out"
            )
        use_cache = not self.training and self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values
        state = None if cache is None else cache.state
        segments = _segments(input_ids, attention_mask, position_ids, state is not None)
        out = self.model(input_ids, segments, state, return_state=use_cache or state is not None)
        if use_cache or cache is not None:
            cache = BraidCache() if cache is None else cache
            cache.replace(out.state, input_ids.shape[1])
        logits = self.model.head(out.hidden[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        result = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)  # pyright: ignore
        return result.to_tuple() if return_dict is False else result

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding, e.g. by one with more rows."""
        self.model.embedding = value  # pyright: ignore[reportAttributeAccessIssue]

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.model.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head."""
        self.model.lm_head = new_embeddings  # pyright: ignore[reportAttributeAccessIssue]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Compute what no checkpoint holds; weights were drawn by the model's own constructor."""
        names = sorted(module._non_persistent_buffers_set)
        if names:
            place = next(name for name, m in self.model.named_modules() if m is module)
            with torch.device("cpu"), Undrawn():
                same = HybridLM(self.config.declaration).get_submodule(place)
            for name in names:
                if (buffer := getattr(module, name)) is not None:
                    buffer.copy_(getattr(same, name))

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *sizes: Any
    ) -> None:
        """Begin with an empty cache, so that a prompt can be read in parts too."""
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = BraidCache()


def _later_uses(model: HybridLM) -> dict[str, str]:
    """Name the tensors of later uses of shared letters, and those of the first that they are."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = first.setdefault(id(tensor), name)
        if owner != name and name.startswith("blocks."):
            found[f"model.{name}"] = f"model.{owner}"
    return found


def _segments(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    is_continued: bool,
) -> Segments | None:
    """Return where the new tokens of each row lie; None: everywhere."""
    batch, length = input_ids.shape
    if attention_mask is None:
        if position_ids is None or is_continued or bool((position_ids[:, 1:] > 0).all()):
            return None
        return Segments.from_doc_ids((position_ids == 0).cumsum(1))
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch:
        shape = tuple(attention_mask.shape)
        raise InputError(f"attention_mask has shape {shape}: must be ({batch}, tokens)")
    mask = attention_mask[:, -length:].bool()
    if bool(mask.all()):
        return None
    if not bool(mask.any(1).all()):
        raise InputError("attention_mask hides all new tokens of a row: leave the row out")
    return Segments.from_mask(mask)
