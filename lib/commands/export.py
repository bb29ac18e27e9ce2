"""RUN|CHECKPOINT OUT.onnx|OUT.pt2: write a trained network as a file for other runtimes

The file takes ``image`` and returns ``logits`` at its size. Before it is written it runs, and the largest difference
from the checkpoint is told; above 1e-4 of the logits' range nothing is written.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lib.commands._options import AtLeastOne

if TYPE_CHECKING:
    from lib.export.export import Exported
    from lib.tasks.trained import Trained

LONGEST_SIDE = 16_384


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="RUN|CHECKPOINT", help="a run folder (its best checkpoint) or a checkpoint")
    add("out", type=Path, metavar="OUT", help="ends in .onnx (ONNX) or .pt2 (torch.export.load)")
    add("overrides", nargs="*", metavar="key=value", help="configuration values, such as data.root=DATA_DIR for --int8")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of the image, in pixels (default: data.crop_size)")
    add("--dynamic", action="store_true", help="take any number of images of any size; blocks are planned for --size")
    add(
        "--with-preprocessing",
        action="store_true",
        help="take images [B, H, W, C] as they are (three bands: RGB) and normalise within",
    )
    add(
        "--values",
        choices=("uint8", "float32"),
        default="uint8",
        help="what --with-preprocessing takes; float32: 16 bits and floats, on their own scale",
    )
    add("--ids", action="store_true", help="return the classes' label ids, uint8 [B, H, W], instead of logits")
    add(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold batch norm into convolutions",
    )
    add(
        "--whole-map-limit",
        action=AtLeastOne,
        default=256,
        metavar="MIB",
        help="make larger maps of affinities of one image in blocks of queries of at most that",
    )
    add("--int8", action="store_true", help="convolutions in 8 bits, with both files' scores on val in OUT.json")
    add("--calibration", action=AtLeastOne, default=32, metavar="N", help="training images that --int8 looks at")


def run(options: argparse.Namespace) -> None:
    from lib.base.errors import UserError
    from lib.base.output import require_output
    from lib.commands._options import split_words

    words, overrides = split_words(options.overrides)
    if words:
        raise UserError(f"'{words[0]}' is one word too many: export takes one checkpoint and one file to write")
    require_output(options.out, (".onnx", ".pt2"))
    if options.int8 and (options.out.suffix != ".onnx" or options.ids):
        raise UserError("--int8 makes an .onnx file that returns logits: leave --ids out and name OUT.onnx")
    if options.int8:
        require_output(options.out.with_suffix(".json"), (".json",))
    if options.size and not all(1 <= side <= LONGEST_SIDE for side in options.size):
        raise UserError(f"--size {options.size[0]} {options.size[1]}: sides are 1 to {LONGEST_SIDE} pixels")

    from lib.export.formats import require_packages

    require_packages(options.out.suffix)
    from lib.export.export import Wishes, make, write
    from lib.tasks.trained import open_trained

    trained = open_trained(options.checkpoint, [*overrides, "device=cpu", "train.channels_last=false"])
    if options.int8:
        from lib.export.int8 import require_data

        require_data(trained, options.calibration)
    for note in trained.notes:
        print(note)
    wishes = Wishes(
        size=tuple(options.size) if options.size else None,
        dynamic=options.dynamic,
        values=options.values if options.with_preprocessing else None,
        ids=options.ids,
        fold=options.fold,
        map_bytes=options.whole_map_limit << 20,
    )
    exported = make(trained, options.out.suffix, wishes)
    print(*exported.lines, sep="\n")
    if options.int8:
        exported = _quantised(options, exported, trained)
    write(exported, options.out)
    height, width = exported.size
    takes = "images of any size" if options.dynamic else f"images of {height} x {width}"
    returns = exported.metadata["output"]
    print(f"{options.out}: {len(exported.content) / 1e6:.1f} MB, takes {takes}, returns {returns}")


def _quantised(options: argparse.Namespace, exported: "Exported", trained: "Trained") -> "Exported":
    """The int8 file; its scores and those of the float one are told and written beside it."""
    import json
    from dataclasses import replace

    from lib.base.atomic import write_atomically
    from lib.export.int8 import quantise, scores

    content = quantise(exported, trained, options.calibration)
    found = {
        what: scores(each, exported, trained, what) for what, each in (("float32", exported.content), ("int8", content))
    }
    for what, row in found.items():
        figures = ", ".join(f"{key} {100 * row[key]:.2f}" for key in ("miou", "pixel_accuracy"))
        print(f"{what} on val: {figures}")
    facts = {"file": options.out.name, "bytes": {"float32": len(exported.content), "int8": len(content)}, "val": found}
    facts |= {"mode": trained.config.val.mode, "calibration_images": options.calibration}
    written = json.dumps(facts, indent=1).encode()
    write_atomically(options.out.with_suffix(".json"), lambda file: file.write(written))
    return replace(exported, content=content)
