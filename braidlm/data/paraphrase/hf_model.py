"""A folder of transformers that continues prompts in batches, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm.data.compression import needs
from braidlm.device import choose_device
from braidlm.errors import InputError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_NO_LIMIT = 10**9
"""Above this, a tokenizer's greatest length says that nobody wrote one down."""


class Written(NamedTuple):
    """What came of one prompt."""

    text: str
    is_cut: bool = False
    """It ended at the limit of tokens, not by itself."""
    why_not: str = ""
    """Why there is nothing; a word, and after ":" what exactly."""


class LocalModel:
    """A causal or a sequence-to-sequence model with its tokenizer.

    Args:
        folder: of the checkpoint.
        device: auto, cpu or cuda.
        dtype: fp32 or bf16.

    Raises:
        InputError: nothing there that transformers itself can read; no such device.
    """

    def __init__(self, folder: str, device: str, dtype: str) -> None:
        self._device = choose_device(device)
        if not Path(folder).is_dir():
            raise InputError(f"model '{folder}': must be a folder of this machine")
        try:
            import transformers
        except ImportError:
            raise needs("transformers", "hf", f"model '{folder}'") from None
        usual: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **usual)
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **usual)
            self._is_seq2seq = bool(getattr(config, "is_encoder_decoder", False))
            auto: Any = transformers.AutoModelForCausalLM
            if self._is_seq2seq:
                auto = transformers.AutoModelForSeq2SeqLM
            model = auto.from_pretrained(folder, dtype=_DTYPES[dtype], **usual)
        except Exception as error:  # whatever its own checks lead it to
            told = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(
                f"model '{folder}': transformers cannot load it: {told:.300}"
            ) from None
        self._folder = folder
        self._model: Any = model.to(self._device).eval()
        self._ends = _ends(self._model, self._tokenizer)
        if not self._ends:
            raise InputError(f"model '{folder}': names no token that ends a text (eos_token_id)")
        self._limit = _limit(config, self._tokenizer)
        self._start = _start(self._model)

    def check_prompt(self, *, system: str, is_chat: bool) -> None:
        """Refuse a system message or a chat template that cannot be used.

        Raises:
            InputError: a system message without a chat template, or one that the template refuses.
        """
        if system and not (is_chat and self._tokenizer.chat_template):
            raise InputError(
                f"system: goes into a chat template, and model '{self._folder}' has none, or "
                "chat_template = false; put it into the prompt"
            )
        try:
            self.prompt("text", system, is_chat)
        except Exception as error:  # a template is a program, and may raise anything
            told = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(
                f"model '{self._folder}': its chat template cannot be used: {told:.200}"
            ) from None

    def prompt(self, text: str, system: str, is_chat: bool) -> list[int]:
        """Return the tokens of a prompt."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        if not (is_chat and self._tokenizer.chat_template):
            return list(self._tokenizer(text).input_ids)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": text})
        written = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return list(self._tokenizer(written, add_special_tokens=False).input_ids)

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
    ) -> list[Written]:
        """Continue prompts, in one batch, until each ends by itself or has `max_tokens`.

        What a prompt gives depends on its own seed, up to what a batch's width does to rounding.

        Args:
            prompts: tokens of each.
            seeds: of each, below 2^63.
            max_tokens: of an answer.
            temperature: 0 takes the most probable token.
            top_p: in (0, 1].
        """
        why_not = [self._why_not(prompt, max_tokens) for prompt in prompts]
        rows = [i for i, why in enumerate(why_not) if not why]
        found = [Written("", why_not=why) for why in why_not]
        if rows:
            draw = Draw([seeds[i] for i in rows], temperature, top_p) if temperature else None
            new = self._generate([prompts[i] for i in rows], max_tokens, draw)
            for i, ids in zip(rows, new, strict=True):
                found[i] = self._written(ids)
        return found

    def _why_not(self, prompt: Sequence[int], max_tokens: int) -> str:
        needed = len(prompt) + (0 if self._is_seq2seq else max_tokens)
        if not prompt:
            return "empty_prompt"
        return f"too_long: {needed} tokens of {self._limit}" if needed > self._limit else ""

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, draw: Draw | None
    ) -> list[list[int]]:
        from transformers import GenerationConfig, LogitsProcessorList

        ids, mask = _padded(prompts, self._ends[0], is_left=not self._is_seq2seq)
        plain = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
            decoder_start_token_id=self._start,
        )
        self._model.generation_config = plain  # else its own fills what this one leaves open
        out = self._model.generate(
            ids.to(self._device),
            attention_mask=mask.to(self._device),
            generation_config=plain,
            logits_processor=LogitsProcessorList([draw] if draw else []),
        )
        begin = 1 if self._is_seq2seq else ids.shape[1]
        return out[:, begin:].tolist()

    def _written(self, ids: list[int]) -> Written:
        ends = [i for i, token in enumerate(ids) if token in self._ends]
        kept = ids[: ends[0]] if ends else ids
        text = self._tokenizer.decode(
            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Written(text, is_cut=not ends)


class Draw:
    """Makes the greatest score of each row a draw from its distribution, by the row's own stream.

    The greatest of logits with independent Gumbel noise added is distributed as their softmax.

    Args:
        seeds: one for each row.
        temperature: above 0.
        top_p: in (0, 1].

    Source: the Gumbel-max trick (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030, section 2).
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (n, V), perturbed; `input_ids` (n, T) are those before."""
        scores = self._nucleus(scores.float() / self._temperature)
        draws = [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._streams]
        return scores - torch.stack(draws).log().to(scores.device)

    def _nucleus(self, scores: Tensor) -> Tensor:
        """Leave the fewest most probable tokens whose probabilities sum to top_p."""
        if self._top_p >= 1:
            return scores
        ordered, places = scores.sort(dim=-1, descending=True)
        p = ordered.softmax(-1)
        is_out = (p.cumsum(-1) - p >= self._top_p).scatter(
            -1, places, p.cumsum(-1) - p >= self._top_p
        )
        return scores.masked_fill(is_out, float("-inf"))


def _padded(prompts: Sequence[Sequence[int]], pad: int, *, is_left: bool) -> tuple[Tensor, Tensor]:
    """Return tokens and mask, (n, longest) each: an answer follows its prompt's last token."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if is_left else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = 1
    return ids, mask


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a text: the model's own, else the tokenizer's."""
    for owner in (model.generation_config, model.config, tokenizer):
        found = getattr(owner, "eos_token_id", None)
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    return []


def _start(model: Any) -> int | None:
    for owner in (model.generation_config, model.config):
        found = getattr(owner, "decoder_start_token_id", None)
        if found is not None:
            return found
    return None


def _limit(config: Any, tokenizer: Any) -> int:
    """Return the most tokens that the model takes."""
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min((n for n in limits if isinstance(n, int) and 0 < n < _NO_LIMIT), default=_NO_LIMIT)
