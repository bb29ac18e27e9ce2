"""A head takes the outputs of a backbone's stages and returns logits at the size of one of them."""

from lib.models.heads.ann import AsymmetricHead
from lib.models.heads.deeplab import DeepLabHead
from lib.models.heads.dense_aspp import DenseASPPHead
from lib.models.heads.fcn import AuxiliaryHead, FCNHead
from lib.models.heads.global_context_head import GlobalContextHead
from lib.models.heads.nonlocal_head import NonLocalHead
from lib.models.heads.psp import PSPHead

HEADS = {
    "nonlocal": NonLocalHead,
    "fcn": FCNHead,
    "global_context": GlobalContextHead,
    "asymmetric": AsymmetricHead,
    "psp": PSPHead,
    "deeplab_v3": DeepLabHead,
    "dense_aspp": DenseASPPHead,
    "auxiliary": AuxiliaryHead,
}
