"""Heads compute what their papers write down, and their options change what they say."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from lib.base.errors import UserError
from lib.models import HEADS, build_segmentor
from lib.models.blocks.global_context import GlobalContext
from lib.models.heads.ann import AsymmetricHead
from lib.models.heads.deeplab import DeepLabHead
from lib.models.heads.dense_aspp import DenseASPPHead
from lib.models.heads.fcn import AuxiliaryHead, FCNHead
from lib.models.heads.global_context_head import GlobalContextHead
from lib.models.heads.nonlocal_head import NonLocalHead
from lib.models.heads.psp import PSPHead

CHANNELS = (4, 6, 8, 12)
SMALL = {
    PSPHead: {"inner": 5, "width": 7},
    DeepLabHead: {"inner": 5, "width": 7, "dilations": (1, 2, 3)},
    DenseASPPHead: {"inner": 6, "growth": 3},
    AsymmetricHead: {"embedding": 4, "width": 8},
    GlobalContextHead: {"width": 7},
    FCNHead: {"width": 7},
    AuxiliaryHead: {},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(head, **options):
    """A head in float64 and eval mode, its norms and biases not what they start as."""
    head = head(CHANNELS, 3, **options).double().eval()
    for layer in head.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(layer.weight, mean=1)
            torch.nn.init.normal_(layer.bias)
    return head


def stages(batch=2):
    """Outputs of a dilated backbone's stages."""
    sizes = ((18, 22), (9, 11), (9, 11), (9, 11))
    return [
        torch.randn(batch, channels, *size, dtype=torch.float64) for channels, size in zip(CHANNELS, sizes, strict=True)
    ]


@pytest.mark.parametrize(("head", "options"), SMALL.items())
def test_logits_have_the_size_of_the_stage_and_images_do_not_mix(head, options):
    head, features = make(head, **options), stages()
    logits = head(features)
    assert logits.shape == (2, 3, 9, 11)
    alone = head([feature[1:] for feature in features])
    torch.testing.assert_close(logits[1:], alone)


@pytest.mark.parametrize(("head", "options"), SMALL.items())
def test_every_parameter_has_a_gradient(head, options):
    head = make(head, **options).train()
    head(stages()).square().sum().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("head", "options"), SMALL.items())
def test_dropout_acts_in_training_only(head, options):
    head, features = make(head, **options, dropout=0.5), stages()
    torch.testing.assert_close(head(features), head(features))
    for layer in head.modules():
        if isinstance(layer, torch.nn.Dropout2d):
            layer.train()
    assert not torch.equal(head(features), head(features))


@pytest.mark.parametrize("align_corners", [True, False])
def test_psp_joins_the_upsampled_levels_to_the_input(align_corners):
    head = make(PSPHead, inner=5, width=7, pyramid=(1, 3), align_corners=align_corners)
    features = stages()
    x = features[-1]
    bins = [[x[:, :, a:b, c:d].mean((2, 3)) for c, d in ((0, 4), (3, 8), (7, 11))] for a, b in ((0, 3), (3, 6), (6, 9))]
    grid = torch.stack([torch.stack(row, dim=2) for row in bins], dim=2)
    levels = [head.levels[0](x.mean((2, 3), keepdim=True)), head.levels[1](grid)]
    wide = [F.interpolate(y, (9, 11), mode="bilinear", align_corners=align_corners) for y in levels]
    expected = head.classifier(head.fuse(torch.cat([x, *wide], dim=1)))
    torch.testing.assert_close(head(features), expected)


def test_deeplab_is_torchvisions_pyramid_with_the_image_branch_in_front():
    head = make(DeepLabHead, inner=5, width=5, dilations=(2, 3, 4))
    theirs = ASPP(12, (2, 3, 4), out_channels=5).double().eval()
    ours = (head.point, *head.atrous, head.image)
    for branch, source in zip(theirs.convs, ours, strict=True):
        branch.load_state_dict(dict(zip(branch.state_dict(), source.state_dict().values(), strict=True)))
    fuse = dict(zip(theirs.project.state_dict(), head.fuse.state_dict().values(), strict=True))
    image, others = fuse["0.weight"].split([5, 20], dim=1)
    theirs.project.load_state_dict(fuse | {"0.weight": torch.cat([others, image], dim=1)})
    features = stages()
    torch.testing.assert_close(head(features), head.classifier(theirs(features[-1])))


def test_dense_aspp_reads_the_input_and_all_earlier_layers():
    head, features = make(DenseASPPHead, dilations=(2, 3, 4), inner=6, growth=3), stages()
    x = features[-1]
    for rate, layer in zip((2, 3, 4), head.layers, strict=True):
        out = F.conv2d(layer[0](x).clamp(min=0), layer[2].weight, layer[2].bias)
        out = F.conv2d(layer[3](out).clamp(min=0), layer[5].weight, layer[5].bias, padding=rate, dilation=rate)
        x = torch.cat([out, x], dim=1)
    torch.testing.assert_close(head(features), head.classifier(x))


def test_dense_aspp_has_the_papers_832_channels_on_512():
    head = DenseASPPHead((512,), 19)
    assert head.classifier.in_channels == 832
    assert [layer[5].dilation[0] for layer in head.layers] == [3, 6, 12, 18, 24]
    assert {layer[2].out_channels for layer in head.layers} == {256}


def test_the_asymmetric_head_queries_stage_4_and_keys_stage_3():
    head, features = make(AsymmetricHead, embedding=4, width=8), stages()
    fused = head.fusion(features[2], features[3])
    expected = head.classifier(head.block(head.reduce(fused)))
    torch.testing.assert_close(head(features), expected)
    assert head.fusion.branches[0].key.conv.in_channels == 8
    assert head.fusion.branches[0].query.conv.in_channels == 12


def test_the_global_context_head_is_the_non_local_head_with_that_block():
    head, features = make(GlobalContextHead, width=7, multiply=True), stages()
    other = make(NonLocalHead, width=7, block=lambda channels: GlobalContext(channels, multiply=True))
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(features), other(features))


@pytest.mark.parametrize(("convs", "concat_input"), [(1, True), (1, False), (2, False), (3, True)])
def test_fcn_has_the_convolutions_and_the_join_it_is_told_to(convs, concat_input):
    head, features = make(FCNHead, inner=5, width=7, convs=convs, concat_input=concat_input), stages()
    chain = [head.reduce, *({1: [], 2: [head.refine]}.get(convs) or head.refine)]
    assert len(chain) == convs
    x = features[-1]
    for layer in chain:
        x = layer(x)
    if concat_input:
        x = head.fuse(torch.cat([features[-1], x], dim=1))
    torch.testing.assert_close(head(features), head.classifier(x))


def test_an_fcn_head_of_one_convolution_without_join_is_the_auxiliary_head():
    head = make(FCNHead, inner=6, convs=1, concat_input=False)
    aux = make(AuxiliaryHead, stage=4)
    aux.load_state_dict(head.state_dict())
    features = stages()
    torch.testing.assert_close(head(features), aux(features))


def test_the_auxiliary_heads_bias_changes_nothing_that_the_norm_keeps():
    features = stages()
    head = make(AuxiliaryHead, width=5, bias=True, dropout=0.0).train()
    before = head(features)
    with torch.no_grad():
        head.reduce.conv.bias += torch.randn(5)
    torch.testing.assert_close(head(features), before)


@pytest.mark.parametrize(
    ("head", "options"), [(FCNHead, {"convs": 0}), (PSPHead, {"pyramid": (0,)}), (AsymmetricHead, {"pyramid": ()})]
)
def test_impossible_options_are_refused(head, options):
    with pytest.raises(UserError):
        head(CHANNELS, 3, **options)


@pytest.mark.parametrize("name", ["psp", "deeplab_v3", "dense_aspp", "asymmetric", "global_context"])
def test_a_segmentor_with_the_head_trains(name):
    assert name in HEADS
    torch.manual_seed(0)
    network = build_segmentor(num_classes=3, backbone={"name": "resnet18"}, head={"name": name}, aux={})
    logits = network(torch.randn(2, 3, 33, 41))
    assert {key: value.shape for key, value in logits.items()} == {"out": (2, 3, 33, 41), "aux": (2, 3, 33, 41)}
    logits["out"].square().mean().backward()
    assert network.backbone.stem[0].conv.weight.grad.abs().sum() > 0
