"""``python tests/large_image.py FOLDER [SIDE]`` predicts a TIFF of SIDE x SIDE pixels as a machine of 4 GiB would.

It prints whether it succeeded, and the peak of its own memory in MiB. SIDE is 30 000 unless given.
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
CLASSES = "id,name,train_id,red,green,blue,weight\n7,dark,0,10,10,10,\n9,light,1,250,250,250,\n"


class Brightness(nn.Module):
    """Dark or light, from a pixel's own three values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1, bias=False)
        self.layer.weight.data = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 1, 1).contiguous()

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.layer(image)}


def main(folder: Path, side: int) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3)).astype(np.uint8)
    np.save(folder / "tile.npy", tile)
    packed, count = zlib.compress(tile.tobytes(), 1), -(-side // TILE)
    options = {"photometric": "rgb", "tile": (TILE, TILE), "compression": "zlib", "metadata": None}
    tiles = (packed for _ in range(count * count))
    tifffile.imwrite(folder / "large.tif", tiles, shape=(side, side, 3), dtype=np.uint8, **options)

    words = ["data.dataset=auto", "val.mode=sscrop", "val.window=[1024,1024]", "val.stride=1", "train.amp=false"]
    config = load_config(None, [*words, "device=cpu", "val.batch_size=1"])
    task = make_task(config)
    task.adopt({"classes": CLASSES}, folder)
    network = Brightness().eval().requires_grad_(False)
    trained = Trained(config, task, network, torch.device("cpu"), 0, folder / "none.pth")
    memory.available_bytes = lambda: 4 << 30
    out = folder / "out"
    sources = find_sources([str(folder / "large.tif")], out)
    done = predict_sources(trained, sources, Output(out, task.table), {}, batch=0, overwrite=False)
    print(done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 30_000)
