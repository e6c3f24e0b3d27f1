"""One file per family: a pure description of its configuration and of its tensors' names."""

from braidlm.interop.families.bamba import BAMBA
from braidlm.interop.families.falcon_h1 import FALCON_H1
from braidlm.interop.families.fla import GATED_DELTANET
from braidlm.interop.families.granitemoehybrid import GRANITE
from braidlm.interop.families.jamba import JAMBA
from braidlm.interop.families.kimi_linear import KIMI
from braidlm.interop.families.llama import LLAMA
from braidlm.interop.families.mamba import FALCON_MAMBA, MAMBA
from braidlm.interop.families.mamba2 import MAMBA2
from braidlm.interop.families.nemotron_h import NEMOTRON_H
from braidlm.interop.families.olmo_hybrid import OLMO_HYBRID
from braidlm.interop.families.qwen3 import QWEN3
from braidlm.interop.families.qwen3_next import QWEN3_NEXT
from braidlm.interop.families.zamba import ZAMBA
from braidlm.interop.families.zamba2 import ZAMBA2
from braidlm.interop.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        *(LLAMA, QWEN3, MAMBA, FALCON_MAMBA, JAMBA, MAMBA2, BAMBA, FALCON_H1),
        *(NEMOTRON_H, GRANITE, QWEN3_NEXT, OLMO_HYBRID, KIMI, ZAMBA, ZAMBA2),
    )
}
"""By `model_type`; an export takes the first that expresses the model."""

READ_ONLY: dict[str, Family] = {GATED_DELTANET.model_type: GATED_DELTANET}
"""Of other libraries, by `model_type`: no export writes them."""

__all__ = ["FAMILIES", "READ_ONLY"]
