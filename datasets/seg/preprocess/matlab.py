"""Reading label arrays in MATLAB files."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from datasets.seg.preprocess.runner import LabelError


def read_matlab(path: Path, *fields: str) -> np.ndarray:
    """An array of whole numbers in a MATLAB file, int64 [H, W].

    Args:
        path: a file in MATLAB's format 5.
        fields: the variable's name and then, for a structure, the name of its field, and so on.

    Raises LabelError if the file is damaged or there is no such array.
    """
    try:
        value = loadmat(path, appendmat=False, variable_names=fields[:1])[fields[0]]
        for field in fields[1:]:
            value = value[field][0, 0]
    except Exception as error:  # a damaged file makes SciPy raise almost anything
        if isinstance(error, OSError) and error.errno:
            raise
        raise LabelError(f"not a MATLAB file that holds {'.'.join(fields)}, damaged or cut off") from error
    if value.ndim != 2 or value.dtype.kind not in "uif" or (value.dtype.kind == "f" and np.any(value % 1 != 0)):
        raise LabelError(f"{'.'.join(fields)} is not a matrix of label ids")
    return value.astype(np.int64)
