"""Criss-cross attention (Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019)."""

import torch
from torch import Tensor, nn

from lib.errors import UserError


class CrissCrossAttention(nn.Module):
    """Attention of each position to those of its row and its column, added to the input.

    With q, k and v the projections, and S_u the H + W - 1 positions in u's row and column, u itself counting once
    (paper, eqs. 1 and 2; a gain gamma, which starts at 0, as in the authors' code):

        y_u = sum_{s in S_u} softmax_s(q_u^T k_s) v_s,    out = gamma * y + x.

    Time and memory grow with N (H + W), N = H W. After two passes every position has seen every other.

    Args:
        channels: of the input and the output.
        embedding: channels of query and key; default channels // 8.
        recurrence: passes, with the same weights (R in the paper); at least 1.

    Raises:
        UserError: if ``recurrence`` is below 1.
    """

    def __init__(self, channels: int, *, embedding: int | None = None, recurrence: int = 2) -> None:
        super().__init__()
        if recurrence < 1:
            raise UserError(f"recurrence is {recurrence}: criss-cross attention needs at least 1 pass")
        embedding = embedding or channels // 8
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, embedding, 1)
        self.key = nn.Conv2d(channels, embedding, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x H x W and returns the same shape."""
        for _ in range(self.recurrence):
            x = self.gamma * self.attend(self.query(x), self.key(x), self.value(x)) + x
        return x

    @staticmethod
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """y: B x D x H x W twice and B x C x H x W -> B x C x H x W."""
        height, width = query.shape[2:]
        # B x W x H x H, then B x H x W x H: the affinities of a position to its column, itself left to the row
        column = query.permute(0, 3, 2, 1) @ key.permute(0, 3, 1, 2)
        own = torch.eye(height, dtype=torch.bool, device=query.device)
        column = column.masked_fill(own, -torch.inf).transpose(1, 2)
        # B x H x W x W
        row = query.permute(0, 2, 3, 1) @ key.permute(0, 2, 1, 3)
        attention = torch.cat([column, row], dim=3).softmax(dim=3).to(value.dtype)
        column, row = attention.split([height, width], dim=3)
        # B x W x H x C and B x H x W x C
        from_column = column.transpose(1, 2) @ value.permute(0, 3, 2, 1)
        from_row = row @ value.permute(0, 2, 3, 1)
        return from_column.permute(0, 3, 2, 1) + from_row.permute(0, 3, 1, 2)
