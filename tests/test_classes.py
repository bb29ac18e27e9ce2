"""The class tables hold what the datasets publish."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datasets.seg.classes import IGNORE, UNKNOWN, datasets, find_table, load_table, named_table, parse_table
from lib.base.errors import UserError

SPEC = Path(__file__).parents[2] / "shared" / "spec" / "classes.json"
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def test_cityscapes_train_ids_follow_the_published_label_ids():
    table = load_table("cityscapes")
    assert table.id_of.tolist() == CITYSCAPES_IDS
    assert table.train_id_of[CITYSCAPES_IDS].tolist() == list(range(19))
    assert (table.names[0], table.names[13], table.names[18]) == ("road", "car", "bicycle")


def test_cityscapes_ids_without_a_train_id_are_ignored_and_others_unknown():
    lookup = load_table("cityscapes").train_id_of
    assert lookup.dtype == np.uint8 and lookup.shape == (256,)
    ignored = sorted(set(range(34)) - set(CITYSCAPES_IDS))
    assert set(lookup[ignored]) == {IGNORE}
    assert set(lookup[34:]) == {UNKNOWN}


def test_cityscapes_palette_is_the_published_one():
    table = load_table("cityscapes")
    assert table.palette.shape == (19, 3) and table.palette.dtype == np.uint8
    colour = dict(zip(table.names, table.palette.tolist(), strict=True))
    assert colour["road"] == [128, 64, 128]
    assert colour["sky"] == [70, 130, 180]
    assert colour["person"] == [220, 20, 60]
    assert len({tuple(c) for c in table.palette.tolist()}) == 19


def test_cityscapes_weights_are_the_published_ones():
    weights = load_table("cityscapes").weights
    assert len(weights) == 19
    assert weights[:3] == (0.8373, 0.9180, 0.8660) and weights[17:] == (1.1529, 1.0507)
    assert sum(weights) == pytest.approx(19.0001)


def test_camvid_has_eleven_classes_and_void():
    table = load_table("camvid")
    assert len(table) == 11
    assert table.names[0] == "sky" and table.names[10] == "bicyclist"
    assert table.train_id_of[:12].tolist() == [*range(11), IGNORE]
    assert table.train_id_of[12] == UNKNOWN
    assert table.weights is None


@pytest.mark.parametrize(
    "dataset, words", [("cityscapes", "0..33"), ("ade20k", "0..150"), ("pascal_voc", "0..20, 255")]
)
def test_valid_ids_are_given_in_words(dataset, words):
    assert load_table(dataset).valid_ids == words


def test_an_unknown_dataset_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"camvid.*cityscapes"):
        load_table("cityscape")
    assert {"camvid", "cityscapes"} <= set(datasets())


# Which label id means which class, as the datasets and the published recipes say: the first train id's label id, and
# the label ids that are legal but ignored.
LAYOUTS = {
    "ade20k": (150, 1, [0]),
    "camvid": (11, 0, [11]),
    "pascal_context_59": (59, 1, [0]),
    "pascal_context_60": (60, 0, []),
    "pascal_voc": (21, 0, [255]),
    "pascal_voc_20": (20, 1, [0, 255]),
}


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_label_ids_become_train_ids_are_ignored_or_unknown(dataset):
    classes, first, ignored = LAYOUTS[dataset]
    table = load_table(dataset)
    expected = np.full(256, UNKNOWN)
    expected[first : first + classes] = np.arange(classes)
    expected[ignored] = IGNORE
    np.testing.assert_array_equal(table.train_id_of, expected)
    np.testing.assert_array_equal(table.id_of, np.arange(first, first + classes))


@pytest.mark.skipif(not SPEC.is_file(), reason="the published class lists are not beside the repository")
@pytest.mark.parametrize("dataset", sorted({"cityscapes", *LAYOUTS}))
def test_names_and_colours_are_the_published_ones(dataset):
    published = json.loads(SPEC.read_text())
    source = published["pascal_voc" if dataset == "pascal_voc_20" else dataset]
    skipped = len(source["classes"]) - len(load_table(dataset))
    assert skipped == (dataset == "pascal_voc_20")
    assert list(load_table(dataset).names) == [name.strip() for name in source["classes"][skipped:]]
    assert load_table(dataset).palette.tolist() == source["palette"][skipped:]


@pytest.mark.parametrize("dataset", datasets())
def test_every_class_has_a_name_and_none_has_it_twice(dataset):
    names = load_table(dataset).names
    assert len(set(names)) == len(names)
    assert all(name and name == " ".join(name.split()) for name in names)


HEADER = "id,name,train_id,red,green,blue,weight\n"
GOOD = HEADER + "0,other,,,,,\n5,grass,0,0,200,0,0.5\n9,tree,1,0,100,0,1.5\n"


def test_a_table_lies_with_the_data_in_a_folder_or_a_zip(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/classes.csv").write_text("\ufeff" + GOOD)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.write(tmp_path / "mine/classes.csv", "mine/classes.csv")
    for root in (tmp_path / "mine", tmp_path / "mine.zip"):
        table = find_table("auto", root)
        assert table.dataset == "mine" and table.names == ("grass", "tree") and table.weights == (0.5, 1.5)
        assert table.id_of.tolist() == [5, 9] and table.train_id_of[[0, 5, 9, 1]].tolist() == [IGNORE, 0, 1, UNKNOWN]
        assert parse_table(table.text, "again", "there").names == table.names


def test_known_tables_are_found_whatever_the_data(tmp_path):
    assert find_table("camvid", tmp_path / "none") is load_table("camvid")


@pytest.mark.parametrize("content", [None, b"\xff\xfe", "folder"])
def test_data_without_a_table_is_refused(tmp_path, content):
    if content == "folder":
        (tmp_path / "classes.csv").mkdir()
    elif content:
        (tmp_path / "classes.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"classes\.csv.*(new-dataset|UTF-8)"):
        find_table("auto", tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no column id"),
        ("id,name\n1,a\n", "no column train_id"),
        (HEADER, "has no class"),
        (HEADER + "0,void,,,,,\n", "has no class"),
        (HEADER + "0,a,0,1,2\n", "line 2 has more or fewer values"),
        (HEADER + "0,a,0,1,2,3,,7\n", "line 2 has more or fewer values"),
        (HEADER + "256,a,0,1,2,3,\n", "line 2: id 256 has to be from 0 to 255"),
        (HEADER + "-1,a,0,1,2,3,\n", "id -1"),
        (HEADER + "x,a,0,1,2,3,\n", "id 'x' is no number"),
        (HEADER + "1_0,a,0,1,2,3,\n", "id '1_0' is no number"),
        (HEADER + "0,a,254,1,2,3,\n", "train_id 254 has to be from 0 to 253"),
        (HEADER + "0,a,0,1,2,,\n", "blue '' is no number"),
        (HEADER + "0,a,0,1,2,300,\n", "blue 300"),
        (HEADER + "0,a,0,1,2,3,nan\n", "weight nan"),
        (HEADER + "0,a,0,1,2,3,-1\n", "weight -1"),
        (HEADER + "0,,0,1,2,3,\n", "a name has to be"),
        (HEADER + '0,"a\nb",0,1,2,3,\n', "a name has to be"),
        (HEADER + "0,a,0,1,2,3,\n0,b,1,1,2,3,\n", "id 0 comes 2 times"),
        (HEADER + "0,a,0,1,2,3,\n1,a,1,1,2,3,\n", "name a comes 2 times"),
        (HEADER + "0,a,0,1,2,3,\n1,b,0,1,2,3,\n", "train_id 0 comes 2 times"),
        (HEADER + "0,a,0,1,2,3,\n1,b,2,1,2,3,\n", r"have to be 0\.\.1"),
        (HEADER + "0,a,0,1,2,3,1\n1,b,1,1,2,3,\n", "b has no weight"),
        (HEADER + '0,"a,0,1,2,3,1\n', "line"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(text, words):
    with pytest.raises(UserError, match=words) as error:
        parse_table(text, "mine", "mine/classes.csv")
    assert "mine/classes.csv" in str(error.value) and "\n" not in str(error.value)


class TestNamedTable:
    def test_a_word_names_a_known_dataset_a_folder_a_zip_or_a_file(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/classes.csv").write_text(GOOD)
        (tmp_path / "other.CSV").write_text(GOOD)
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
            archive.write(tmp_path / "mine/classes.csv", "classes.csv")
        for word in ("mine", "mine/classes.csv", "mine.zip", "other.CSV"):
            assert named_table(str(tmp_path / word)).names == ("grass", "tree")
        assert named_table("camvid") is load_table("camvid")

    @pytest.mark.parametrize(
        "word, words",
        [
            ("auto", "unknown dataset 'auto': choose one of ade20k.*DATA_DIR"),
            ("no\nsuch", "unknown dataset"),
            ("\0", "unknown dataset"),
            (".", "no class table.*classes.csv"),
            ("empty.zip", "no class table.*classes.csv"),
            ("picture.png", "no class table|not a zip"),
            ("bad.csv", "no class table.*no column train_id"),
            ("latin.csv", "no class table.*not UTF-8"),
            ("large.csv", "no class table.*bytes"),
        ],
    )
    def test_what_names_no_table_is_refused_in_one_line(self, tmp_path, monkeypatch, word, words):
        monkeypatch.chdir(tmp_path)
        with zipfile.ZipFile("empty.zip", "w") as archive:
            archive.writestr("train/image/a.png", b"")
        (tmp_path / "picture.png").write_bytes(b"x")
        (tmp_path / "bad.csv").write_text("id,name\n")
        (tmp_path / "latin.csv").write_bytes(b"\xe9")
        (tmp_path / "large.csv").write_bytes(b" " * (2 << 20))
        with pytest.raises(UserError, match=words) as error:
            named_table(word)
        assert "\n" not in str(error.value)


def test_a_single_class_is_no_problem_to_learn_and_the_remedy_is_said(tmp_path):
    (tmp_path / "classes.csv").write_text(HEADER + "0,void,,,,,\n1,cell,0,1,2,3,\n")
    with pytest.raises(UserError, match=r"one class, cell.*background a train_id"):
        find_table("auto", tmp_path)
    # to score one is no matter
    assert len(named_table(str(tmp_path))) == 1
