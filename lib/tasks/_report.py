"""What ``val`` and ``test`` leave of all images of a segmentation: scores, counts of each image, and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.scores.full import FullScores
from lib.scores.per_image import FILE, ImageCounts
from lib.vis import results

if TYPE_CHECKING:
    from datasets.seg.classes import ClassTable
    from datasets.seg.dataset import EvalDataset
    from lib.engine.distribute import World
    from lib.scores.confusion import Tally
    from lib.tasks.segmentation import ValConfig


def report(
    val: "ValConfig",
    table: "ClassTable",
    folder: Path,
    data: "EvalDataset",
    tally: "Tally",
    facts: dict[str, Any],
    world: "World",
) -> str | None:
    """Write it; every process calls this.

    Args:
        val: how many extremes to show, and whether to pack the label images.
        table: the dataset's classes.
        folder: of the split.
        data: what was evaluated; without labels there are no scores.
        tally: summed over all processes.
        facts: to be written with the scores.
        world: the job's processes.

    Returns:
        The scores as a table, if there are any, in the main process.
    """
    if data.labelled:
        everyones = {name: counts for part in world.gather(tally.counts_of) for name, counts in part.items()}
        images = ImageCounts.of(everyones, table.names)
        if world.is_main:
            results.clear_extremes(folder)
        world.wait()
        chosen = results.extremes(dict(zip(images.names, images.miou.tolist(), strict=True)), val.extremes)
        # Each process shows those that it evaluated.
        results.write_extremes(folder, {name: chosen[name] for name in chosen if name in tally.counts_of}, data)
    world.wait()
    if not world.is_main:
        return None
    facts = facts | {"images": len(data)}
    scores = None
    if data.labelled:
        matrix = tally.confusion.matrix.cpu().numpy()
        scores = FullScores.of_all(matrix, images, tally.boundary)
        images.save(folder / FILE)
        results.write_scores(folder, facts, scores, matrix, table)
    else:
        results.write_facts(folder, facts)
    if val.zip:
        results.zip_labels(folder, [sample.name for sample in data.samples])
    return scores and scores.table(table.names)
