"""Replays fixtures recorded from the published implementations: `python tests/replay_golden.py DIR [--family PREFIX]`.

Prints one line for each fixture with its largest relative error and exits with status 1 if one misses its tolerance
or belongs to a family that this project does not support.
"""

import argparse
import importlib.util
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import losses
from lib.models import build_segmentor
from lib.models.blocks.disentangled import DisentangledNonLocal
from lib.weights import convert_torchcv, convert_torchcv_disentangled

# A comparison: what is compared, this project's tensor, the published one, factor of the tolerance.
Comparison = tuple[str, Tensor, Tensor, float]
TOLERANCE = 1e-4
GRADIENT = 10.0

# The published whitenings in the order in which the first that a list names counts, and the block's options for them.
WHITENINGS = {
    "in_nostd": ("instance", False),
    "in": ("instance", True),
    "ln_nostd": ("layer", False),
    "ln": ("layer", True),
    "fln_nostd": ("batch", False),
    "fln": ("batch", True),
}


def disentangled_options(case: dict) -> dict:
    """The options of ``DisentangledNonLocal`` for the published options of a `nonlocal_nowd` block."""
    known = [name for name in WHITENINGS if name in (case["whiten_type"] or [])]
    whitening, variance = WHITENINGS[known[0]] if known else ("none", False)
    return {
        "whitening": whitening,
        "whiten_variance": variance,
        "pairwise": case["with_nl"],
        "unary": case["with_gc"],
        "scale": "nl" not in (case["nowd"] or []),
        "subsample": case["downsample"],
        "output_conv": case["use_out"],
        "output_norm": case["out_bn"],
        "init_scale": case.get("weight_init_scale", 1.0),
    }


def replay_disentangled(case: dict, arrays: dict[str, Tensor], directory: Path) -> Iterator[Comparison]:
    """Output in eval and in train mode, gradients of the input and of every parameter."""
    states = {name.removeprefix("state/"): value for name, value in arrays.items() if name.startswith("state/")}
    dimensions = arrays["input/0"].dim() - 2
    block = DisentangledNonLocal(
        case["inplanes"], embedding=case["planes"], dimensions=dimensions, **disentangled_options(case)
    )
    block.load_state_dict(convert_torchcv_disentangled(states))
    x = arrays["input/0"].requires_grad_()
    yield "output_eval", block.eval()(x), arrays["output_eval"], 1
    output = block.train()(x)
    yield "output_train", output, arrays["output_train"], 1
    output.backward(arrays["grad_output"])
    yield "grad_input/0", x.grad, arrays["grad_input/0"], GRADIENT
    parameters = dict(block.named_parameters())
    for name in states:
        if (published := arrays.get(f"grad_state/{name}")) is not None:
            (ours,) = convert_torchcv_disentangled({name: published})
            yield f"grad_state/{name}", parameters[ours].grad, published, GRADIENT


def replay_network(case: dict, arrays: dict[str, Tensor], directory: Path) -> Iterator[Comparison]:
    """Both heads' logits in eval mode, with the weights that the fixture's seed gives."""
    family, backbone = case["family"].removeprefix("torchcv/"), case["backbone"]
    found = re.fullmatch(r"(deepbase_)?(resnet\d+)_dilated(8|16)", backbone)
    head = {"name": "fcn"}
    if family == "nonlocalnowd":
        head = {"name": "nonlocal", "block": {"name": "disentangled", **disentangled_options(case["nonlocal_"])}}
    network = build_segmentor(
        num_classes=case["num_classes"],
        backbone={
            "name": found[2],
            "stem": "deep" if found[1] else "plain",
            "output_stride": int(found[3]),
            "multi_grid": case["multi_grid"] or [1, 1, 1],
        },
        head=head,
        aux={},
    )
    keys = directory.parent / "spec" / "state_dict_keys" / f"torchcv_{family}_{backbone}.txt"
    network.load_state_dict(convert_torchcv(published_weights(keys, directory / "fill_weights.py", case["seed"])))
    with torch.no_grad():
        logits = network.eval()(arrays["input"], with_aux=True)
    for name in ("out", "aux"):
        yield name, logits[name], arrays[name], 1


def published_weights(keys: Path, fill_weights: Path, seed: int) -> dict[str, Tensor]:
    """The state dict of a fixture's network: names and shapes from ``keys``, values from ``fill_weights``."""
    empty = {}
    for line in keys.read_text().splitlines():
        name, shape = line.split("\t")
        dtype = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        empty[name] = torch.zeros(json.loads(shape), dtype=dtype)
    spec = importlib.util.spec_from_file_location("fill_weights", fill_weights)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill(empty, seed)


def replay_loss(case: dict, arrays: dict[str, Tensor], directory: Path) -> Iterator[Comparison]:
    """Cross entropy and OHEM cross entropy and their gradients; 0 where every pixel is ignored."""
    target, ignore = arrays["target"], case["ignore_index"]
    weight = None if case["weight"] is None else torch.tensor(case["weight"])
    ohem = {"threshold": case["thresh"], "min_kept": case["min_kept"]}
    for name, loss_of, options in (("ce", losses.cross_entropy, {}), ("ohem", losses.ohem_cross_entropy, ohem)):
        logits = arrays["logits"].clone().requires_grad_()
        loss = loss_of(logits, target, weight=weight, ignore=ignore, **options)
        loss.backward()
        # published: NaN where every pixel is ignored
        yield f"loss_{name}", loss, arrays[f"loss_{name}"].nan_to_num(0.0), 1
        yield f"grad_{name}", logits.grad, arrays[f"grad_{name}"].nan_to_num(0.0), GRADIENT


REPLAYS = {
    "torchcv/nonlocal_nowd": replay_disentangled,
    "torchcv/nonlocalnowd": replay_network,
    "torchcv/basenet": replay_network,
    "torchcv/loss": replay_loss,
}


def is_supported(case: dict) -> bool:
    """Whether this project can build what the fixture was recorded from."""
    return case["family"] in REPLAYS and "resnet" in case.get("backbone", "resnet")


def load_fixture(file: Path) -> tuple[dict, dict[str, Tensor]]:
    """A fixture's description and its arrays."""
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    case = json.loads(str(arrays.pop("description")))
    return case, {name: torch.from_numpy(array) for name, array in arrays.items()}


def relative_error(ours: Tensor, published: Tensor) -> float:
    """max|a - b| / (0.1 + max|b|), so that the tolerance max|a - b| <= 1e-5 + 1e-4 * max|b| is the number 1e-4."""
    if ours.shape != published.shape:
        return math.inf
    difference = (ours - published).abs().nan_to_num(nan=math.inf)
    return difference.max().item() / (0.1 + published.abs().max().item())


def replay(file: Path) -> tuple[str, bool]:
    """A line about the fixture, and whether every comparison holds."""
    case, arrays = load_fixture(file)
    if not is_supported(case):
        return f"{file.stem}: {case['family']} {case.get('backbone', '')}: not supported yet", False
    worst, missed, count = 0.0, [], 0
    for name, ours, published, factor in REPLAYS[case["family"]](case, arrays, file.parent):
        error = relative_error(ours, published)
        worst = max(worst, error)
        count += 1
        if error > factor * TOLERANCE:
            missed.append(name)
    verdict = f"MISSED: {', '.join(missed)}" if missed else "ok"
    return (
        f"{file.stem}: {case['family']}: largest relative error {worst:.1e} of {count} comparisons: {verdict}",
        not missed,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="folder of .npz fixtures")
    parser.add_argument("--family", default="", help="only families that begin so, e.g. torchcv/nonlocal")
    arguments = parser.parse_args()
    files = sorted(arguments.directory.glob("*.npz"))
    chosen = [file for file in files if load_fixture(file)[0]["family"].startswith(arguments.family)]
    if not chosen:
        print(f"no fixture of family {arguments.family or '(any)'} in {arguments.directory}", file=sys.stderr)
        return 2
    held = 0
    for file in chosen:
        line, holds = replay(file)
        print(line, flush=True)
        held += holds
    print(f"{held} of {len(chosen)} fixtures hold")
    return 0 if held == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
