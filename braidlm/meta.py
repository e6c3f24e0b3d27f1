"""Meta tokens: learned vectors that stand before every document and are no tokens of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidlm.segments import Segments


class MetaTokens(nn.Module):
    """What a document starts from instead of nothing.

    Every mixer reads them before the document's first token, so that a reset goes to the state that
    they leave behind. A call that continues documents does without: the state holds them.
    """

    def __init__(self, n_tokens: int, d_model: int) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.weight = nn.Parameter(torch.empty(n_tokens, d_model))

    def reset_parameters(self, std: float) -> None:
        """Draw them as an embedding."""
        nn.init.normal_(self.weight, std=std)

    def before(
        self, embedded: Tensor, segments: Segments | None
    ) -> tuple[Tensor, Segments | None, Tensor | None]:
        """Put the vectors before every document.

        Args:
            embedded: (B, T, d_model).
            segments: where documents lie; None: each row is one document.

        Returns:
            The longer rows (B, T', d_model), where documents lie in them, and for `without` the
            places (B, T) of the tokens in the flattened rows, or None if they end every row.
        """
        vectors = self.weight.to(embedded.dtype)
        if segments is None:
            return torch.cat((vectors.expand(len(embedded), -1, -1), embedded), dim=1), None, None
        room = segments.with_room(self.n_tokens)
        rows = embedded.new_zeros(room.segments.doc.numel(), embedded.shape[2])
        rows = rows.index_copy(0, room.tokens.flatten(), embedded.flatten(0, 1))
        rows = rows.index_copy(0, room.free.flatten(), vectors.repeat(segments.n_docs, 1))
        return rows.view(*room.segments.shape, -1), room.segments, room.tokens

    def without(self, hidden: Tensor, places: Tensor | None) -> Tensor:
        """Return the tokens' part (B, T, d_model) of the longer rows (B, T', d_model)."""
        if places is None:
            return hidden[:, self.n_tokens :]
        return hidden.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, -1)
