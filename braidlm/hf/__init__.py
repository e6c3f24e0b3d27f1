"""Any declared hybrid as a model of transformers: ``import braidlm.hf`` teaches its Auto classes.

A folder of `braid export --format braid-hf` is then loaded by ``AutoModelForCausalLM`` without any
code in the folder: `generate`, lm-eval and PEFT take it as they take any other model.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from braidlm.hf.cache import BraidCache
from braidlm.hf.config import BraidConfig
from braidlm.hf.model import BraidForCausalLM

AutoConfig.register(BraidConfig.model_type, BraidConfig, exist_ok=True)
AutoModelForCausalLM.register(BraidConfig, BraidForCausalLM, exist_ok=True)

__all__ = ["BraidCache", "BraidConfig", "BraidForCausalLM"]
