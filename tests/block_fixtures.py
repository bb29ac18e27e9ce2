"""Replaying one block's fixtures in a test: published weights in, outputs and gradients compared."""

from collections.abc import Callable
from pathlib import Path

import pytest
from replay_golden import GRADIENT, TOLERANCE, load_fixture, relative_error
from torch import nn

from lib.weights.names import Table, rename

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"


def fixtures(*families: str) -> list:
    """Test parameters: the files of these families, or one that is skipped where there are none."""
    files = [file for file in sorted(GOLDEN.glob("*.npz")) if load_fixture(file)[0]["family"] in families]
    if not files:
        return [pytest.param(None, marks=pytest.mark.skip(reason="no fixtures beside the repository"))]
    return [pytest.param(file, id=file.stem) for file in files]


def assert_replays(file: Path, build: Callable[[dict], nn.Module], table: Table) -> None:
    """Output in eval and in train mode, gradients of the input and of every parameter are the published ones."""
    case, arrays = load_fixture(file)

    def renamed(prefix: str) -> dict:
        entries = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        ours, unknown = rename(entries, table)
        assert not unknown
        return ours

    block = build(case)
    block.load_state_dict(renamed("state/"))
    x = arrays["input/0"].requires_grad_()
    assert relative_error(block.eval()(x), arrays["output_eval"]) <= TOLERANCE
    output = block.train()(x)
    assert relative_error(output, arrays["output_train"]) <= TOLERANCE
    output.backward(arrays["grad_output"])
    assert relative_error(x.grad, arrays["grad_input/0"]) <= GRADIENT * TOLERANCE
    parameters, published = dict(block.named_parameters()), renamed("grad_state/")
    assert parameters.keys() == published.keys()
    for name, gradient in published.items():
        assert relative_error(parameters[name].grad, gradient) <= GRADIENT * TOLERANCE, name
