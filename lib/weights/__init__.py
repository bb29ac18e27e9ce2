"""Other people's weights: reading their files safely, and their names."""

from lib.weights.files import read_file
from lib.weights.pretrained import LoadReport, load_pretrained

__all__ = ["LoadReport", "load_pretrained", "read_file"]
