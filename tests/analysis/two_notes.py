"""Models whose memory is known beforehand."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidlm.mixers.mamba2 import Mamba2State
from braidlm.model import Output
from braidlm.ops.attention import KVCache
from braidlm.segments import Segments
from tests.specs import spec

SURE = 12.0
Rule = Literal["kv", "recurrent", "either", "both"]


class TwoNotes(nn.Module):
    """Notes its second token twice, in a cache and in a recurrent state, and answers by `rule`.

    Its hidden states are its logits. kv, recurrent: it says what that note says. both: it says what
    both say, and where they differ nothing. either: the sum of what they say.
    """

    def __init__(self, vocab_size: int, rule: Rule) -> None:
        super().__init__()
        self.vocab_size, self.rule = vocab_size, rule
        self.spec = spec("-*M", vocab_size=vocab_size)
        self.somewhere = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        tokens: Tensor,
        segments: Segments | None = None,
        state: Any = None,
        return_state: bool = True,
    ) -> Output:
        if state is None:
            note = F.one_hot(tokens[:, 1], self.vocab_size).float()
            cache = KVCache(
                note[:, None, None], note[:, None, None], torch.ones(len(tokens)).long()
            )
            state = (None, cache, Mamba2State(note[:, None, None], note[:, None]))
        _, cache, mamba = state
        kv, recurrent = cache.v[:, 0, 0].clone(), mamba.ssm[:, 0, 0].clone()
        said = {
            "kv": kv,
            "recurrent": recurrent,
            "either": (kv + recurrent) / 2,
            "both": kv * recurrent,
        }[self.rule]
        logits = (SURE * said)[:, None].expand(-1, tokens.shape[1], -1)
        # The caller's state is written to: what is asked must be a copy.
        cache.v.fill_(torch.nan)
        mamba.ssm.fill_(torch.nan)
        fresh = (
            None,
            KVCache(cache.k, kv[:, None, None], cache.length),
            mamba._replace(ssm=recurrent[:, None, None]),
        )
        return Output(logits, fresh if return_state else None, {})

    def head(self, hidden: Tensor) -> Tensor:
        return hidden
