"""The classification networks of timm, and torchvision's MobileNetV2, under this project's names."""

from lib.weights.names import Table, layers

# timm's ResNets whose stem has three convolutions in one sequence, the last norm outside it: resnet50c, resnet50s
TIMM_DEEP_RESNET: Table = (
    *layers("conv1", "stem.0"),
    *layers("conv1", "stem.1", conv=3, norm=4),
    (r"conv1\.6\.", "stem.2.conv."),
    (r"bn1\.", "stem.2.norm."),
    (r"(layer[1-4]\.)", r"\1"),
)

_UNITS = (1, 2, 3, 4, 3, 3, 1)
_FIRST = [sum(_UNITS[:stage]) for stage in range(len(_UNITS))]


def _timm_unit(theirs: str, ours: str, *names: tuple[str, str, str]) -> Table:
    return tuple(
        entry
        for place, conv, norm in names
        for entry in (
            (rf"{theirs}\.{conv}\.", f"{ours}.{place}.conv."),
            (rf"{theirs}\.{norm}\.", f"{ours}.{place}.norm."),
        )
    )


TIMM_MOBILENET_V2: Table = (
    (r"conv_stem\.", "stem.conv."),
    (r"bn1\.", "stem.norm."),
    *_timm_unit(r"blocks\.0\.0", "units.0", ("depthwise", "conv_dw", "bn1"), ("project", "conv_pw", "bn2")),
    *(
        entry
        for stage in range(1, len(_UNITS))
        for unit in range(_UNITS[stage])
        for entry in _timm_unit(
            rf"blocks\.{stage}\.{unit}",
            f"units.{_FIRST[stage] + unit}",
            ("expand", "conv_pw", "bn1"),
            ("depthwise", "conv_dw", "bn2"),
            ("project", "conv_pwl", "bn3"),
        )
    ),
)

TORCHVISION_MOBILENET_V2: Table = (
    *layers(r"features\.0", "stem"),
    *layers(r"features\.1\.conv\.0", "units.0.depthwise"),
    *layers(r"features\.1\.conv", "units.0.project", conv=1, norm=2),
    *(
        entry
        for unit in range(1, 17)
        for entry in (
            *layers(rf"features\.{unit + 1}\.conv\.0", f"units.{unit}.expand"),
            *layers(rf"features\.{unit + 1}\.conv\.1", f"units.{unit}.depthwise"),
            *layers(rf"features\.{unit + 1}\.conv", f"units.{unit}.project", conv=2, norm=3),
        )
    ),
)
