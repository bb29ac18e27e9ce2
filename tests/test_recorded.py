"""What a foreign checkpoint says of itself is compared with the recipe; a contradiction is an error with its remedy."""

import json
import re
import time
from pathlib import Path

import pytest
import torch

from lib.base.errors import UserError
from lib.tasks import load_config, make_task
from lib.weights.config_text import read_text
from lib.weights.recorded import compare_options, read_recorded

RECIPES = Path(__file__).parents[1] / "configs" / "seg"
NL_IN, DNL_IN, DNL = (RECIPES / "cityscapes" / f"{name}_r101.yaml" for name in ("nl_in", "dnl_in", "dnl"))
MMSEG = RECIPES / "cityscapes" / "mmseg_dnl_r50_512x1024_40k.yaml"

# As mmsegmentation 1.x dumps the configuration of that recipe, but for what has no part here.
TEXT = """
crop_size = (512, 1024)
data_preprocessor = dict(
    bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], pad_val=0, seg_pad_val=255, size=(512, 1024),
    std=[58.395, 57.12, 57.375], type='SegDataPreProcessor')
norm_cfg = dict(requires_grad=True, type='SyncBN')
model = dict(
    auxiliary_head=dict(
        align_corners=False, channels=256, concat_input=False, dropout_ratio=0.1, in_channels=1024, in_index=2,
        loss_decode=dict(loss_weight=0.4, type='CrossEntropyLoss', use_sigmoid=False), norm_cfg=norm_cfg,
        num_classes=19, num_convs=1, type='FCNHead'),
    backbone=dict(
        contract_dilation=True, depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), norm_cfg=norm_cfg,
        norm_eval=False, num_stages=4, out_indices=(0, 1, 2, 3), style='pytorch', type='ResNetV1c'),
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        align_corners=False, channels=512, dropout_ratio=0.1, in_channels=2048, in_index=3,
        loss_decode=dict(loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False), mode='embedded_gaussian',
        norm_cfg=norm_cfg, num_classes=19, reduction=2, type='DNLHead', use_scale=True),
    pretrained='open-mmlab://resnet50_v1c', test_cfg=dict(mode='whole'), train_cfg=dict(), type='EncoderDecoder')
work_dir = './work_dirs/dnl'
"""

# As torchcv's configuration files are read
TORCHCV = {
    "data": {
        "input_mode": "BGR",
        "num_classes": 19,
        "normalize": {"div_value": 1.0, "mean": [102.9801, 115.9465, 122.7717], "std": [1.0, 1.0, 1.0]},
    },
    "nonlocal": {
        "downsample": False,
        "whiten_type": ["channel"],
        "temp": 0.05,
        "with_gc": True,
        "use_out": False,
        "out_bn": False,
    },
    "network": {"backbone": "deepbase_resnet101_dilated8", "multi_grid": [1, 1, 1], "model_name": "nonlocalbn"},
}


def options_of(recipe, *words):
    return make_task(load_config(recipe, words)).options


def mmseg(old="", new="", key="cfg"):
    assert old in TEXT
    return {"state_dict": {}, "meta": {"epoch": 1, key: TEXT.replace(old, new)}}


def torchcv(**changes):
    """The configuration with some values changed: ``nonlocal__temp=0.1``."""
    tree = json.loads(json.dumps(TORCHCV))
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = tree
        for parent in parents:
            place = place[parent]
        place[name] = value
    return {"state_dict": {}, "config_dict": tree}


NOWD = {"whiten_type": ["ln_nostd"], "with_gc": True, "with_nl": True, "nowd": ["nl"], "downsample": False}
HALVED = {"div_value": 2.0, "mean": [51.49005, 57.97325, 61.38585], "std": [0.5, 0.5, 0.5]}
AGREEING = [
    ("mmseg_dnl_r50_512x1024_40k", mmseg()),
    ("mmseg_dnl_r50_512x1024_40k", mmseg(key="config")),
    ("mmseg_dnl_r50_512x1024_40k", {"meta": {"cfg": read_text(TEXT)[0]}}),
    ("nl_in_r101", torchcv()),
    ("nl_r101", torchcv(nonlocal__whiten_type=[], nonlocal__temp=1.0, nonlocal__with_gc=False)),
    ("nl_ln_r101", torchcv(nonlocal__whiten_type=["ln_nostd"], nonlocal__temp=0.06)),
    ("dnl_r101", torchcv(network__model_name="nonlocalnowd", **{"nonlocal": NOWD})),
    ("psp_r101", torchcv(network__model_name="pspnet", **{"nonlocal": None})),
    ("nl_in_r101", torchcv(data__normalize=HALVED)),
]


@pytest.mark.parametrize(("recipe", "content"), AGREEING)
def test_a_checkpoint_of_the_recipes_own_options_passes(recipe, content):
    notes = compare_options(content, options_of(RECIPES / "cityscapes" / f"{recipe}.yaml"), "theirs.pth")
    assert all("could not" not in note and "not read" not in note for note in notes)
    for said in ("temperature", "whitening", "data.mean", "data.color_order", "model.align_corners", "output_stride"):
        assert not any(f"{said}=" in note for note in notes)


# A recipe's value, and what the file's is resolved by
CONTRADICTIONS = {
    MMSEG: [
        (
            mmseg("type='DNLHead'", "type='DNLHead', temperature=0.1"),
            "0.05",
            "model.head.block.options.temperature=0.1",
        ),
        (mmseg("use_scale=True", "use_scale=False"), "true", "model.head.block.options.scale=false"),
        (
            mmseg("'embedded_gaussian'", "'dot_product'"),
            "embedded_gaussian",
            "model.head.block.options.mode=dot_product",
        ),
        (mmseg("reduction=2", "dilation=6"), "1", "model.head.options.dilation=6"),
        (mmseg("num_convs=1", "num_convs=1, dilation=6"), "1", "model.aux.options.dilation=6"),
        (
            mmseg("align_corners=False, channels=512", "align_corners=True, channels=512"),
            "false",
            "model.align_corners=true",
        ),
        (mmseg("123.675", "120.0"), "[123.675,116.28,103.53]", "data.mean=[120.0,116.28,103.53]"),
        (mmseg("58.395", "1.0"), "[58.395,57.12,57.375]", "data.std=[1.0,57.12,57.375]"),
        (mmseg("bgr_to_rgb=True", "bgr_to_rgb=False"), "rgb", "data.color_order=bgr"),
        (
            mmseg("1, 2, 4), strides=(1, 2, 1, 1)", "1, 1, 2), strides=(1, 2, 2, 1)"),
            "8",
            "model.backbone.output_stride=16",
        ),
        (mmseg("contract_dilation=True, ", ""), "true", "model.backbone.options.contract_dilation=false"),
        (torchcv(), "false", "model.align_corners=true"),
    ],
    NL_IN: [
        (torchcv(nonlocal__temp=0.1), "0.05", "model.head.block.options.temperature=0.1"),
        (torchcv(nonlocal__whiten_type=["ln_nostd"]), '["instance"]', 'model.head.block.options.whitening=["layer"]'),
        (torchcv(nonlocal__whiten_type=[]), '["instance"]', "model.head.block.options.whitening=[]"),
        (
            torchcv(data__normalize__div_value=2.0),
            "[102.9801,115.9465,122.7717]",
            "data.mean=[205.9602,231.893,245.5434]",
        ),
        (torchcv(data__input_mode="RGB"), "bgr", "data.color_order=rgb"),
        (torchcv(network__backbone="deepbase_resnet101_dilated16"), "8", "model.backbone.output_stride=16"),
        (torchcv(network__multi_grid=[1, 2, 4]), "[1,1,1]", "model.backbone.multi_grid=[1,2,4]"),
    ],
    # torchcv's `nonlocalnowd` does not know `channel`
    DNL_IN: [
        (
            torchcv(network__model_name="nonlocalnowd", nonlocal__nowd=["nl"]),
            "instance",
            "model.head.block.options.whitening=none",
        )
    ],
    DNL: [
        (
            torchcv(network__model_name="nonlocalnowd", nonlocal__nowd=[], nonlocal__whiten_type=["ln_nostd"]),
            "false",
            "model.head.block.options.scale=true",
        )
    ],
}


@pytest.mark.parametrize(
    ("recipe", "content", "ours", "word"),
    [
        pytest.param(recipe, *case, id=f"{recipe.stem} {case[-1]}")
        for recipe, cases in CONTRADICTIONS.items()
        for case in cases
    ],
)
def test_a_contradiction_names_both_values_and_what_resolves_it(recipe, content, ours, word):
    with pytest.raises(UserError) as caught:
        compare_options(content, options_of(recipe), "theirs.pth")
    message, (key, theirs) = str(caught.value), word.split("=")
    assert message.startswith("theirs.pth was made with other options") and "\n" not in message
    assert f"{key} is {theirs} there and {ours} here" in message
    offered = message.rpartition("to take the file's, add ")[2].split(" ")
    assert word in offered
    # The words do what they say: added to the command, nothing contradicts any more.
    compare_options(content, options_of(recipe, *offered), "theirs.pth")


def test_several_contradictions_are_told_at_once():
    content = mmseg("use_scale=True", "use_scale=False, temperature=0.1, dilation=6")
    with pytest.raises(UserError) as caught:
        compare_options(content, options_of(MMSEG), "theirs.pth")
    words = re.findall(r"\S+=\S+", str(caught.value).rpartition("add ")[2])
    assert [word.rpartition(".")[2] for word in words] == [
        "dilation=6",
        "temperature=0.1"[:13] + "1",
        "scale=false",
    ] or ({word.partition("=")[0].rpartition(".")[2] for word in words} == {"dilation", "temperature", "scale"})


@pytest.mark.parametrize(
    ("head", "recipe_words", "message"),
    [
        (
            "type='FCNHead', dilation=6",
            ("model.head.name=fcn", "model.head.block.name=nonlocal"),
            "dilation is 6 there and 1 here",
        ),
        (
            "type='PSPHead', pool_scales=(1, 2, 4)",
            ("model.head.name=psp",),
            r"pyramid is \[1,2,4\] there and \[1,2,3,6\] here",
        ),
        ("type='PSPHead'", ("model.head.name=psp",), "model.head.options.align_corners is false there and true here"),
        (
            "type='ASPPHead', dilations=(1, 6, 12, 18)",
            ("model.head.name=deeplab_v3",),
            r"dilations is \[6,12,18\] there",
        ),
        (
            "type='ANNHead', project_channels=256, key_pool_scales=(1, 2)",
            ("model.head.name=asymmetric",),
            r"pyramid is \[1,2\] there",
        ),
    ],
)
def test_each_kind_of_head_is_compared(head, recipe_words, message):
    content = mmseg("reduction=2, type='DNLHead', use_scale=True", head)
    content["meta"]["cfg"] = content["meta"]["cfg"].replace("mode='embedded_gaussian',", "")
    if "ANN" in head:
        content["meta"]["cfg"] = content["meta"]["cfg"].replace("in_channels=2048", "in_channels=[1024, 2048]")
    with pytest.raises(UserError, match=message):
        compare_options(content, options_of(MMSEG, *recipe_words, "model.head.block.options={}"), "x.pth")


def test_the_normalisation_of_0x_is_read_from_its_own_place_or_from_the_pipelines():
    old = "img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=False)\n"
    pipeline = "test_pipeline = [dict(type='A', transforms=[dict(type='Normalize', **n)])]\n"
    for text in (old, old.replace("img_norm_cfg", "n") + pipeline):
        recorded = read_recorded({"meta": {"config": text}})
        assert recorded.values == {"data.mean": [1.0, 2.0, 3.0], "data.std": [4.0, 5.0, 6.0], "data.color_order": "bgr"}


@pytest.mark.parametrize("content", [{}, {"meta": {}}, {"meta": None}, {"meta": {"cfg": None}}, {"config_dict": 3}])
def test_where_the_file_says_nothing_the_recipes_options_are_named(content):
    (note,) = compare_options(content, options_of(MMSEG, "model.head.options.dilation=6"), "theirs.pth")
    assert note.startswith("theirs.pth does not say, so the configuration's hold: ")
    for word in (
        "model.head.options.dilation=6",
        "model.head.block.options.temperature=0.05",
        "model.align_corners=false",
    ):
        assert word in note


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:", "line 1, which is no Python"),
        ("x" * (1 << 21), "a text of 2097152 characters"),
        ("model = build(1)", "line 1: model"),
        ("import os\nos.system('touch proof')", "line 1; line 2"),
        (f"model = {'(' * 1000}", "no Python"),
        ("a0 = [1, 1]\n" + "".join(f"a{i + 1} = [a{i}, a{i}]\n" for i in range(60)), "line 20: a19"),
        (
            "a0 = dict(x=1)\n" + "".join(f"a{i + 1} = dict(x=a{i}, y=a{i})\n" for i in range(60)) + "a0 = a59",
            "more places",
        ),
        ("a = 10 ** 10 ** 10", "line 1: a"),
        ("a = 'x' * 10000000000", "line 1: a"),
        ("a = 1 / 0", "line 1: a"),
        ("a = " + "-" * 5000 + "1", ""),
        ("a = " + "+".join(["1"] * 50000), ""),
    ],
)
def test_what_cannot_be_read_is_left_alone_and_told(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.perf_counter()
    notes = compare_options({"meta": {"cfg": text}}, options_of(MMSEG), "theirs.pth")
    assert any(told in note for note in notes)
    assert "model.head.block.options.temperature=0.05" in notes[-1]
    assert time.perf_counter() - began < 10 and not list(tmp_path.iterdir())


def test_what_can_be_read_beside_it_is_compared_all_the_same():
    content = mmseg("type='DNLHead'", "type='DNLHead', temperature=0.1, sampler=build('x')")
    with pytest.raises(UserError, match=r"temperature is 0\.1 there and 0\.05 here"):
        compare_options(content, options_of(MMSEG), "theirs.pth")
    notes = compare_options(content, options_of(MMSEG, "model.head.block.options.temperature=0.1"), "theirs.pth")
    assert any(
        "not read of the checkpoint's configuration: line" in note and "model.decode_head.sampler" in note
        for note in notes
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("type='DNLHead'", "type='UPerHead'", "UPerHead is not known"),
        ("type='ResNetV1c'", "type='MixVisionTransformer'", "MixVisionTransformer"),
        ("style='pytorch'", "style='caffe'", "style caffe"),
        ("reduction=2", "reduction='two'", "could not be read"),
        ("reduction=2", "reduction=0", "could not be read"),
        ("channels=512", "channels='many'", "could not be read"),
        ("(1, 2, 1, 1)", "(1, 1, 1, 1)", "strides"),
    ],
)
def test_networks_that_are_not_known_here_are_compared_in_their_input_and_told(old, new, told):
    content = mmseg(old, new)
    notes = compare_options(content, options_of(MMSEG), "theirs.pth")
    assert any(told in note for note in notes)
    content["meta"]["cfg"] = content["meta"]["cfg"].replace("123.675", "1.0")
    with pytest.raises(UserError, match=r"data\.mean is"):
        compare_options(content, options_of(MMSEG), "theirs.pth")


@pytest.mark.parametrize(
    "tree",
    [
        {"network": 3, "data": []},
        {"data": {"normalize": {"div_value": "x" * 10, "mean": [10**9] * 3, "std": [1] * 3}}},
        {"network": {"model_name": "ocnet", "backbone": "deepbase_resnet50_dilated8"}},
        {"network": {"model_name": "nonlocalbn", "backbone": "xception"}},
        {"network": {"model_name": ["a"]}},
        {"network": {"model_name": "nonlocalbn"}, "nonlocal": {"whiten_type": 3}},
        {"network": {"model_name": "nonlocalbn"}, "nonlocal": {"whiten_type": torch.ones(3), "temp": torch.ones(2)}},
    ],
)
def test_a_strange_tree_of_torchcv_is_told_not_believed(tree):
    assert compare_options({"config_dict": tree}, options_of(NL_IN), "theirs.pth")
