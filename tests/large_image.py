"""``python tests/large_image.py FOLDER [WIDTH HEIGHT CLASSES STRIDE]`` predicts a TIFF as a machine of 4 GiB would.

It prints whether it succeeded, and the peak of its own memory in MiB. The TIFF has 30 000 x 30 000 pixels, the network
two classes and the windows stride 1 unless others are given.
"""

import resource
import sys
import zlib
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.base import memory
from lib.predict.output import Output
from lib.predict.run import predict_sources
from lib.predict.sources import find_sources
from lib.tasks import load_config, make_task
from lib.tasks.trained import Trained

TILE = 512
TABLE = "id,name,train_id,red,green,blue,weight\n7,dark,0,10,10,10,\n9,light,1,250,250,250,\n"


class Brightness(nn.Module):
    """Dark or light, from a pixel's own three values; no pixel is of the other classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, classes, 1)
        self.layer.weight.data = torch.zeros(classes, 3, 1, 1)
        self.layer.weight.data[:2] += torch.tensor([-1.0, 1.0])[:, None, None, None]
        self.layer.bias.data = torch.full([classes], -1e6)
        self.layer.bias.data[:2] = 0

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.layer(image)}


def main(folder: Path, width: int = 30_000, height: int = 30_000, classes: int = 2, stride: float = 1) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3)).astype(np.uint8)
    np.save(folder / "tile.npy", tile)
    packed, count = zlib.compress(tile.tobytes(), 1), -(-width // TILE) * -(-height // TILE)
    options = {"photometric": "rgb", "tile": (TILE, TILE), "compression": "zlib", "metadata": None}
    tiles = (packed for _ in range(count))
    tifffile.imwrite(folder / "large.tif", tiles, shape=(height, width, 3), dtype=np.uint8, **options)

    words = [
        "data.dataset=auto",
        "val.mode=sscrop",
        "val.window=[1024,1024]",
        f"val.stride={stride}",
        "train.amp=false",
    ]
    config = load_config(None, [*words, "device=cpu", "val.batch_size=1"])
    task = make_task(config)
    others = "".join(f"{10 + number},other {number},{2 + number},0,0,0,\n" for number in range(classes - 2))
    task.adopt({"classes": TABLE + others}, folder)
    network = Brightness(classes).eval().requires_grad_(False)
    trained = Trained(config, task, network, torch.device("cpu"), 0, folder / "none.pth")
    memory.available_bytes = lambda: 4 << 30
    out = folder / "out"
    sources = find_sources([str(folder / "large.tif")], out)
    done = predict_sources(trained, sources, Output(out, task.table), {}, batch=0, overwrite=False)
    print(done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), *map(float, sys.argv[5:]))
