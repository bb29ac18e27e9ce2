"""pretrained= from the net, whatever the server does, and from torchvision and timm where they are installed."""

import hashlib
import io
import re
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torchvision
from conftest import FAST, RECIPE, ROOT

from lib.base.errors import UserError
from lib.models.backbones.mobilenet import MobileNetV2
from lib.models.backbones.resnet import ResNet
from lib.tasks import load_config, make_task
from lib.weights import download as downloads
from lib.weights.download import download
from lib.weights.loading import start_from
from lib.weights.pretrained import fill_backbone
from lib.weights.sources import read_source


def encoded(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


class Server:
    """Serves ``content``; ``cuts``: after how many bytes each answer breaks off (None: not)."""

    def __init__(self):
        self.content, self.cuts, self.asked = b"", [], []
        self.ranges, self.etag, self.status, self.length = True, '"one"', 200, None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *words):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, to):
        wanted = to.headers.get("Range")
        self.asked.append(wanted)
        cut = self.cuts.pop(0) if self.cuts else None
        start = 0
        if self.ranges and wanted and to.headers.get("If-Range") == self.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start and start >= len(self.content):
            to.send_response(416)
            to.send_header("Content-Range", f"bytes */{len(self.content)}")
            to.end_headers()
            return
        body = self.content[start:]
        to.send_response(206 if start else self.status)
        if start:
            to.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag:
            to.send_header("ETag", self.etag)
        to.send_header("Content-Length", str(self.length or len(body)))
        to.end_headers()
        to.wfile.write(body[:cut])


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "torch" / "hub" / "checkpoints"


def left(cache):
    return sorted(path.name for path in cache.iterdir())


DATA = bytes(range(256)) * 40
HASHED = f"net-{hashlib.sha256(DATA).hexdigest()[:8]}.pth"


class TestDownload:
    def test_a_file_comes_once(self, server, cache):
        server.content = DATA
        path = download(f"{server.url}/a/{HASHED}?token=x")
        assert path == cache / HASHED and path.read_bytes() == DATA and left(cache) == [HASHED]
        assert download(f"{server.url}/a/{HASHED}") == path and server.asked == [None]

    def test_what_breaks_off_goes_on_from_there(self, server, cache):
        server.content, server.cuts = DATA, [4000, 3000, None]
        assert download(f"{server.url}/{HASHED}").read_bytes() == DATA
        assert server.asked == [None, "bytes=4000-", "bytes=7000-"]

    def test_the_next_command_goes_on_too(self, server, cache):
        server.content, server.cuts = DATA, [4000, 0, 0, 0]
        with pytest.raises(UserError, match=r"broke off after 4,000 of 10,240.*4,000 bytes are there") as error:
            download(f"{server.url}/net.pth")
        assert "\n" not in str(error.value) and not (cache / "net.pth").exists()
        server.cuts, server.asked = [], []
        assert download(f"{server.url}/net.pth").read_bytes() == DATA
        assert server.asked == ["bytes=4000-"] and left(cache) == ["net.pth"]

    def test_a_file_that_changed_meanwhile_is_begun_anew(self, server, cache):
        server.content, server.cuts = b"x" * 9000, [4000, 0, 0, 0]
        with pytest.raises(UserError):
            download(f"{server.url}/net.pth")
        server.content, server.etag, server.cuts = DATA, '"two"', []
        assert download(f"{server.url}/net.pth").read_bytes() == DATA

    @pytest.mark.parametrize("ranges, etag", [(False, '"one"'), (True, ""), (True, 'W/"one"')])
    def test_a_server_that_cannot_go_on_begins_anew(self, server, ranges, etag):
        server.content, server.cuts, server.ranges, server.etag = DATA, [4000, None], ranges, etag
        assert download(f"{server.url}/{HASHED}").read_bytes() == DATA

    def test_a_length_that_is_too_long_is_seen(self, server, cache):
        server.content, server.length, server.etag = DATA, len(DATA) + 5, ""
        with pytest.raises(UserError, match=r"broke off after 10,240 of 10,245 bytes"):
            download(f"{server.url}/{HASHED}")
        assert HASHED not in left(cache)

    def test_what_is_there_whole_is_found_out_by_the_range(self, server):
        server.content, server.length = DATA, len(DATA) + 5
        assert download(f"{server.url}/net.pth").read_bytes() == DATA

    def test_a_length_that_is_too_short_shows_in_the_hash(self, server, cache):
        server.content, server.length = DATA, len(DATA) - 5
        with pytest.raises(UserError, match=r"is not the file that its name says: its SHA256 begins with"):
            download(f"{server.url}/{HASHED}")
        assert not [name for name in left(cache) if name.endswith((".pth", ".part"))]

    def test_without_a_hash_it_shows_on_reading_and_does_not_stay(self, server, cache):
        server.content = encoded({"layer1.x": torch.ones(400)})
        server.length = len(server.content) - 50
        with pytest.raises(UserError, match="is removed from the cache"):
            read_source(f"{server.url}/net.pth")
        assert not (cache / "net.pth").exists()

    def test_a_cached_file_that_is_damaged_is_fetched_again(self, server, cache):
        server.content = DATA
        download(f"{server.url}/{HASHED}").write_bytes(DATA[:-1])
        assert download(f"{server.url}/{HASHED}").read_bytes() == DATA

    @pytest.mark.parametrize(
        "status, expected",
        [(404, "the server says 404 Not Found: check the address"), (503, "the server says 503 Service Unavailable")],
    )
    def test_errors_of_the_server_are_one_line(self, server, cache, status, expected):
        server.status = status
        address = server.url.replace("http://", "http://me:secret@")
        with pytest.raises(UserError, match=expected) as error:
            download(f"{server.url}/net.pth?token=secret")
        assert "secret" not in str(error.value) and len(server.asked) == 1 and left(cache) == []
        with pytest.raises(UserError) as error:
            download(f"{address}/net.pth")
        assert "secret" not in str(error.value)

    def test_offline_is_one_line(self, server, cache):
        server.http.shutdown()
        server.http.server_close()
        with pytest.raises(UserError, match=r"cannot be downloaded: Connection refused: check the connection"):
            download(f"{server.url}/net.pth")
        with pytest.raises(UserError, match=r"no\.host\.invalid/net\.pth cannot be downloaded: "):
            download("https://no.host.invalid/net.pth")

    def test_a_server_without_a_word_is_given_up(self, server, monkeypatch):
        monkeypatch.setattr(downloads, "SECONDS", 0.1)
        wait = threading.Event()
        server.answer = lambda to: wait.wait(5)
        with pytest.raises(UserError, match="no word from the server"):
            download(f"{server.url}/net.pth")
        wait.set()

    def test_size_is_bounded_whatever_the_server_says(self, server, cache, monkeypatch):
        monkeypatch.setattr(downloads, "LARGEST", 5000)
        server.content = DATA
        with pytest.raises(UserError, match="is larger than the 5,000 bytes"):
            download(f"{server.url}/net.pth")
        answer = server.answer

        def without_length(to):
            send = to.send_header
            to.send_header = lambda name, value: name == "Content-Length" or send(name, value)
            answer(to)

        server.answer = without_length
        with pytest.raises(UserError, match="is larger than the 5,000 bytes"):
            download(f"{server.url}/net.pth")
        assert not [name for name in left(cache) if name.endswith((".pth", ".part"))]

    @pytest.mark.parametrize(
        "url", ["http://host/", "http://host", "https://h/..", "https://h/a%2f..", "http://[x/a.pth"]
    )
    def test_addresses_of_no_file(self, url):
        with pytest.raises(UserError, match=r"names no file|is no address"):
            download(url)

    def test_a_cache_that_cannot_be_written(self, server, tmp_path):
        (tmp_path / "torch").write_text("")
        with pytest.raises(UserError, match=r"cannot write to torch\.hub's cache"):
            download(f"{server.url}/net.pth")

    def test_two_at_a_time_ask_once(self, server):
        server.content = DATA
        found = []
        threads = [threading.Thread(target=lambda: found.append(download(f"{server.url}/{HASHED}"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4 and server.asked == [None]


@pytest.fixture(scope="module")
def resnet_state():
    return torchvision.models.resnet18(weights=None).state_dict()


class TestTorchvision:
    @pytest.fixture
    def cached(self, monkeypatch, resnet_state, tmp_path):
        """What torchvision's address would give."""
        asked = []

        def fake(url):
            asked.append(url)
            torch.save(resnet_state, tmp_path / "x.pth")
            return tmp_path / "x.pth"

        monkeypatch.setattr("lib.weights.sources.download", fake)
        return asked

    def network(self, *words):
        task = make_task(load_config(RECIPE, [*FAST, "model.head.name=fcn", *words]))
        return task.network(), task.options

    def test_weights_fill_a_plain_stem(self, cached, resnet_state):
        network, options = self.network("model.backbone.stem=plain")
        line = start_from(network, "torchvision:resnet18", options)
        assert torch.equal(network.backbone.layer4[1].conv2.weight, resnet_state["layer4.1.conv2.weight"])
        assert re.fullmatch(r"https://download.pytorch.org/models/resnet18-[0-9a-f]{8}.pth", cached[0])
        assert line.splitlines()[0].startswith("torchvision:resnet18: 120 entries matched")
        # The recipe's images are torchcv's: BGR.
        assert "was trained with data.color_order=rgb" in line.splitlines()[1]
        expected = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
        mean = ",".join(str(round(255 * value, 3)) for value in expected.mean)
        assert f"data.mean=[{mean}]" in line

    def test_another_stem_is_named(self, cached):
        for stem in ("deep", "v1c"):
            network, options = self.network(f"model.backbone.stem={stem}")
            with pytest.raises(UserError, match=r"its stem is another: set model\.backbone\.stem=plain$"):
                start_from(network, "torchvision:resnet18", options)

    def test_one_of_several_weights_is_chosen(self, cached):
        read_source("torchvision:resnet50:IMAGENET1K_V1")
        read_source("torchvision:resnet50")
        versions = torchvision.models.ResNet50_Weights
        assert cached == [versions.IMAGENET1K_V1.url, versions.DEFAULT.url]

    @pytest.mark.parametrize(
        "word, expected",
        [
            ("torchvision:resnet11", r"torchvision has no 'resnet11': did you mean resnet1"),
            ("torchvision:", "torchvision has no ''"),
            ("torchvision:resnet18:V7", "resnet18 has no weights 'V7': choose IMAGENET1K_V1"),
        ],
    )
    def test_unknown_names(self, word, expected):
        with pytest.raises(UserError, match=expected):
            read_source(word)

    def test_mobilenet_gives_the_librarys_features(self):
        theirs = torchvision.models.mobilenet_v2(weights=None).eval()
        backbone = MobileNetV2(output_stride=32).eval()
        report = fill_backbone(backbone, theirs.state_dict(), ROOT)
        assert report.missing == [] and {name.split(".")[0] for name in report.unexpected} == {"features", "classifier"}
        image = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(backbone(image)[-1], theirs.features[:18](image), rtol=1e-4, atol=1e-4)

    def test_a_library_that_is_not_installed(self, monkeypatch):
        for name in ("torchvision", "timm"):
            monkeypatch.setitem(sys.modules, name, None)
            with pytest.raises(UserError, match=f"{name} is not installed: pip install {name}"):
                read_source(f"{name}:resnet18")


def timm_deep(state):
    """timm's names of the weights of a ResNet with three convolutions in its stem."""
    places = {"0.conv": "conv1.0", "0.norm": "conv1.1", "1.conv": "conv1.3", "1.norm": "conv1.4"}
    places |= {"2.conv": "conv1.6", "2.norm": "bn1"}
    renamed = {}
    for name, value in state.items():
        if name.startswith("stem."):
            _, index, kind, leaf = name.split(".")
            name = f"{places[f'{index}.{kind}']}.{leaf}"
        renamed[name] = value
    return renamed | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


class TestTimm:
    @pytest.fixture
    def timm(self, monkeypatch):
        """A library of one network."""
        module = types.ModuleType("timm")
        module.states = {"resnet18c": timm_deep(ResNet(18, stem="v1c").state_dict())}
        module.is_model = lambda name: name in (*module.states, "broken")
        module.list_models = lambda: list(module.states)

        def create_model(name, pretrained):
            assert pretrained
            if name == "broken":
                raise RuntimeError("cannot reach the hub\nsecond line")
            settings = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
            return types.SimpleNamespace(state_dict=lambda: module.states[name], pretrained_cfg=settings)

        module.create_model = create_model
        monkeypatch.setitem(sys.modules, "timm", module)
        return module

    def test_weights_fill_the_stem_that_they_have(self, timm):
        found = read_source("timm:resnet18c")
        backbone = ResNet(18, stem="v1c")
        report = fill_backbone(backbone, found.content, found.path)
        assert report.missing == [] and report.unexpected == ["fc.weight", "fc.bias"]
        state = timm.states["resnet18c"]
        assert torch.equal(backbone.stem[2].norm.weight, state["bn1.weight"])
        assert torch.equal(backbone.stem[1].conv.weight, state["conv1.3.weight"])
        assert found.note({"data.color_order": "rgb", "data.mean": [127.5] * 3, "data.std": [63.75] * 3}) == []
        assert "data.mean=[127.5,127.5,127.5]" in found.note({"data.mean": [0] * 3})[0]
        with pytest.raises(UserError, match=r"set model\.backbone\.stem=v1c$"):
            fill_backbone(ResNet(18, stem="plain"), found.content, found.path)

    def test_unknown_and_unreachable(self, timm):
        with pytest.raises(UserError, match=r"timm has no 'resnet18': did you mean resnet18c\?"):
            read_source("timm:resnet18")
        with pytest.raises(UserError, match=r"timm cannot load it: cannot reach the hub$"):
            read_source("timm:broken")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name, backbone",
        [
            ("resnet18", lambda: ResNet(18, stem="plain", output_stride=32, ceil_mode=False)),
            ("resnet50c", lambda: ResNet(50, stem="v1c", output_stride=32, ceil_mode=False)),
            ("resnet50s", lambda: ResNet(50, stem="deep", output_stride=32, ceil_mode=False)),
            ("mobilenetv2_100", lambda: MobileNetV2(output_stride=32)),
        ],
    )
    def test_the_librarys_own_features(self, name, backbone):
        timm = pytest.importorskip("timm")
        theirs, ours = timm.create_model(name, pretrained=False).eval(), backbone().eval()
        fill_backbone(ours, theirs.state_dict(), ROOT)
        image = torch.randn(1, 3, 64, 64)
        found = ours(image)[-1]
        if name.startswith("mobilenet"):
            expected = theirs.blocks(theirs.bn1(theirs.conv_stem(image)))
        else:
            expected = theirs.forward_features(image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_network_starts_from_an_address(server, resnet_state):
    server.content = encoded(resnet_state)
    task = make_task(load_config(RECIPE, [*FAST, "model.head.name=fcn", "model.backbone.stem=plain"]))
    network = task.network()
    assert start_from(network, f"{server.url}/resnet18.pth", task.options).startswith(
        "resnet18.pth: 120 entries matched"
    )
    assert torch.equal(network.backbone.layer1[0].conv1.weight, resnet_state["layer1.0.conv1.weight"])


@pytest.mark.slow
def test_training_starts_from_an_address(server, data_root, train, runs, resnet_state):
    server.content = encoded(resnet_state)
    outcome = train("net", "model.backbone.stem=plain", "model.head.name=fcn", f"pretrained={server.url}/resnet18.pth")
    assert outcome.status == 0, outcome.stderr
    assert "resnet18.pth: 120 entries matched" in (runs("net").path / "log.txt").read_text()
    outcome = train("gone", f"pretrained={server.url}/gone.pth", "model.backbone.stem=deep")
    assert "set model.backbone.stem=plain" in outcome.error and not runs("gone").path.exists()
