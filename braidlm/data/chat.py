"""A user's message as a chat model was trained to see it: in its tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from braidlm.arch.sources import HUB
from braidlm.data.compression import needs
from braidlm.data.hub import tokenizer_folder
from braidlm.errors import InputError


def chat_prompts(name: str, messages: Sequence[str]) -> list[list[int]]:
    """Return the ids after which each message is answered, all that the template says around it.

    Args:
        name: of the tokenizer: "hf:" and a folder, or a name of the Hugging Face Hub.
        messages: of a user, one conversation each.

    Raises:
        InputError: a tokenizer without a template, a template that fails, or no `transformers`.
    """
    if not name.startswith(HUB):
        raise InputError(
            f"tokenizer {name} has no chat template: only folders in the Hub's form do"
        )
    inner = _loaded(tokenizer_folder(name.removeprefix(HUB)), name)
    if not inner.chat_template:
        raise InputError(f"tokenizer {name} has no chat template: prompt the model without --chat")
    return [_prompt(inner, message, name) for message in messages]


def _loaded(folder: Path, name: str):
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise needs("transformers", "hf", f"the chat template of {name}") from None
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # whatever the library, or a file of the folder, raises
        told = " ".join(str(error).split())[:200]
        raise InputError(f"tokenizer {name}: transformers cannot read it ({told})") from None


def _prompt(inner, message: str, name: str) -> list[int]:
    said = [{"role": "user", "content": message}]
    try:
        text = inner.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program
        told = " ".join(str(error).split())[:200]
        raise InputError(f"tokenizer {name}: its chat template fails: {told}") from None
    return list(inner.encode(text, add_special_tokens=False))
