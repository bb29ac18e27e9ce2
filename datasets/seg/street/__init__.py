"""Street scenes drawn procedurally, with all of Cityscapes' 19 classes, in the layout of the raw Cityscapes download.

Shape, texture and place tell the classes apart; colours come from one palette for most of them. ``canvas`` has the
camera, ``scene`` the plan of a street, ``photo`` the light, ``write`` the files.
"""

from datasets.seg.street.scene import draw_scene
from datasets.seg.street.write import write_dataset

__all__ = ["draw_scene", "write_dataset"]
