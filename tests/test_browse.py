"""``main.py browse`` shows what is there: the crops that training gets, where a class is, what a run gets wrong."""

import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from conftest import FAST, RECIPE
from PIL import Image

import main
from datasets.seg.classes import load_table, parse_table
from datasets.seg.dataset import list_samples
from datasets.seg.listing import class_index, class_pixels, spread
from lib.engine.loader import train_loader
from lib.recipes import to_yaml
from lib.scores.per_image import ImageCounts
from lib.tasks import load_config, make_task
from lib.vis import contact, gallery
from lib.vis.cards import Card, crop_card, hatched
from lib.vis.gallery import PageCard
from lib.vis.text import fitted, text_width

TABLE = load_table("cityscapes")


@pytest.fixture
def browse(monkeypatch, capfd):
    """The command in this process: browse(*words) -> (status, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["main.py", "browse", *map(str, words)])
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return call


class Page(HTMLParser):
    """What a browser finds: figures in order, and the elements that could run or load something."""

    def __init__(self, file):
        super().__init__()
        self.figures, self.tags, self.attributes = [], [], []
        self.feed(file.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "figure":
            self.figures.append(dict(attributes))

    @property
    def names(self):
        return [figure["data-name"] for figure in self.figures]


def read(path):
    return cv2.imread(str(path))[..., ::-1]


def label_of(sample):
    return TABLE.train_id_of[np.asarray(Image.open(sample.label))]


def cells(sheet, height, width, count):
    """The pictures of a sheet of cards of one size, shown as they are."""
    columns = min(count, (contact.WIDTH + contact.GAP) // (width + contact.GAP))
    for place in range(count):
        row, column = divmod(place, columns)
        top = contact.SIZE + 18 + row * (height + contact.CAPTION + 4 + contact.GAP)
        left = contact.GAP + column * (width + contact.GAP)
        yield sheet[top : top + height, left : left + width]


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_the_crops_are_those_that_the_loader_gives_in_training(browse, data_root, tmp_path, order):
    words = [f"data.root={data_root}", f"data.color_order={order}", "data.std=[50,60.5,2]", "seed=7", *FAST]
    out = tmp_path / "out"
    shown = ["--augmented", "--epoch", 1, "--all", "--width", 0, "--format", "png", "--out", out]
    status, _, error = browse("--config", RECIPE, *words, *shown)
    assert status == 0, error
    config = load_config(RECIPE, words)
    task = make_task(config)
    # Six images in batches of four: the second epoch begins amid a batch.
    with train_loader(task.train_data(), batch_size=4, iterations=3, seed=7, workers=1) as loader:
        batches = list(loader)
    images = torch.cat([batch["image"] for batch in batches])[6:].double().numpy()
    labels = torch.cat([batch["label"] for batch in batches])[6:].numpy()
    metas = [meta for batch in batches for meta in batch["meta"]][6:]
    assert Page(out / "index.html").names == [meta["name"] for meta in metas]
    scale = [np.array(values)[:, None, None] for values in (config.data.std, config.data.mean)]
    width, height = config.data.crop_size
    for cell, image, label in zip(
        cells(read(out / "sheet_001.png"), height, 2 * width + 4, 6), images, labels, strict=True
    ):
        levels = np.rint(image * scale[0] + scale[1]).clip(0, 255)
        expected = (levels[::-1] if order == "bgr" else levels).transpose(1, 2, 0)
        np.testing.assert_array_equal(cell[:, :width], expected)
        counted = label < 19
        tinted = 0.5 * TABLE.palette[np.where(counted, label, 0)] + 0.5 * expected
        assert np.abs(cell[:, width + 4 :] - tinted)[counted].max() <= 0.5


def test_padding_and_ignored_pixels_are_told_apart():
    image, label = torch.ones(3, 16, 32), torch.zeros(16, 32, dtype=torch.int64)
    image[:, :, 24:], label[:, 24:], label[:, :8] = 0, 255, 255
    pixels = make_task(load_config(RECIPE, [])).pixels
    card = crop_card({"image": image, "label": label, "meta": {"name": "a"}}, TABLE, pixels, "")
    seen, labelled = card.picture[:, :32], card.picture[:, 36:]
    assert len(np.unique(seen[:, 24:].reshape(-1, 3), axis=0)) == 1
    assert set(np.unique(labelled[:, 24:])) == {105, 150} and {40, 230} <= set(np.unique(labelled[:, :8]))
    assert set(card.marks) == {"ignored", "padding"} and card.shares == {0: 0.5}


def test_hatching_leaves_the_rest_alone():
    picture, where = np.full((20, 30, 3), 9, np.uint8), np.zeros((20, 30), bool)
    where[:, :15] = True
    shown = hatched(picture, where)
    assert (shown[:, 15:] == 9).all() and (shown[:, :15] != 9).any() and (picture == 9).all()


def test_images_are_evenly_spread(browse, data_root, tmp_path):
    assert spread(10, 4) == [0, 3, 6, 9] and spread(3, 9) == [0, 1, 2] and spread(5, 1) == [0]
    names = [sample.name for sample in list_samples(data_root, "train")]
    status, out, error = browse(data_root, "--dataset", "cityscapes", "--count", 3, "--out", tmp_path / "out")
    assert status == 0 and "3 of 6 images" in out, error
    assert Page(tmp_path / "out" / "index.html").names == [names[0], names[2], names[5]]


def test_a_class_is_shown_where_it_occurs_most_first(browse, data_root, tmp_path):
    samples = list_samples(data_root, "train")
    words = [data_root, "--dataset", "cityscapes", "--class", "Person", "--all", "--width", 0, "--format", "png"]
    assert browse(*words, "--out", tmp_path / "out")[0] == 0
    share = {sample.name: (label_of(sample) == 11).mean() for sample in samples}
    expected = sorted((name for name in share if share[name]), key=lambda name: -share[name])
    assert Page(tmp_path / "out" / "index.html").names == expected and len(expected) > 0
    first = next(sample for sample in samples if sample.name == expected[0])
    label, picture = label_of(first), np.asarray(Image.open(first.image).convert("RGB"))
    cell = next(cells(read(tmp_path / "out" / "sheet_001.png"), 64, 96, 1))
    # Beyond the outline: the class as it is, the rest dark and without colour.
    inside, outside = (cv2.erode(part.astype(np.uint8), np.ones((7, 7))) > 0 for part in (label == 11, label != 11))
    np.testing.assert_array_equal(cell[inside], picture[inside])
    assert cell[outside].max() <= 109 and np.ptp(cell[outside].astype(int), axis=1).max() == 0


def test_pixels_of_classes_are_counted_as_written_out(data_root):
    samples = list_samples(data_root, "val")
    counts = class_pixels(samples, TABLE)
    for sample, row in zip(samples, counts, strict=True):
        label = label_of(sample)
        assert row.tolist() == [(label == k).sum() for k in range(19)] + [(label == 255).sum()]


@pytest.fixture
def run_folder(data_root, tmp_path):
    """A run whose predictions are wrong in more and more rows: the third image's most, the first's least."""
    run = tmp_path / "run <b>"
    (run / "val" / "label").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(load_config(RECIPE, [f"data.root={data_root}"])))
    for rows, sample in zip((4, 20, 50), list_samples(data_root, "val"), strict=True):
        ids = np.array(Image.open(sample.label))
        ids[ids < 7] = 7
        ids[:rows] = TABLE.id_of[18]
        Image.fromarray(ids).save(run / "val" / "label" / f"{sample.name}.png")
    return run


def test_the_images_a_run_is_worst_at_come_first(browse, run_folder, data_root, tmp_path):
    samples = list_samples(data_root, "val")
    scores = {}
    for sample in samples:
        label, ids = label_of(sample), np.asarray(Image.open(run_folder / "val" / "label" / f"{sample.name}.png"))
        prediction, counted = TABLE.train_id_of[ids], label != 255
        either = [(((label == k) | (prediction == k)) & counted).sum() for k in range(19)]
        both = [((label == k) & (prediction == k) & counted).sum() for k in range(19)]
        scores[sample.name] = np.mean([b / e for b, e in zip(both, either, strict=True) if e])
    status, _, error = browse("--worst", run_folder, "--width", 0, "--format", "png", "--out", tmp_path / "out")
    assert status == 0, error
    found = Page(tmp_path / "out" / "index.html")
    assert found.names == sorted(scores, key=scores.get) == [sample.name for sample in samples[::-1]]
    assert [float(figure["data-score"]) for figure in found.figures] == pytest.approx(sorted(scores.values()), abs=1e-6)
    cell = next(cells(read(tmp_path / "out" / "sheet_001.png"), 2 * 64 + 4, 2 * 96 + 4, 1))
    image, errors = np.asarray(Image.open(samples[2].image).convert("RGB")), cell[68:, 100:]
    np.testing.assert_array_equal(cell[:64, :96], image)
    label = label_of(samples[2])
    wrong = (label != 255) & (
        TABLE.train_id_of[np.asarray(Image.open(run_folder / f"val/label/{samples[2].name}.png"))] != label
    )
    assert (errors[wrong] == (255, 0, 0)).all() and (errors[label == 255] == 0).all()


def test_counts_that_val_kept_are_taken_and_checked(browse, run_folder, data_root, tmp_path):
    names = [sample.name for sample in list_samples(data_root, "val")]
    file, words = run_folder / "val" / "images.npz", ["--worst", run_folder, "--out", tmp_path / "out"]
    right = np.array([[50] * 19, [10] * 19, [30] * 19])

    def keep(kept_names, classes):
        ImageCounts(kept_names, right, np.full((3, 19), 60), np.full((3, 19), 60), classes).save(file)

    keep(names, TABLE.names)
    assert browse(*words)[0] == 0
    found = Page(tmp_path / "out" / "index.html")
    assert found.names == [names[1], names[2], names[0]]
    assert [float(figure["data-score"]) for figure in found.figures] == pytest.approx(
        [10 / 110, 30 / 90, 50 / 70], abs=1e-6
    )
    keep(names, [f"class {number}" for number in range(19)])
    assert "counts other classes than those of cityscapes" in browse(*words)[2]
    keep(["x", *names[1:]], TABLE.names)
    assert f"has no counts of {names[0]}" in browse(*words)[2]
    file.write_bytes(b"PK")
    assert "images.npz holds no counts of images" in browse(*words)[2]


def test_predictions_of_other_data_are_told(browse, run_folder, tmp_path):
    first, second, _ = sorted((run_folder / "val" / "label").iterdir())
    for file, others in ((second, ""), (first, " (nor those of 1 others)")):
        file.unlink()
        status, _, error = browse("--worst", run_folder, "--out", tmp_path / "out")
        assert status == 2 and f"label holds no prediction of {file.stem}{others}: run 'python main.py val'" in error


def test_the_worst_of_a_class_are_by_its_own_score(browse, run_folder, tmp_path):
    words = ["--worst", run_folder, "--class", "sky", "--count", 1, "--out", tmp_path / "out"]
    status, out, _ = browse(*words)
    assert status == 0 and "the lowest IoU of sky first" in out
    assert len(Page(tmp_path / "out" / "index.html").names) == 1


def test_strange_names_are_words_on_the_page_and_nothing_else(browse, data_copy, tmp_path):
    strange = "<img src=x onerror=alert(1)>&\"'道路 $title"
    for kind in ("image", "label"):
        file = sorted((data_copy / "train" / kind).iterdir())[0]
        file.rename(file.with_stem(strange))
    text = TABLE.text.replace("sidewalk", "<script>道路</script>")
    (data_copy / "classes.csv").write_text(text)
    status, _, error = browse(data_copy, "--out", tmp_path / "out")
    assert status == 0, error
    found = Page(tmp_path / "out" / "index.html")
    assert strange in found.names
    assert found.tags.count("script") == 1 and not any(name.startswith("on") for name, _ in found.attributes)
    assert all(value.startswith("data:image/") for name, value in found.attributes if name == "src" and value)
    assert '<option value="1">&lt;script&gt;道路' in (tmp_path / "out" / "index.html").read_text()


def test_a_page_keeps_to_its_size(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    shares = dict.fromkeys(range(19), 1 / 19)
    monkeypatch.setattr(gallery, "PAGE_BYTES", 400_000)
    for count in (3, 30):
        budget = gallery.budget_of(count, 19)
        cards = [PageCard.of(Card("n" * 100, "note", noise, shares), budget) for _ in range(count)]
        assert all(len(card.packed) <= budget for card in cards)
        html = gallery.page("title", cards, TABLE)
        assert len(html) <= 400_000 and html.count("<figure") == count


def test_a_second_call_leaves_no_sheet_of_the_first(browse, data_root, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.vis.browse.PER_SHEET", 2)
    out = tmp_path / "out"
    words = [data_root, "--dataset", "cityscapes", "--width", 96, "--out", out]
    browse(*words)
    assert sorted(path.name for path in out.iterdir()) == ["index.html", *(f"sheet_00{n}.jpg" for n in (1, 2, 3))]
    (out / "notes.txt").write_text("mine")
    browse(*words, "--split", "test", "--format", "png")
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "notes.txt", "sheet_001.png"]


def test_words_of_any_length_fit():
    long = "道" * 30 + "x" * 300
    assert text_width(fitted(long, 120)) <= 120 and "…" in fitted(long, 120) and fitted("short", 120) == "short"


def test_a_class_of_another_case_is_found_unless_there_are_two():
    text = "id,name,train_id,red,green,blue,weight\n0,Car,0,0,0,0,\n1,car,1,1,1,1,\n2,Bus,2,2,2,2,\n"
    table = parse_table(text, "mine", "mine")
    assert [class_index(table, name) for name in ("Car", "car", "BUS")] == [0, 1, 2]
    with pytest.raises(Exception, match="no class 'CAR': did you mean"):
        class_index(table, "CAR")


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "name what to look at: a DATA_DIR, --config FILE, or --worst RUN"),
        (["DATA"], "has no classes.csv: name its classes with --dataset, one of ade20k"),
        (["DATA", "--dataset", "cityscape"], "choose one of auto, ade20k"),
        (["DATA", "seed=1", "--dataset", "cityscapes"], "seed=1 changes a recipe: name it with --config FILE"),
        (["DATA", "DATA"], "one word too many"),
        (["DATA", "--config", RECIPE], "one word too many"),
        (["--config", RECIPE, "--dataset", "camvid"], "use data.dataset=camvid"),
        (["no such folder", "--dataset", "camvid"], "DATA_DIR no such folder is not a folder or .zip file"),
        (["EMPTY", "--dataset", "camvid"], "is empty"),
        (["DATA", "--dataset", "cityscapes", "--class", "persn"], "no class 'persn': did you mean 'person'?"),
        (
            ["DATA", "--dataset", "cityscapes", "--class", "train", "--split", "val"],
            "no image of val has the class train",
        ),
        (["DATA", "--dataset", "cityscapes", "--class", "car", "--split", "test"], "the images of test have no labels"),
        (
            ["DATA", "--dataset", "cityscapes", "--augmented"],
            "--augmented shows how a recipe trains: it needs --config",
        ),
        (["--config", RECIPE, "data.root=DATA", "--augmented", "--epoch", "-1"], "--epoch has to be 0 or more"),
        (["--config", RECIPE, "data.root=DATA", "--worst", "DATA"], "is not a run's folder: it holds no config.yaml"),
        (["--worst", "RUN"], "holds no val/label: run 'python main.py val' for this run first"),
        (["--worst", "RUN", "--split", "test"], "the images of test have no labels"),
        (["DATA", "--dataset", "cityscapes", "--out", "FILE"], "choose another --out"),
        (["DATA", "--count", "0"], "--count 0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(browse, data_root, tmp_path, words, expected):
    run = tmp_path / "run"
    (run / "test" / "label").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(load_config(RECIPE, [f"data.root={data_root}"])))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, path in {"DATA": data_root, "EMPTY": tmp_path / "empty", "RUN": run, "FILE": tmp_path / "file"}.items():
        words = [str(word).replace(name, str(path)) for word in words]
    before = sorted(tmp_path.rglob("*"))
    status, out, error = browse("--out", tmp_path / "out", *words)
    assert status == 2 and out == "" and expected in error and len(error.splitlines()) == 1, error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_image_leaves_nothing_half_done(browse, data_copy, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.vis.browse.PER_SHEET", 2)
    last = sorted((data_copy / "train" / "image").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:200])
    status, _, error = browse(data_copy, "--dataset", "cityscapes", "--out", tmp_path / "out" / "deep")
    assert status == 2 and str(last) in error and not (tmp_path / "out").exists()


def test_a_zip_is_looked_at_in_place(browse, data_root, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "data"), "zip", data_root)
    assert browse(packed, "--dataset", "cityscapes", "--count", 2, "--out", tmp_path / "out")[0] == 0
    assert len(Page(tmp_path / "out" / "index.html").names) == 2


def test_sheets_are_not_written_among_the_images(browse, data_copy):
    for out in (data_copy, data_copy / "train" / "image"):
        assert "lies in the data" in browse(data_copy, "--dataset", "cityscapes", "--out", out)[2]
    assert not list(data_copy.rglob("*.html"))
