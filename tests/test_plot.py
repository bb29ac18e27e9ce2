"""``main.py plot`` draws what runs recorded, passes over what they did not, and names what is no run."""

import base64
import json
import re
import sys

import cv2
import numpy as np
import pytest

import main
from lib.vis.curves import COLOURS, STYLES, band, curves_figure, grouped
from lib.vis.page import page
from lib.vis.recorded import read_runs, short_names


@pytest.fixture
def make_run(tmp_path):
    """Makes a run: make_run(tag, seed, recipe, ...) -> its folder."""

    def call(tag, seed=0, recipe="dnl", lr=0.01, iterations=6, config=True):
        folder = tmp_path / "runs" / "seg" / "camvid" / recipe / tag
        folder.mkdir(parents=True)
        rows = []
        for i in range(1, iterations + 1):
            rows.append({"iter": i, "epoch": 0.1, "loss": 3.0 / i + seed, "out": 1.0, "lr": lr * (1 - i / 10)})
            if i % 3 == 0:
                rows.append({"iter": i, "miou": 0.1 * i + 0.02 * seed, "pixel_accuracy": 0.5, "iou": [0.1, None]})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if config:
            (folder / "config.yaml").write_text(f"recipe: {recipe}\ntag: {tag}\nseed: {seed}\ntrain: {{lr: {lr}}}\n")
        return folder

    return call


@pytest.fixture
def plot(monkeypatch, capfd):
    """``main.py plot`` in this process: plot(*words) -> (status, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", "plot", *map(str, words)])
        capfd.readouterr()
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return call


def validated(folder, miou, pictures=2):
    """Leaves what ``val`` does."""
    facts = {"miou": miou, "miou_interval": [miou - 0.1, miou + 0.1], "images": 7, "pixel_accuracy": None}
    facts |= {"iou": [miou, None, 0.25], "classes": ["road", "tram", "<car> & bus"], "protocol": {"mode": "ss"}}
    for place in ("vis", "extremes"):
        (folder / "val" / place).mkdir(parents=True)
        for index in range(pictures):
            picture = np.full((300, 2000, 3), 20 * index, np.uint8)
            cv2.imwrite(str(folder / "val" / place / f"{'worst' if index else 'best'}_{index}.jpg"), picture)
    (folder / "val" / "metrics.json").write_text(json.dumps(facts))


class TestReading:
    def test_curves_are_the_rows_of_the_file(self, make_run):
        (run,) = read_runs([make_run("a", seed=1)])
        assert run.loss == [(i, pytest.approx(3.0 / i + 1)) for i in range(1, 7)]
        assert run.lr == [(i, pytest.approx(0.01 * (1 - i / 10))) for i in range(1, 7)]
        assert run.score_name == "miou" and run.score == [(3, pytest.approx(0.32)), (6, pytest.approx(0.62))]

    def test_damaged_and_foreign_rows_are_passed_over(self, make_run):
        folder = make_run("a")
        (before,) = read_runs([folder])
        strange = [
            b'{"iter": 7, "loss": 1', b"\xff\xfe", b"[1, 2]", b'"iter"', b'{"loss": 3}', b'{"iter": "8", "loss": 3}',
            b'{"iter": 9, "loss": NaN}', b'{"iter": 9, "loss": 1e999, "lr": "high"}', b'{"iter": -1, "loss": 2}',
            b'{"iter": true, "loss": 2}', b"[" * 100_000, b'{"iter": 10, "loss": {"a": 1}, "miou": [1]}',
        ]  # fmt: skip
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(b"\n".join(strange))
        (after,) = read_runs([folder])
        assert (after.loss, after.lr, after.score) == (before.loss, before.lr, before.score)

    def test_another_tasks_score_is_found(self, make_run):
        folder = make_run("a")
        rows = [{"iter": i, "loss": 1.0, "lr": 0.1} for i in (1, 2)] + [{"iter": 2, "top1": 0.7, "top5": 0.9}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run,) = read_runs([folder])
        assert (run.score_name, run.score) == ("top1", [(2, 0.7)])

    def test_names_are_as_long_as_it_takes(self, tmp_path):
        paths = [tmp_path / "x" / name for name in ("camvid/dnl/a", "camvid/fcn/a", "camvid/fcn/b")]
        assert short_names(paths) == ["dnl/a", "fcn/a", "fcn/b"]
        assert short_names([tmp_path / "camvid/dnl/a", tmp_path / "ade/dnl/a"]) == ["camvid/dnl/a", "ade/dnl/a"]


class TestCurves:
    def test_runs_that_differ_in_seed_and_tag_alone_are_one_recipe(self, make_run):
        folders = [make_run("a", 0), make_run("b", 1), make_run("c", 0, lr=0.02), make_run("d", 0, "fcn")]
        folders += [make_run("e", config=False), make_run("f", config=False)]
        groups = [[run.name for run in group] for group in grouped(read_runs(folders))]
        assert groups == [["dnl/a", "dnl/b"], ["dnl/c"], ["fcn/d"], ["dnl/e"], ["dnl/f"]]

    def test_a_band_is_mean_lowest_and_highest_where_all_runs_have_a_value(self):
        found = band([[(1, 1.0), (2, 5.0), (3, 0.0)], [(2, 2.0), (3, 3.0), (4, 9.0)], [(2, 2.0), (3, 6.0)]])
        assert found.iterations.tolist() == [2, 3]
        assert (found.mean.tolist(), found.low.tolist(), found.high.tolist()) == ([3, 3], [2, 0], [5, 6])

    def test_long_curves_are_means_of_consecutive_points(self):
        curve = [(i, float(i % 2)) for i in range(1, 1001)]
        found = band([curve], most=100)
        assert len(found.iterations) == 100 and found.mean.tolist() == [0.5] * 100
        assert found.iterations[0] == 5.5 and found.iterations[-1] == 995.5

    def test_axes_are_labelled_and_runs_differ_in_colour_and_line(self, make_run):
        runs = read_runs([make_run("_a"), make_run("b", lr=0.02), make_run("c", seed=1, lr=0.02)])
        figure = curves_figure(runs)
        assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "learning rate", "mIoU [%]"]
        assert figure.axes[-1].get_xlabel() == "iteration"
        for axis in figure.axes:
            looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
            assert looks == {(COLOURS[0], STYLES[0]), (COLOURS[1], STYLES[1])}
        first, second = figure.axes[2].lines
        np.testing.assert_allclose(first.get_xydata(), [[3, 30], [6, 60]])
        np.testing.assert_allclose(second.get_xydata(), [[3, 31], [6, 61]])
        assert [len(axis.collections) for axis in figure.axes] == [1, 1, 1]
        legend = [text.get_text().strip() for text in figure.legends[0].get_texts()]
        assert legend == ["dnl/_a", "dnl/b and 1 more seed: mean, lowest to highest"]

    def test_28_runs_look_different(self):
        assert len({(COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]) for i in range(28)}) == 28

    def test_the_colours_differ_for_the_colour_blind(self):
        """In each of the three kinds of colour blindness, as Machado et al. (2009) simulate it in linear RGB."""
        kinds = {
            "protanopia": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998",
            "deuteranopia": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.011820 0.042940 0.968881",
            "tritanopia": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 0.303900",
        }
        rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in COLOURS])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        for kind, matrix in kinds.items():
            seen = np.clip(linear @ np.array(matrix.split(), float).reshape(3, 3).T, 0, 1)
            srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
            lab = cv2.cvtColor(srgb[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
            apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
            assert min(apart[i, i + 1] for i in range(len(COLOURS) - 1)) > 50, kind
            assert apart[np.triu_indices(len(COLOURS), 1)].min() > 15, kind


class TestPage:
    def test_it_holds_tables_curves_and_pictures_and_needs_nothing_else(self, make_run):
        folders = [make_run("a"), make_run("b", recipe="fcn"), make_run("c", recipe="snl")]
        validated(folders[0], 0.5, pictures=9)
        validated(folders[1], 0.75)
        (folders[1] / "val" / "vis" / "worst_1.jpg").write_bytes(b"\xff\xd8\xff damaged")
        text = page(read_runs(folders))
        assert text.count("<svg") == 1 and "</html>" in text
        assert not re.search(r'(src|href)="(?!data:|#)', text) and "<script" not in text and "@import" not in text
        rows = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in text.splitlines()]
        row = {cells[0]: cells[1:] for cells in rows if cells}
        assert row["mIoU"] == ["50.00", "75.00"] and '<td class="best">75.00</td>' in text
        assert row["its 95 % interval"] == ["40.00 to 60.00", "65.00 to 85.00"] and "pixel accuracy" not in row
        assert row["road"] == ["50.00", "75.00"] and row["tram"] == ["-", "-"]
        assert row["&lt;car&gt; &amp; bus"] == ["25.00", "25.00"]
        assert row["snl/c"] == ["0", "6", "0.5000", "60.00 at 6", "60.00"]
        pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
        assert len(pictures) == 2 * 6 + 3
        widths = {cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).shape[1] for data in pictures}
        assert widths == {960}
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
        assert captions[0] == "extremes/worst_1.jpg" and captions[6] == "vis/worst_1.jpg"

    @pytest.mark.parametrize(
        "facts", ["", "[]", '{"miou": "high", "iou": {"a": 1}, "classes": 3}', '{"iou": [1], "classes": ["a", "b"]}']
    )
    def test_scores_of_another_kind_are_left_out(self, make_run, facts):
        folder = make_run("a")
        (folder / "val").mkdir()
        (folder / "val" / "metrics.json").write_text(facts)
        assert "<h1>Runs</h1>" in page(read_runs([folder]))


class TestCommand:
    @pytest.mark.parametrize("suffix, start", [("png", b"\x89PNG"), ("html", b"<!DOCTYPE html>")])
    def test_it_writes_the_file_and_says_so(self, plot, make_run, tmp_path, suffix, start):
        out = tmp_path / f"curves.{suffix}"
        assert plot(make_run("a"), make_run("b", 1), "--out", out) == (0, f"2 runs drawn in {out}\n", "")
        content = out.read_bytes()
        assert content.startswith(start)
        plot(tmp_path / "runs/seg/camvid/dnl/a", tmp_path / "runs/seg/camvid/dnl/b", "--out", out)
        assert out.read_bytes() == content

    def test_a_run_without_validations_is_drawn(self, plot, make_run, tmp_path):
        assert plot(make_run("a", iterations=2), "--out", tmp_path / "c.png")[0] == 0

    @pytest.mark.parametrize(
        "words, expected",
        [
            (["{run}", "--out", "{tmp}/curves.gif"], "curves.gif: name a file that ends in .png or .html"),
            (["{run}", "--out", "{tmp}/no/curves.png"], "no is not a folder"),
            (["{run}", "--out", "{tmp}/folder.png"], "folder.png: it is a folder"),
            (["{tmp}/nowhere", "--out", "{tmp}/c.png"], "nowhere is no run's folder"),
            (["{tmp}/folder.png", "--out", "{tmp}/c.png"], "has no metrics.jsonl"),
            (["{tmp}/empty", "--out", "{tmp}/c.png"], "has no row of a run"),
            (["{run}", "{run}/../a", "--out", "{tmp}/c.png"], "given twice"),
            (["{run}"], "required: --out"),
            (["--out", "{tmp}/c.png"], "required: RUN"),
        ],
    )
    def test_mistakes_end_in_one_line(self, plot, make_run, tmp_path, words, expected):
        run = make_run("a")
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "metrics.jsonl").write_text("{}\n")
        status, out, err = plot(*(word.format(run=run, tmp=tmp_path) for word in words))
        assert status == 2 and out == "" and expected in err
        assert err.startswith("error: ") and len(err.splitlines()) == 1
        assert not list(tmp_path.glob("c.png"))
