"""The ANN head (Zhu et al., "Asymmetric Non-local Neural Networks for Semantic Segmentation", ICCV 2019)."""

from collections.abc import Sequence

from torch import Tensor, nn

from lib.models.blocks.asymmetric import PYRAMID, AsymmetricFusion, AsymmetricPyramid
from lib.models.common import ConvNormRelu


class AsymmetricHead(nn.Module):
    """Stage 4 fused with stage 3 by attention, 3x3 convolution, pyramid block, classifier (the paper's figure 3).

    Args:
        channels: of the backbone's stages; the head reads the last two.
        num_classes: K.
        embedding: channels of query, key and value in both blocks.
        width: channels of the 3x3 convolution and of the pyramid block.
        pyramid: bins along a side, for every level of both blocks' pyramids.
        branches: attentions with weights of their own that each block adds up.
        bias: whether convolutions before a norm have a bias (as published), which the norm makes redundant.
        dropout: probability with which a channel of a block's output is dropped.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        embedding: int = 256,
        width: int = 512,
        pyramid: Sequence[int] = PYRAMID,
        branches: int = 1,
        bias: bool = True,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        options = {"embedding": embedding, "pyramid": pyramid, "branches": branches, "bias": bias, "dropout": dropout}
        self.fusion = AsymmetricFusion(channels[-2], channels[-1], **options)
        self.reduce = ConvNormRelu(channels[-1], width, bias=bias)
        self.block = AsymmetricPyramid(width, **options)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of the last one's size."""
        fused = self.fusion(features[-2], features[-1])
        return self.classifier(self.block(self.reduce(fused)))
