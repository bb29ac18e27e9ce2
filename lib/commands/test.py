"""write label images for the test images

Label images and overlays in the run's folder ``test/``; scores too where the labels are there.
"""

import argparse

from lib.commands import val

add_options = val.add_options


def run(options: argparse.Namespace) -> None:
    val.run(options, split="test")
