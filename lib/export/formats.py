"""Exported programs as the bytes of a file and back as functions."""

import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from lib.base.errors import UserError
from lib.export.graph import quietly

Run = Callable[[np.ndarray], np.ndarray]
"""An exported file at work: its input to its output."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_ONNX = (1 << 31) - (1 << 22)
"""Bytes: what a protocol buffer can hold, less room for all but the weights."""

METADATA = "metadata.json"
"""Among the extra files of a ``.pt2``."""

INPUT = "image"


def require_packages(suffix: str) -> None:
    """Raise UserError where a library is missing that files ending in ``suffix`` need."""
    missing = [name for name in ONNX_PACKAGES if suffix == ".onnx" and find_spec(name) is None]
    if missing:
        raise UserError(f"an .onnx file needs {' and '.join(missing)}: pip install {' '.join(missing)}, or name a .pt2")


def pt2_bytes(program: torch.export.ExportedProgram, output: str, metadata: dict[str, Any], name: str) -> bytes:
    """A file for ``torch.export.load``; the metadata is JSON among its extra files. It has no names for outputs."""
    file = io.BytesIO()
    with quietly():
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
    return file.getvalue()


def run_pt2(content: bytes) -> Run:
    """What ``pt2_bytes`` made, at work."""
    with quietly():
        module = torch.export.load(io.BytesIO(content)).module()

    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(image)).numpy()

    return run


def onnx_bytes(program: torch.export.ExportedProgram, output: str, metadata: dict[str, Any], name: str) -> bytes:
    """A file of one ONNX model; each entry of the metadata is JSON there.

    Args:
        output: what the output is called; the input is ``image``.
        name: of the network, for messages.

    Raises:
        UserError: if it has operators that ONNX has not, or would be larger than an ONNX file can be.
    """
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > LARGEST_ONNX:
        raise UserError(f"weights of {size / 1e9:.1f} GB do not go into one .onnx file, at most 2 GB: name a .pt2")
    from torch.onnx.errors import OnnxExporterError

    try:
        with quietly():
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[output])
    except OnnxExporterError as error:
        raise UserError(f"{name} cannot be written as ONNX, but as .pt2: {_reason(error)}") from error
    proto = made.model_proto
    _name_sizes(proto.graph)
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    return proto.SerializeToString()


def _reason(error: Exception) -> str:
    """Of the chain of an exporter's errors the first one's last line: it names the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1][:300]


def _name_sizes(graph: Any) -> None:
    """Call the free dimensions of input and output what they are, instead of s77."""
    (image,), (output,) = graph.input, graph.output
    dims = image.type.tensor_type.shape.dim
    free = [dim for dim in dims if dim.dim_param]
    names = dict(zip((dim.dim_param for dim in free), ("batch", "height", "width"), strict=False))
    for value in (image, output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            # Setting it would clear a number.
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def run_onnx(content: bytes, threads: int = 0) -> Run:
    """An ONNX file at work on the CPU, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {INPUT: image})[0]


WRITERS = {".onnx": (onnx_bytes, run_onnx), ".pt2": (pt2_bytes, run_pt2)}
