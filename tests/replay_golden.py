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
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import losses
from lib.base.errors import UserError
from lib.models import build_segmentor
from lib.models.blocks.asymmetric import AsymmetricFusion, AsymmetricPyramid
from lib.models.blocks.compact_generalized import CompactGeneralizedNonLocal
from lib.models.blocks.criss_cross import CrissCrossAttention
from lib.models.blocks.disentangled import DisentangledNonLocal
from lib.models.blocks.double_attention import DoubleAttention
from lib.models.blocks.global_context import GlobalContext
from lib.models.blocks.nonlocal_block import NonLocal
from lib.models.blocks.spectral import SpectralStage
from lib.models.blocks.unary import Unary
from lib.weights import networks, nonlocal_blocks, spectral_blocks
from lib.weights.names import DISENTANGLED, Table, convert
from tests import golden_losses, golden_predict, golden_weights

# A comparison: what is compared, this project's tensor, the published one, factor of the tolerance.
Comparison = tuple[str, Tensor, Tensor, float]
TOLERANCE = 1e-4
GRADIENT = 10.0
SHARED = Path(__file__).resolve().parents[2] / "shared"

# family of block fixtures: this project's block for their options, and their parameters' names
BLOCKS: dict[str, tuple[Callable[[dict], nn.Module], Table]] = {
    "torchcv/nonlocal_nowd": (
        lambda case: DisentangledNonLocal(case["inplanes"], **dimensions(case), **networks.disentangled_options(case)),
        DISENTANGLED,
    ),
    "torchcv/nonlocal_bn": (
        lambda case: NonLocal(case["inplanes"], **dimensions(case), **nonlocal_blocks.nonlocal_options(case)),
        nonlocal_blocks.NONLOCAL,
    ),
    "torchcv/unary": (
        lambda case: Unary(case["inplanes"], **dimensions(case), **nonlocal_blocks.unary_options(case)),
        nonlocal_blocks.UNARY,
    ),
    "mmcv/nonlocal": (
        lambda case: NonLocal(case["in_channels"], **dimensions(case), **nonlocal_blocks.mmcv_nonlocal_options(case)),
        nonlocal_blocks.MMCV_NONLOCAL,
    ),
    "mmseg/disentangled_nonlocal": (
        lambda case: DisentangledNonLocal(case["in_channels"], **nonlocal_blocks.mmseg_disentangled_options(case)),
        nonlocal_blocks.MMCV_NONLOCAL,
    ),
    "gcnet/context_block": (
        lambda case: GlobalContext(case["inplanes"], **nonlocal_blocks.global_context_options(case)),
        nonlocal_blocks.GLOBAL_CONTEXT,
    ),
    "ann/afnb": (
        lambda case: AsymmetricFusion(
            case["low_in_channels"], case["high_in_channels"], dropout=0.0, **networks.asymmetric_options(case)
        ),
        networks.ASYMMETRIC_FUSION,
    ),
    "ann/apnb": (
        lambda case: AsymmetricPyramid(case["in_channels"], dropout=0.0, **networks.asymmetric_options(case)),
        networks.ASYMMETRIC_PYRAMID,
    ),
    "snl/stage": (
        lambda case: SpectralStage(**dimensions(case), **spectral_blocks.spectral_options(case)),
        spectral_blocks.SPECTRAL,
    ),
    "snl/seg_stage": (
        lambda case: SpectralStage(**dimensions(case), **spectral_blocks.spectral_options(case)),
        spectral_blocks.SPECTRAL,
    ),
    "snl/cgnl": (
        lambda case: CompactGeneralizedNonLocal(
            **dimensions(case), **spectral_blocks.compact_generalized_options(case)
        ),
        spectral_blocks.COMPACT_GENERALIZED,
    ),
    "torchcv/a2block": (
        lambda case: DoubleAttention(**dimensions(case), **spectral_blocks.double_attention_options(case)),
        spectral_blocks.DOUBLE_ATTENTION,
    ),
    "ccnet/criss_cross": (
        lambda case: CrissCrossAttention(**spectral_blocks.criss_cross_options(case)),
        spectral_blocks.CRISS_CROSS,
    ),
}


def dimensions(case: dict) -> dict[str, int]:
    """The number of dimensions of the fixture's positions, as an option of a block."""
    return {"dimensions": case["dimensions"]}


def replay_block(case: dict, arrays: dict[str, Tensor], directory: Path) -> Iterator[Comparison]:
    """Output in eval and in train mode, gradients of the inputs and of every parameter."""

    def entries(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    build, table = BLOCKS[case["family"]]
    inputs = {name: array.requires_grad_() for name, array in sorted(entries("input/").items())}
    case["dimensions"] = inputs["0"].dim() - 2
    block = build(case)
    block.load_state_dict(convert(entries("state/"), table, case["family"]))
    yield "output_eval", block.eval()(*inputs.values()), arrays["output_eval"], 1
    output = block.train()(*inputs.values())
    yield "output_train", output, arrays["output_train"], 1
    output.backward(arrays["grad_output"])
    for name, gradient in entries("grad_input/").items():
        yield f"grad_input/{name}", inputs[name].grad, gradient, GRADIENT
    parameters = dict(block.named_parameters())
    for name, gradient in entries("grad_state/").items():
        (ours,) = convert({name: gradient}, table, case["family"])
        yield f"grad_state/{name}", parameters[ours].grad, gradient, GRADIENT


def replay_network(case: dict, arrays: dict[str, Tensor], directory: Path) -> Iterator[Comparison]:
    """The heads' logits in eval mode, with the weights that the fixture's seed gives."""
    if case["family"].startswith("mmseg/"):
        options, converted = networks.mmseg_network_options(case), networks.convert_mmseg_network
    else:
        options, converted = networks.torchcv_network_options(case), networks.convert_torchcv_network
    network = build_segmentor(**options)
    empty = published_entries(case, network, converted, find_key_lists(directory), directory / "state_dict_keys")
    filled = golden_weights.share(case, load_fill(directory)(empty, case["seed"]))
    network.load_state_dict(converted(filled))
    with torch.no_grad():
        logits = network.eval()(arrays["input"], with_aux=True)
    for name in arrays.keys() - {"input"}:
        yield name, logits[name], arrays[name], 1


def published_entries(
    case: dict, network: nn.Module, converted: Callable[[dict], dict], *lists: Path
) -> dict[str, Tensor]:
    """The published state dict, without its values, of the network that a fixture was recorded from.

    Names come from the published lists of the same head and of the same kind of backbone, shapes from ``network``, so
    that other depths and other options of a head need no list of their own.

    Raises:
        UserError: naming an entry of ``network`` for which no list has a name.
    """
    project, family = case["family"].split("/")
    if project == "mmseg":
        heads, backbones = f"mmseg_{golden_weights.listed_as(family)}_*.txt", "mmseg_*.txt"
    else:
        kind = next(kind for kind in ("resnet", "hrnet", "mobilenetv2") if kind in case["backbone"])
        heads, backbones = f"torchcv_{family}_*.txt", f"torchcv_*{kind}*.txt"
    names = {name for name in _listed(backbones, *lists) if name.startswith("backbone.")}
    names |= {name for name in _listed(heads, *lists) if not name.startswith("backbone.")}
    names |= {f"nlm.ctb.{layer}.{leaf}" for layer in OPTIONAL for leaf in LEAVES if family in WITH_OPTIONS}
    if project == "mmseg":
        chain = {name for name in names if name.startswith("decode_head.convs.")}
        count = case["head_args"].get("num_convs", 2) if chain else 0
        names = (names - chain) | {
            f"decode_head.convs.{index}.{layer}" for index in range(count) for layer in CONV_AND_NORM
        }
        names |= golden_weights.optional_names(names)
    # Where two published names mean one entry the later one's values count, as when the published network loads them.
    renamed = {theirs: ours for ours, theirs in converted({name: name for name in sorted(names)}).items()}
    for shadowed in names - renamed.keys():
        (renamed[shadowed],) = converted({shadowed: shadowed})
    ours = network.state_dict()
    empty = {name: torch.zeros_like(ours[renamed[name]]) for name in sorted(names) if renamed[name] in ours}
    for missing in ours.keys() - renamed.values():
        # Units of a ResNet's stage that the lists do not reach are named alike here and there.
        if not re.match(r"backbone\.layer\d\.", missing):
            raise UserError(f"no list of published names in {lists[0]} has one for {missing} of {case['family']}")
        empty[missing] = torch.zeros_like(ours[missing])
    return empty


# Layers of torchcv's context blocks that options add or give a bias, and their entries
OPTIONAL = ("conv_mask", "conv_value", "conv_out", "out_bn", "query_bn", "key_bn", "query_bn_affine", "key_bn_affine")
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CONV_AND_NORM = ("conv.weight", *(f"bn.{leaf}" for leaf in LEAVES))
WITH_OPTIONS = ("nonlocalnowd", "nonlocalbn", "nonlocalbn_single", "unary")


def _listed(pattern: str, *folders: Path) -> set[str]:
    files = [
        file for folder in (*folders, SHARED / "golden" / "more" / "state_dict_keys") for file in folder.glob(pattern)
    ]
    return {line.split("\t")[0] for file in files for line in file.read_text().splitlines()}


def find_key_lists(directory: Path) -> Path:
    """The folder of published names: beside the fixtures' folder, or beside the repository."""
    return _find(directory.parent / "spec" / "state_dict_keys", SHARED / "spec" / "state_dict_keys")


def load_fill(directory: Path) -> Callable[[dict[str, Tensor], int], dict[str, Tensor]]:
    """The function that gives a fixture's weights, from the fixtures' folder or from the one beside the repository."""
    file = _find(directory / "fill_weights.py", SHARED / "golden" / "fill_weights.py")
    spec = importlib.util.spec_from_file_location("fill_weights", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill


def _find(*candidates: Path) -> Path:
    for path in candidates:
        if path.exists():
            return path
    raise UserError(f"network fixtures need {candidates[0].name}: neither {' nor '.join(map(str, candidates))} exists")


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


def find_replay(case: dict) -> Callable[[dict, dict[str, Tensor], Path], Iterator[Comparison]]:
    """How fixtures like this one are replayed; torchcv has a block and a network of the name `unary`.

    Raises:
        UserError: if this project has no such block or network.
    """
    if case["family"] == "torchcv/loss":
        return replay_loss
    if case["family"] in golden_predict.REPLAYS:
        return golden_predict.REPLAYS[case["family"]]
    if case["family"] == "mmseg/loss":
        return golden_losses.replay_mmseg_loss
    if case["family"] in golden_weights.REPLAYS:
        return golden_weights.REPLAYS[case["family"]]
    if "backbone" in case or "head_args" in case:
        return replay_network
    if case["family"] in BLOCKS:
        return replay_block
    raise UserError("not supported")


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
    worst, missed, count = 0.0, [], 0
    try:
        comparisons = list(find_replay(case)(case, arrays, file.parent))
    except (UserError, RuntimeError, KeyError) as error:
        return f"{file.stem}: {case['family']}: MISSED: {' '.join(str(error).split())}", False
    for name, ours, published, factor in comparisons:
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
