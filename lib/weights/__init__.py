"""Other people's weights: reading their files safely, and their names."""

from lib.weights.files import read_file
from lib.weights.pretrained import LoadReport, load_pretrained
from lib.weights.torchcv import convert_torchcv, convert_torchcv_disentangled

__all__ = ["LoadReport", "convert_torchcv", "convert_torchcv_disentangled", "load_pretrained", "read_file"]
