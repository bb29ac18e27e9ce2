"""new-dataset: whatever form labels come in, the same prepared labels come out."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from own_layouts import COLOURS, NAMES, NewDataset, contents, label, make, prepared, put, put_palette, write_coco
from pycocotools import mask as coco

from datasets.seg.classes import find_table
from datasets.seg.dataset import list_samples
from datasets.seg.own.coco import draw
from datasets.seg.preprocess.runner import LabelError

CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"
LABELS = {f"photo_{at}": label(at) for at in range(5)}


@pytest.fixture
def new_dataset(monkeypatch, capfd):
    return NewDataset(monkeypatch, capfd)


def write_classes(path: Path) -> Path:
    lines = [f"{name},{red},{green},{blue}" for name, (red, green, blue) in zip(NAMES, COLOURS, strict=True)]
    path.write_text("\n".join(["name,red,green,blue", *lines]))
    return path


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "form, sentence",
    [
        ("ids", "5 masks of ids"),
        ("palette", "5 palette PNGs"),
        ("grey in rgb", "ids in three equal channels"),
        ("tiff", "5 masks of ids"),
        ("npy", "5 masks of ids"),
        ("coco runs", "COCO annotations"),
        ("coco counts", "COCO annotations"),
    ],
)
def test_every_form_leads_to_the_same_labels(new_dataset, tmp_path, form, sentence):
    status, out, err = new_dataset(*make(tmp_path / "raw", form), tmp_path / "data")
    assert (status, err) == (0, "")
    assert sentence in " ".join(out.split())
    assert same(prepared(tmp_path / "data"), LABELS)
    table = find_table("auto", tmp_path / "data")
    assert len(table) == 4 and all(table.train_id_of[:4] == range(4))
    assert [len(list_samples(tmp_path / "data", split)) for split in ("train", "val")] == [4, 1]


def test_colour_masks_take_names_and_ids_from_a_file_and_otherwise_the_order_of_colours(new_dataset, tmp_path):
    source = make(tmp_path / "raw", "colours")
    classes = write_classes(tmp_path / "classes.csv")
    assert new_dataset(*source, tmp_path / "named", "--classes", classes)[0] == 0
    assert same(prepared(tmp_path / "named"), LABELS)
    table = find_table("auto", tmp_path / "named")
    assert table.names == NAMES and np.array_equal(table.palette, COLOURS)
    assert new_dataset(*source, tmp_path / "found")[0] == 0
    by_colour = np.argsort(np.lexsort(COLOURS.T[::-1])).astype(np.uint8)
    assert same(prepared(tmp_path / "found"), {name: by_colour[ids] for name, ids in LABELS.items()})
    assert np.array_equal(find_table("auto", tmp_path / "found").palette[by_colour], COLOURS)


def test_the_colours_of_a_palette_become_the_tables(new_dataset, tmp_path):
    new_dataset(*make(tmp_path / "raw", "palette"), tmp_path / "data")
    assert np.array_equal(find_table("auto", tmp_path / "data").palette, COLOURS)


def test_palettes_that_differ_are_read_as_colours(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw", "palette")
    put_palette(labels / "photo_0.png", 3 - LABELS["photo_0"], COLOURS[::-1])
    new_dataset(images, labels, tmp_path / "data", "--classes", write_classes(tmp_path / "classes.csv"))
    assert same(prepared(tmp_path / "data"), LABELS)


def test_ids_above_255_are_mapped_and_the_table_knows_what_they_were(new_dataset, tmp_path):
    new_dataset(*make(tmp_path / "raw", "16 bit"), tmp_path / "data")
    assert same(prepared(tmp_path / "data"), LABELS)
    rows = (tmp_path / "data" / "classes.csv").read_text().splitlines()
    assert rows[0].endswith(",weight,source") and [row.split(",")[-1] for row in rows[1:]] == [
        "0",
        "1000",
        "2000",
        "3000",
    ]


def test_a_folder_for_each_class(new_dataset, tmp_path):
    status, out, _ = new_dataset(*make(tmp_path / "raw", "folders"), tmp_path / "data")
    assert status == 0 and "each class has masks of its own" in out
    order = ["background", *sorted(NAMES[1:])]
    assert find_table("auto", tmp_path / "data").names == tuple(order)
    ids = np.array([order.index(name) for name in NAMES], np.uint8)
    assert same(prepared(tmp_path / "data"), {name: ids[label] for name, label in LABELS.items()})


def test_overlapping_masks_show_the_smaller(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw", "folders", count=3)
    for at in range(3):
        put(labels / "building" / f"photo_{at}.png", np.full((24, 32), 255, np.uint8))
    new_dataset(images, labels, tmp_path / "data")
    found = prepared(tmp_path / "data")["photo_0"]
    assert np.array_equal(found == 1, ~np.isin(LABELS["photo_0"], [1, 3]))


def near_edges(label: np.ndarray) -> np.ndarray:
    ids = label.astype(np.uint8)
    return cv2.dilate(ids, np.ones((3, 3))) != cv2.erode(ids, np.ones((3, 3)))


def test_polygons_are_right_but_for_a_pixel_at_edges(new_dataset, tmp_path):
    assert new_dataset(*make(tmp_path / "raw", "coco polygons"), tmp_path / "data")[0] == 0
    for name, found in prepared(tmp_path / "data").items():
        assert not ((found != LABELS[name]) & ~near_edges(LABELS[name])).any()


def test_polygons_are_drawn_as_pycocotools_does_but_for_a_pixel_at_edges():
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygon = (rng.random(12) * 60 - 5).tolist()
        expected = coco.decode(coco.merge(coco.frPyObjects([polygon], 40, 50)))
        found = draw([polygon], (40, 50))
        outline = np.array(polygon, np.float32).reshape(-1, 1, 2)
        for y, x in np.argwhere(found != expected):
            assert abs(cv2.pointPolygonTest(outline, (x + 0.5, y + 0.5), True)) <= 2**0.5


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ([[1, 2, 3, 4]], "three or more points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "far from any image"),
        ([[1, 2, 3, 4, 5, 1e300]], "far from any image"),
        ([[1, 2, 3, 4, 5, "6"]], "far from any image"),
        ([7], "three or more points"),
        ("mask", "neither polygons nor runs"),
        ({"size": [4, 4], "counts": [3, -3, 16]}, "do not fill"),
        ({"size": [4, 4], "counts": [1 << 62, 4]}, "do not fill"),
        ({"size": [4, 5], "counts": [16]}, "height, width"),
        ({"size": [4, 4], "counts": "zzzz"}, "do not fill"),
        ({"size": [4, 4]}, "run-length"),
    ],
)
def test_a_segmentation_that_is_none_is_refused(segmentation, words):
    with pytest.raises(LabelError, match=words):
        draw(segmentation, (4, 4))


def test_binary_masks_become_0_and_1(new_dataset, tmp_path):
    labels = [(label(seed) > 0) * np.uint8(255) for seed in range(5)]
    status, out, _ = new_dataset(*make(tmp_path / "raw", labels=labels), tmp_path / "data")
    assert status == 0 and "binary masks" in out
    assert same(prepared(tmp_path / "data"), {name: (ids > 0).astype(np.uint8) for name, ids in LABELS.items()})
    assert find_table("auto", tmp_path / "data").names == ("background", "foreground")


def test_255_is_ignored_unless_it_is_a_class(new_dataset, tmp_path):
    labels = [np.where(label(seed) == 3, 255, label(seed)).astype(np.uint8) for seed in range(5)]
    source = make(tmp_path / "raw", labels=labels)
    status, out, _ = new_dataset(*source, tmp_path / "ignored")
    assert status == 0 and "255 is ignored" in " ".join(out.split())
    table = find_table("auto", tmp_path / "ignored")
    assert len(table) == 3 and table.train_id_of[255] == 255 and "255" in table.valid_ids
    (tmp_path / "classes.csv").write_text("id,name\n0,a\n1,b\n2,c\n255,d\n")
    assert new_dataset(*source, tmp_path / "class", "--classes", tmp_path / "classes.csv")[0] == 0
    assert find_table("auto", tmp_path / "class").names == ("a", "b", "c", "d")
    assert same(prepared(tmp_path / "class"), prepared(tmp_path / "ignored"))


@pytest.mark.parametrize(
    "ignore, names", [("0,class_3", ("class_1", "class_2")), ("255, 2", ("class_0", "class_1", "class_3"))]
)
def test_ids_and_names_can_be_ignored(new_dataset, tmp_path, ignore, names):
    assert new_dataset(*make(tmp_path / "raw"), tmp_path / "data", "--ignore", ignore)[0] == 0
    assert find_table("auto", tmp_path / "data").names == names


def test_ignored_ids_of_a_table_need_no_colour(new_dataset, tmp_path):
    rows = [f"{at},{name},{at - 1},{','.join(map(str, COLOURS[at]))}," for at, name in enumerate(NAMES) if at]
    text = ["id,name,train_id,red,green,blue,weight", *rows, "11,void,,,,,"]
    (tmp_path / "table.csv").write_text("\n".join(text))
    words = ["--classes", tmp_path / "table.csv", "--ignore", "#000000"]
    assert new_dataset(*make(tmp_path / "raw", "colours"), tmp_path / "data", *words)[0] == 0
    assert find_table("auto", tmp_path / "data").names == NAMES[1:]
    expected = {name: np.where(ids == 0, 255, ids).astype(np.uint8) for name, ids in LABELS.items()}
    assert same(prepared(tmp_path / "data"), expected)


def test_a_colour_can_be_ignored(new_dataset, tmp_path):
    new_dataset(*make(tmp_path / "raw", "colours"), tmp_path / "data", "--ignore", "#000000")
    assert [0, 0, 0] not in find_table("auto", tmp_path / "data").palette.tolist()


@pytest.mark.parametrize("form", ["coco runs", "folders"])
def test_background_can_be_left_out(new_dataset, tmp_path, form):
    assert new_dataset(*make(tmp_path / "raw", form), tmp_path / "data", "--ignore-background")[0] == 0
    table = find_table("auto", tmp_path / "data")
    assert "background" not in table.names and len(table) == 3 and table.train_id_of[0] == 255


def test_200_classes_have_ids_names_and_colours_of_their_own(new_dataset, tmp_path):
    labels = [np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) % 200 + 300 for _ in range(3)]
    images, folder = make(tmp_path / "raw", count=3)
    for at, ids in enumerate(labels):
        put(folder / f"photo_{at}.png", ids)
    assert new_dataset(images, folder, tmp_path / "data")[0] == 0
    table = find_table("auto", tmp_path / "data")
    assert len(table) == 200 and len({tuple(colour) for colour in table.palette.tolist()}) == 200
    for found in prepared(tmp_path / "data").values():
        assert np.array_equal(found, labels[0] - 300)


def test_classes_may_be_a_list_of_names_or_of_colours_before_names(new_dataset, tmp_path):
    (tmp_path / "names.txt").write_text("# four\nvoid\n road \nbuilding\nperson\nnever seen\n")
    new_dataset(*make(tmp_path / "raw"), tmp_path / "data", "--classes", tmp_path / "names.txt")
    assert find_table("auto", tmp_path / "data").names == ("void", "road", "building", "person", "never seen")
    (tmp_path / "colours.txt").write_text(
        "0 0 0\tvoid\n128 64 128\troad\n70 70 70 \tbuilding\n220 20 60 person, sitting\n"
    )
    new_dataset(*make(tmp_path / "raw 2", "colours"), tmp_path / "data 2", "--classes", tmp_path / "colours.txt")
    assert find_table("auto", tmp_path / "data 2").names[-1] == "person, sitting"
    assert same(prepared(tmp_path / "data 2"), LABELS)


def test_a_class_table_gives_weights_and_what_is_ignored(new_dataset, tmp_path):
    text = "id,name,train_id,red,green,blue,weight\n0,sky,,0,0,0,\n1,a,0,1,1,1,2.5\n2,b,1,2,2,2,1\n3,c,2,3,3,3,0.5\n"
    (tmp_path / "table.csv").write_text(text)
    new_dataset(*make(tmp_path / "raw"), tmp_path / "data", "--classes", tmp_path / "table.csv")
    table = find_table("auto", tmp_path / "data")
    assert table.names == ("a", "b", "c") and table.weights == (2.5, 1.0, 0.5) and table.train_id_of[0] == 255


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs CamVid")
def test_all_forms_of_camvid_are_one(new_dataset, tmp_path):
    paths = sorted((CAMVID / "trainannot").iterdir())[:3]
    labels = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:240, :320] for path in paths]
    reference = {f"photo_{at}": ids for at, ids in enumerate(labels)}
    for form in ("coco runs", "coco polygons"):
        images, source = tmp_path / form / "images", tmp_path / form / "labels.json"
        for at in range(3):
            put(images / f"photo_{at}.png", np.full((240, 320, 3), at, np.uint8))
        write_coco(source, labels, form)
        assert new_dataset(images, source, tmp_path / form / "data")[0] == 0
        for name, found in prepared(tmp_path / form / "data").items():
            assert (found == reference[name])[~near_edges(reference[name])].mean() > (
                0.999 if "poly" in form else 1 - 1e-9
            )


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs CamVid")
def test_camvid_as_an_unknown_folder_is_what_its_own_command_makes(new_dataset, tmp_path):
    for split in ("train", "val", "test"):
        for kind in ("", "annot"):
            (tmp_path / "raw" / (split + kind)).mkdir(parents=True)
            for path in sorted((CAMVID / f"{split}{kind}").iterdir())[:4]:
                (tmp_path / "raw" / (split + kind) / path.name).write_bytes(path.read_bytes())
    assert new_dataset(tmp_path / "raw", tmp_path / "raw", tmp_path / "data")[0] == 0
    found = contents(tmp_path / "data")
    for split in ("train", "val", "test"):
        for path in (tmp_path / "raw" / split).iterdir():
            assert found.pop(f"{split}/image/{path.name}") == path.read_bytes()
            label = f"{path.stem}.png"
            assert found.pop(f"{split}/label/{label}") == (tmp_path / "raw" / f"{split}annot" / label).read_bytes()
    assert found.keys() == {"classes.csv", "facts.json"}
