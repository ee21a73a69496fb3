"""Targets that need LiteRT's packages: files for the browser, and for Arm's processors in microcontrollers."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright
from torch import Tensor, nn

from orchestrator.data.dataset import About
from orchestrator.errors import ExportError
from orchestrator.export.example import ExampleInputs
from orchestrator.export.originals import Candidate, Original
from orchestrator.export.targets import TARGETS, litert, web_browser
from orchestrator.export.targets.litert import ask_litert, int8_of, run_of, tflite_of
from orchestrator.export.targets.side_by_side import Cell, compare_on
from orchestrator.export.targets.vela import CHIPS, estimated, groups_that_miss, two_of_four
from orchestrator.export.targets.web import _classes
from orchestrator.export.targets.web_browser import Browser, chromium

needs_litert = pytest.mark.skipif(litert.missing_litert() is not None, reason=str(litert.missing_litert()))
needs_web = pytest.mark.skipif(TARGETS["web"].missing() is not None, reason=str(TARGETS["web"].missing()))
needs_vela = pytest.mark.skipif(TARGETS["vela"].missing() is not None, reason=str(TARGETS["vela"].missing()))


class Pictures(nn.Module):
    """A 3x3 convolution, batch norm, a 1x1 one, the mean over the picture, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix, self.last = nn.Conv2d(8, 64, 1), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.mix(torch.relu(self.norm(self.first(x))))).mean((2, 3)))


class Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(9, 8), nn.Linear(8, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.embed(tokens).cumsum(1))


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"sum": self.left(left) + self.right(right), "left": self.left(left)}


class Inverses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


class Branches(nn.Module):
    """Its way depends on the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


INPUTS = {
    Pictures: torch.randn(4, 3, 16, 16), Texts: torch.randint(0, 9, (4, 7)), Inverses: torch.randn(4, 3, 3),
    Pairs: (torch.randn(4, 8), torch.randn(4, 6)), Doubles: torch.randn(4, 8), Branches: torch.randn(4, 8),
}  # fmt: skip


def candidate(kind: type[nn.Module], name: str = "dense", zeros: float = 0.0) -> Candidate:
    torch.manual_seed(0)
    module = kind().eval()
    with torch.no_grad():
        for weight in [w for w in module.parameters() if w.dim() > 1]:
            weight.mul_(torch.rand_like(weight) >= zeros)
    about = About(labels=tuple("abcde"), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)) if kind is Pictures else About()
    return Candidate(name, module, "tests:model", {}, ExampleInputs(INPUTS[kind], about=about))


@pytest.fixture
def original(request: pytest.FixtureRequest) -> Iterator[Original]:
    kind, zeros = request.param
    with Original.of(candidate(kind, zeros=zeros), None) as made:
        yield made


def of(kind: type[nn.Module], zeros: float = 0.0) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("original", [(kind, zeros)], indirect=True, ids=[kind.__name__])


def error_of(path: Path, original: Original) -> float:
    run = run_of(path, original)
    return original.observed.error_of(lambda tensors: run([tensor.numpy() for tensor in tensors]))


@needs_litert
@pytest.mark.parametrize("original", [(Pictures, 0.0), (Texts, 0.0), (Pairs, 0.0)], indirect=True)
def test_a_file_says_what_the_network_says(original: Original, tmp_path: Path) -> None:
    path = tflite_of(original, tmp_path)
    assert error_of(path, original) < 1e-5
    assert "TRANSPOSE" not in ask_litert("encode", file=path, to=tmp_path / "same.tflite")["operators"]
    changed = path.stat().st_mtime_ns
    assert tflite_of(original, tmp_path).stat().st_mtime_ns == changed, "it is written once"


@needs_litert
@of(Pictures, 0.8)
def test_mostly_zero_weights_are_encoded_and_say_the_same(original: Original, tmp_path: Path) -> None:
    dense, sparse = tflite_of(original, tmp_path), tmp_path / "sparse.tflite"
    assert ask_litert("encode", file=dense, to=sparse)["encoded"] == 2, "the 1x1 convolution and the linear layer"
    inputs = original.sample
    np.testing.assert_array_equal(run_of(sparse, original)(inputs), run_of(dense, original)(inputs))


@needs_litert
@of(Pictures)
def test_int8_rounds_weights_and_activations(original: Original, tmp_path: Path) -> None:
    path = int8_of(original, tmp_path)
    assert 0 < error_of(path, original) < 0.05


@needs_litert
@of(Doubles)
def test_a_network_without_a_layer_for_int8(original: Original, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="int8 needs a convolution or a linear layer, but the network has none"):
        int8_of(original, tmp_path)


@needs_litert
@of(Inverses)
def test_an_operator_that_litert_does_not_take_is_named(original: Original, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"LiteRT cannot take the network \(.*svd[^/]*\)$"):
        tflite_of(original, tmp_path)


@of(Branches)
def test_a_network_that_torch_cannot_follow_is_named(original: Original, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^Branches cannot be exported: torch.export must be able to follow"):
        tflite_of(original, tmp_path)


def test_a_process_that_does_not_answer_is_ended_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the reason in the cell of that network, and the next network has a new process."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nread request\nexec sleep 600\n")
    program.chmod(0o700)
    monkeypatch.setattr(litert, "ENVIRONMENT", tmp_path)
    monkeypatch.setattr(litert, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(litert._Child, "_running", None)
    processes = []
    for _ in range(2):
        with pytest.raises(ExportError, match=r"^LiteRT did not answer within 0.2 s, so its process was ended$"):
            ask_litert("convert", program="network.pt2", file="network.tflite")
        assert litert._Child._running is not None
        processes.append(litert._Child._running._process)
    assert [process.returncode for process in processes] == 2 * [-signal.SIGKILL]
    assert processes[0] is not processes[1]


FAKE_CHROMIUM = f"""#!{sys.executable} -SE
import json, os, sys, time
from http.client import HTTPConnection

def ask(method, path, body=None):
    connection = HTTPConnection(sys.argv[-1].split("/")[2])
    connection.request(method, path, body)
    return connection.getresponse().read()

while True:
    work = json.loads(ask("GET", "/work"))
    time.sleep(work.get("seconds", 0))
    if work.get("ends"):
        sys.exit(3)
    ask("POST", "/answer", json.dumps({{"to": work["question"]}}))
"""


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """Return a browser whose page answers what it is asked to, and so costs little."""
    program = tmp_path / "chromium"
    program.write_text(FAKE_CHROMIUM)
    program.chmod(0o700)
    monkeypatch.setattr(web_browser, "chromium", lambda: str(program))
    return Browser(tmp_path)


def test_a_late_answer_is_not_that_to_the_next_question(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser.ask({"question": 1}) == {"to": 1}
    with monkeypatch.context() as patch:
        patch.setattr(web_browser, "_PATIENCE_S", 0.2)
        with pytest.raises(ExportError, match=r"^Chromium did not answer within 0.2 s, so it was ended$"):
            browser.ask({"question": 2, "seconds": 0.5})
    assert browser.ask({"question": 3, "seconds": 0.5}) == {"to": 3}


def test_a_chromium_that_ended_is_replaced(browser: Browser) -> None:
    with pytest.raises(ExportError, match=r"^Chromium ended with exit code 3$"):
        browser.ask({"question": 1, "ends": True})
    assert browser.ask({"question": 2}) == {"to": 2}
    browser._process.kill()  # between two questions
    browser._process.wait()
    assert browser.ask({"question": 3}) == {"to": 3}


def test_what_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.export.targets.vela.find_spec", lambda name: None)
    assert "Vela is not installed: run" in (TARGETS["vela"].missing() or "")
    monkeypatch.setattr("orchestrator.export.targets.vela.find_spec", lambda name: object())
    monkeypatch.setattr(litert, "ENVIRONMENT", tmp_path)
    for name in ("web", "vela"):
        assert f"LiteRT's packages are not in {tmp_path}: run make targets" in (TARGETS[name].missing() or "")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert TARGETS["vela"].missing() is None
    monkeypatch.setattr("orchestrator.export.targets.web.MODULES", tmp_path / "node_modules")
    assert "install npm, and run make targets again" in (TARGETS["web"].missing() or "")
    (tmp_path / "node_modules").mkdir()
    monkeypatch.setattr("orchestrator.export.targets.web.chromium", lambda: None)
    assert "no chromium on the PATH" in (TARGETS["web"].missing() or "")


@pytest.mark.parametrize(
    ("shape", "named", "class_dim", "classes"),
    [
        ((1, 5), 5, 1, 5),
        ((1, 5), 0, 1, 5),
        ((1, 7, 9), 9, -1, 9),  # the next token at each place of a text
        ((1, 9, 6, 6), 9, 1, 0),  # a class for each pixel
        ((1, 1), 0, None, 0),
    ],
)
def test_the_page_shows_classes_where_the_answer_ends_in_them(
    shape: tuple[int, ...], named: int, class_dim: int | None, classes: int
) -> None:
    call = SimpleNamespace(read=(0,), interface=SimpleNamespace(named_classes=named))
    task = SimpleNamespace() if class_dim is None else SimpleNamespace(class_dim=class_dim)
    observed = SimpleNamespace(call=call, outputs=[[], [np.zeros(shape)]])
    made = SimpleNamespace(observed=observed, test_set=SimpleNamespace(task=task))
    assert _classes(made) == classes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kept", "groups"),
    [
        ([[1, 1, 0, 0, 0, 0, 1, 1]], 0),
        ([[1, 1, 1, 0, 0, 0, 1, 1]], 1),
        ([[1, 1, 1, 1, 1, 1, 1, 0]], 2),
        ([[1, 1, 0.001, 0, 0, 0, 0, 0]], 0),  # int8 rounds the third to zero
        ([[0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]], 1),  # an output without weights misses nothing
    ],
)
def test_groups_of_four_inputs_with_more_than_two_weights(kept: list[list[float]], groups: int) -> None:
    assert groups_that_miss(torch.tensor(kept)) == groups
    at_two_places = torch.tensor(kept).unsqueeze(2).repeat(1, 1, 2)
    assert groups_that_miss(at_two_places) == 2 * groups, "each place of the kernel counts"


def test_layers_that_miss_two_of_four_are_named() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    with torch.no_grad():
        network[1].weight[:, ::2] = 0
    assert two_of_four(network) == "2:4 missed in 1 of 2 layers: 2 (8 groups)"
    with torch.no_grad():
        network[2].weight[:, ::2] = 0
    assert two_of_four(network) == "2:4 in all 2 layers"
    assert two_of_four(nn.Linear(3, 8)) == "no layer for 2:4"


@needs_vela
def test_cycles_and_bytes_are_estimated_for_each_chip() -> None:
    with ExitStack() as stack:
        originals = [stack.enter_context(Original.of(each, None)) for each in both(Pictures)]
        cells = compare_on([TARGETS["vela"]], originals)
    assert [(cell.network, cell.file) for cell in cells] == [(n, chip) for n in ("dense", "masks") for chip in CHIPS]
    for dense, masks in zip(cells[:3], cells[3:], strict=True):
        assert dense.cycles is not None
        assert (masks.bytes or 0) < (dense.bytes or 0)
        assert (dense.seconds, dense.measured_by[:17]) == (None, "estimated by Vela")
    assert "2:4 missed in 2 of 2 layers" in cells[2].detail


@needs_vela
def test_what_vela_does_not_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"no network")
    with pytest.raises(ExportError, match="Vela cannot take the network"):
        estimated(tmp_path / "broken.tflite", CHIPS["U85"])


def both(kind: type[nn.Module]) -> list[Candidate]:
    return [candidate(kind), candidate(kind, "masks", zeros=0.8)]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell]]:
    """Put two networks of pictures into a folder for the browser."""
    folder = tmp_path_factory.mktemp("kept")
    with ExitStack() as stack:
        originals = [stack.enter_context(Original.of(each, None)) for each in both(Pictures)]
        cells = compare_on([TARGETS["web"]], originals, keep=folder)
    return folder / "web", cells


@needs_web
def test_networks_run_in_a_browser(web: tuple[Path, list[Cell]]) -> None:
    for cell in web[1]:
        assert cell.reason is None
        assert cell.seconds is not None
        assert (cell.error or 0) < 1e-5
        assert "Chromium" in cell.measured_by
    assert [cell.detail for cell in web[1]] == ["0 layers with sparse weights", "2 layers with sparse weights"]


@needs_web
def test_a_user_opens_the_page_and_sees_the_networks_answer(web: tuple[Path, list[Cell]], tmp_path: Path) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(web[0]))
    troubles: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: "//127.0.0.1" in request.url or troubles.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("table[data-network=dense]", timeout=120_000)
        page.select_option("#network", label="masks")
        page.wait_for_selector("table[data-network=masks]")
        page.click("text=sample 2")
        page.wait_for_selector("button[aria-pressed=true] >> text=sample 2")
        page.wait_for_selector("table[data-network=masks]")
        rows = dict(row.split("\t") for row in page.inner_text("#answer").splitlines() if "\t" in row)
        page.set_input_files("#picture", picture(tmp_path))
        page.wait_for_selector("#answer:not(:has-text('difference')) table")
        browser.close()
        server.shutdown()
    assert sorted(rows)[:3] == ["a", "b", "c"], "the names of the classes"
    assert rows["time of a run"].endswith(" ms")
    assert float(rows["difference from PyTorch"].split()[0]) < 1e-5
    assert troubles == [], "nothing is fetched from elsewhere"


def picture(folder: Path) -> Path:
    from matplotlib import image

    path = folder / "picture.png"
    image.imsave(path, np.random.rand(40, 30, 3))
    return path
