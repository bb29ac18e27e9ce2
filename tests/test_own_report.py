"""The report: what the terminal shows, and a page that is whole, legible and fetches nothing."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from own_surveys import entries, facts, ordinary, photo, scene, survey

from datasets.seg.own import report
from datasets.seg.own.diagnosis import diagnose
from datasets.seg.own.facts import Entry
from datasets.seg.own.finding import Finding
from datasets.seg.own.pictures import SAMPLES, as_picture, choose, data_uri, prepared, show, tint
from datasets.seg.own.statistics import Totals
from datasets.seg.own.words import ranges, share
from lib.base.errors import UserError
from lib.vis.overlay import overlay

NAMES = {0: "sky", 1: "road & <b>path</b>", 2: "木"}
EVIL = '<script>alert("x")</script>'
VOID_TAGS = {"meta", "img", "link", "br", "input", "hr", "base", "source"}


class Page(HTMLParser):
    """A page taken apart; fails the test where an element is not closed, or closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def pictures(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def named(found, **more):
    return survey(found, entries([0, 1, 2, 255], ignored=[255], names=NAMES), **more)


def load(one):
    """The pairs of ``ordinary``, which are made of their numbers, in a larger size."""
    label = scene(int(one.pair.name), (0, 1, 2), 120, 160).astype(np.uint8)
    return photo(int(one.pair.name), 120, 160), None if one.label_size is None else label


def test_the_terminal_shows_all_in_aligned_narrow_lines():
    found = named(ordinary(), images_alone=[Path("images/without.png")])
    found.recognised = ["labels are masks of ids " * 12]
    lines = report.text(found, diagnose(found)).splitlines()
    assert lines[0] == "Recognised" and lines[1].startswith("  - labels are masks of ids")
    assert max(map(len, lines)) < 120 and not any(line != line.rstrip() for line in lines)
    shown = "\n".join(lines)
    assert "train 30, val 10; all 32 x 24 pixels; 3 bands of uint8" in shown
    rows = lines[lines.index("3 classes: share of the train pixels, labels that have it by split, weight") + 1 :][:4]
    assert rows[0].split() == ["id", "class", "value", "pixels", "train", "val", "weight"]
    assert rows[1].split() == ["0", "sky", "0", "34.4%", "30", "10", "1.00"]
    # 木 is two columns wide.
    assert len({len(row) + row.count("木") for row in rows}) == 1
    assert "remedy: if they belong together" in shown and "files: images/without.png" in shown


def test_the_terminal_says_that_nothing_looks_wrong():
    found = named(ordinary())
    assert report.text(found, diagnose(found)).endswith("Findings: nothing looks wrong")


def test_two_hundred_classes_and_none_are_shown():
    many = survey(ordinary(values=range(8)), entries(range(200)))
    text = report.text(many, diagnose(many))
    assert "  and 160 more, with fewer pixels" in text and len(text.splitlines()) < 100
    empty = survey([], [])
    text = report.text(empty, diagnose(empty))
    assert "Images\n  none" in text and "class" not in text
    Page(report.html(empty, diagnose(empty), load))


def test_the_page_is_balanced_and_needs_nothing_from_outside():
    found = named([*ordinary(), facts("500", photo(500), None, "test")], images_alone=[Path("images/a.png")])
    text = report.html(found, diagnose(found), load, title="Ponds & <rivers>")
    page = Page(text)
    assert page.texts.count("Ponds & <rivers>") == 2
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form", "a")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    policy = next(attributes for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'")
    assert len(page.pictures) == 2 * 13 + 1 and all(picture["alt"] for picture in page.pictures)


def test_what_comes_from_the_user_is_escaped_everywhere():
    pair = facts(EVIL, photo(1), scene(1, (0, 1)))
    found = survey(
        [pair], [Entry(0, 0, EVIL, (0, 0, 0)), Entry(1, 1, "b\udcff\n", (9, 9, 9))], problems=[f"{EVIL} is bad"]
    )
    found.recognised = [EVIL]
    paths = [pair.pair.image, Path(f"a/{EVIL}.png"), Path("b\udce9\u2028.png")]
    text = report.html(
        found, [Finding(EVIL, EVIL, paths)], lambda one: (photo(1), scene(1, (0, 1)).astype(np.uint8)), title=EVIL
    )
    assert "<script" not in text and not [tag for tag, _ in Page(text).tags if tag == "script"]
    text.encode("utf-8")
    assert "b\\udce9\\u2028.png" in text and "b\\udcff\\n" in text
    report.text(found, [Finding(EVIL, EVIL, paths)]).encode("utf-8")


def test_each_bar_is_told_in_words_and_in_its_class_colour():
    page = Page(report.html(named(ordinary()), []))
    bars = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert bars == [
        "sky: 34.4% of the pixels of train",
        "road & <b>path</b>: 34.4% of the pixels of train",
        "木: 31.2% of the pixels of train",
        "40 images",
    ]
    fills = [attributes["fill"] for tag, attributes in page.tags if tag == "rect"]
    assert fills == ["#005ac8", "#285ac8", "#505ac8", "currentColor"]


def test_findings_show_their_files_and_small_pictures_of_these():
    found = named(ordinary())
    paths = [Path("labels/003.png"), Path("images/004.png"), Path("elsewhere.png")]
    text = report.html(found, [Finding("too dark", "use a lamp", paths, severe=True)], load)
    page = Page(text)
    assert "Findings: 1, 1 of them severe" in text and "Severe:" in page.texts and ": too dark." not in text
    assert [picture["alt"] for picture in page.pictures[:2]] == ["003", "004"]
    assert [text for text in page.texts if text.endswith(".png")] == [str(path) for path in paths]


def test_the_page_stays_under_three_megabytes_whatever_the_pictures_are():
    found = named(ordinary(train=40))
    findings = [Finding(f"finding {n}", "none", [one.pair.image for one in found.facts]) for n in range(12)]
    # Noise compresses worst.
    text = report.html(
        found, findings, lambda one: (photo(1, 300, 480), scene(1, (0, 1, 2), 300, 480).astype(np.uint8))
    )
    assert len(Page(text).pictures) == 2 * 14 + 12 * 4 and len(text) < 3e6


def test_pictures_that_cannot_be_read_are_left_out():
    def missing(one):
        raise UserError("gone")

    found = named(ordinary())
    page = Page(report.html(found, [Finding("a", "b", [found.facts[0].pair.image])], missing))
    assert not page.pictures and "No picture could be read." in page.texts


def test_the_report_is_the_same_each_time():
    found = named(ordinary())
    assert report.html(found, diagnose(found), load) == report.html(found, diagnose(found), load)


def test_samples_show_each_class_and_otherwise_the_whole_split():
    found = [facts(f"{at:03}", photo(at), scene(at, (0, 1)), "train") for at in range(200)]
    found[150] = facts("150", photo(150), scene(1, (0, 7)), "train")
    found[151] = facts("151", photo(151), scene(1, (0, 8)), "train")
    chosen = [one.pair.name for one in choose(Totals(survey(found)))["train"]]
    # Without another split its share is this one's.
    assert len(chosen) == sum(SAMPLES.values()) and chosen == sorted(chosen) and {"150", "151"} <= set(chosen)
    assert min(chosen) < "020" and max(chosen) > "180"


def test_the_overlay_is_that_of_results():
    palette = np.array([[200, 30, 30], [10, 120, 255]], np.uint8)
    label = scene(5, (0, 1, 255)).astype(np.uint8)
    tinted = tint(photo(3), label, {at: tuple(colour) for at, colour in enumerate(palette.tolist())})
    np.testing.assert_array_equal(tinted, overlay(photo(3), label, palette))


def test_ids_are_written_into_their_regions():
    one = facts("1", photo(1, 120, 160), scene(1, (0, 1, 2), 120, 160))
    table = entries([0, 1, 2])
    seen = show(one, load, table)
    plain = tint(load(one)[0], load(one)[1], {entry.id: entry.colour for entry in table})
    changed = (seen.overlay != plain).any(axis=2)
    for id_ in range(3):
        assert 20 < (changed & (load(one)[1] == id_)).sum() < 400
    assert [id_ for id_, _ in seen.present] == [0, 1, 2]


@pytest.mark.parametrize(
    "bands, kind", [(1, np.uint8), (2, np.uint8), (4, np.float32), (3, np.uint16), (1, np.float32)]
)
def test_images_of_any_kind_become_pictures(bands, kind):
    raster = photo(1, 20, 30, bands).astype(kind) * (1 if kind == "uint8" else 37)
    if kind == "float32":
        raster[:3] = np.nan
    picture = as_picture(raster)
    assert picture.shape == (20, 30, 3) and picture.dtype == np.uint8 and picture.std() > 50


def test_pictures_come_from_the_prepared_data(tmp_path):
    for split in ("train", "val"):
        for folder in ("image", "label"):
            (tmp_path / split / folder).mkdir(parents=True)
    image, label = photo(1), scene(1, (0, 1)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "train/image/a.b.png"), image[..., ::-1])
    cv2.imwrite(str(tmp_path / "train/label/a.b.png"), label)
    np.save(tmp_path / "val/image/c.npy", photo(2, bands=5).astype(np.float32))
    loading = prepared(tmp_path)
    read = loading(facts("a.b", image, label))
    np.testing.assert_array_equal(read[0], image)
    np.testing.assert_array_equal(read[1], label)
    deep, nothing = loading(facts("c", photo(2), None, "val"))
    assert deep.shape == (24, 32, 5) and nothing is None
    with pytest.raises(UserError, match="is missing: prepare the data again"):
        loading(facts("d", photo(2), None, "val"))


def test_an_address_holds_the_picture():
    smooth = cv2.GaussianBlur(photo(1, 200, 300), (0, 0), 9)
    kind, content = data_uri(smooth).split(",")
    assert kind == "data:image/jpeg;base64"
    back = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - smooth).mean() < 2


@pytest.mark.parametrize(
    "part, said",
    [(0, "0%"), (1, "100%"), (0.5, "50.0%"), (0.0123, "1.2%"), (0.00123, "0.12%"), (1e-7, "under 0.001%"),
     (0.9999, "99.99%"), (1 - 1e-9, "over 99.99%")],
)  # fmt: skip
def test_shares_are_told_from_nothing_and_from_all(part, said):
    assert share(part) == said


def test_ranges_are_short():
    assert ranges([0, 1, 2, 5, 9, 10]) == "0..2, 5, 9..10"
    assert ranges(range(0, 100, 2)).endswith("and 38 more")
