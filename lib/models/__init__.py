"""Models: plain keyword arguments in, tensors out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from lib.base.errors import UserError
from lib.models.backbones import BACKBONES
from lib.models.blocks import BLOCKS
from lib.models.heads import HEADS
from lib.models.initialisation import INITIALISATIONS
from lib.models.insert import insert_named
from lib.models.options import check_options, choose, option_names
from lib.models.segmentor import Segmentor

__all__ = ["BACKBONES", "BLOCKS", "HEADS", "INITIALISATIONS", "Segmentor", "build_segmentor"]


def build_segmentor(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    head: Mapping[str, Any],
    aux: Mapping[str, Any] | None,
    in_channels: int = 3,
    align_corners: bool = True,
    init: str = "default",
) -> Segmentor:
    """Build a segmentor from names in the registries and options of their constructors.

    Args:
        num_classes: K, the channels of the logits.
        backbone: ``name`` in ``BACKBONES`` and its options; where ``blocks`` names layers as ``insert_blocks`` does,
            ``block`` is what is inserted there: ``name`` in ``BLOCKS``, ``at``, ``start`` and its options.
        head: ``name`` in ``HEADS`` and its options; ``block``, which heads without a block pass over, holds a
            ``name`` in ``BLOCKS`` and its options.
        aux: the auxiliary head's options (``name`` being ``auxiliary`` unless given), or None for none.
        in_channels: C, the bands of the image.
        align_corners: see ``Segmentor``.
        init: how the weights start: a name in ``INITIALISATIONS``.

    Raises:
        UserError: naming the key (``model.head.block.whitening``) and what would be right, if a name is unknown or an
            option does not fit.
    """
    initialise = choose(INITIALISATIONS, init, path="model.init")
    features = _build_backbone(backbone, in_channels)
    modules = [_build_head(head, features.channels, num_classes, path="model.head")]
    if aux is not None:
        modules.append(_build_head({"name": "auxiliary", **aux}, features.channels, num_classes, path="model.aux"))
    network = Segmentor(features, *modules, align_corners=align_corners)
    # The meta device holds no numbers to draw.
    if not modules[0].classifier.weight.is_meta:
        initialise(network)
    return network


def _build_backbone(spec: Mapping[str, Any], in_channels: int) -> Any:
    spec = dict(spec)
    blocks, block = spec.pop("blocks", {}), spec.pop("block", {})
    make_backbone, options = _resolve(BACKBONES, spec, path="model.backbone")
    features = make_backbone(in_channels=in_channels, **options)
    if not blocks:
        return features
    try:
        return insert_named(features, blocks, block, path="model.backbone.block")
    except UserError as error:
        # What is wrong with a layer names that, but no key.
        known = str(error).startswith(("model.backbone.block", "unknown option model.backbone.block"))
        raise error if known else UserError(f"model.backbone.blocks: {error}") from None


def _build_head(spec: Mapping[str, Any], channels: tuple[int, ...], num_classes: int, *, path: str) -> Any:
    head = choose(HEADS, spec.get("name"), path=f"{path}.name")
    spec = dict(spec)
    block = spec.pop("block", None)
    if "block" in option_names(head):
        make_block, options = _resolve(BLOCKS, block or {}, path=f"{path}.block")
        if options.get("dimensions", 2) != 2:
            raise UserError(f"{path}.block.dimensions is {options['dimensions']}: images have 2, leave it out")
        head = partial(head, block=partial(make_block, **options))
    _, options = _resolve(HEADS, spec, path=path)
    return head(channels, num_classes, **options)


def _resolve(registry: Mapping[str, Any], spec: Mapping[str, Any], *, path: str) -> tuple[Any, dict[str, Any]]:
    """The constructor that ``spec`` names and its checked options."""
    options = {key: value for key, value in spec.items() if key != "name"}
    constructor = choose(registry, spec.get("name"), path=f"{path}.name")
    check_options(constructor, options, path=path)
    return constructor, options
