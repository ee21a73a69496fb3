"""The page in a real browser, from a file: every picture is there, tables sort and filter, names run nothing."""

import shutil

import pytest
from playwright.sync_api import sync_playwright
from report.synthetic import HOSTILE, TECHNIQUES, deployment, hostile_records, path_of, save
from waiting import PATIENCE_S

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
ROUNDS = "table[data-source=rounds]"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")


@pytest.fixture(scope="module")
def open_page():
    """Open a report in a context of its own and return its page; whatever goes wrong there fails the test."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, headless=True)

        def opened(file, **options):
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(1000 * PATIENCE_S)
            page.troubles = []
            page.on("console", lambda message: page.troubles.append(message.text))
            page.on("pageerror", lambda error: page.troubles.append(str(error)))
            page.on("dialog", lambda dialog: (page.troubles.append("a dialog"), dialog.dismiss()))
            page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.troubles.append(r.url))
            page.on("requestfailed", lambda request: page.troubles.append(f"failed: {request.url[:99]}"))
            page.goto(file.as_uri())
            page.wait_for_selector(f"{ROUNDS} tbody tr td")
            return page

        yield opened
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    save([r for name in TECHNIQUES for seed in range(2) for r in path_of(name, seed, 8, epochs=5)], folder)
    return folder / "report.html"


def column(page, title):
    """The texts of a column, as they stand."""
    index = page.eval_on_selector_all(f"{ROUNDS} thead tr:first-child th", "all => all.map(th => th.innerText.trim())")
    place = [text.split("\n")[0] for text in index].index(title)
    return page.eval_on_selector_all(f"{ROUNDS} tbody tr", f"all => all.map(tr => tr.cells[{place}].innerText)")


def sort_by(page, title, order):
    """Click on a column's header and wait until the table is in that order."""
    header = page.locator(f"{ROUNDS} thead tr:first-child th", has_text=title)
    header.click()
    page.wait_for_selector(f"{ROUNDS} thead th[aria-sort={order}]:has-text('{title}')")


def test_every_picture_is_drawn(open_page, report):
    page = open_page(report)
    boxes = [svg.bounding_box() for svg in page.query_selector_all("figure.picture svg")]
    assert len(boxes) == 5
    assert all(box["width"] > 300 and box["height"] > 150 for box in boxes)
    curve = page.query_selector("#accuracy-1 svg path[style*='var(--line-1)']")
    assert curve.evaluate("e => getComputedStyle(e).stroke") == "rgb(217, 72, 15)"
    assert page.troubles == []


def test_a_click_on_a_header_sorts_by_value(open_page, report):
    page = open_page(report)
    before = column(page, "kept")
    sort_by(page, "kept", "ascending")
    rising = column(page, "kept")
    sort_by(page, "kept", "descending")
    falling = column(page, "kept")
    numbers = [[int(text.replace(",", "")) for text in texts] for texts in (rising, falling)]
    assert numbers[0] == sorted(numbers[0])
    assert numbers[1] == sorted(numbers[1], reverse=True)
    assert numbers[0][-1] < numbers[1][-1]
    assert before not in (rising, falling)
    sort_by(page, "experiment", "ascending")
    assert set(column(page, "experiment")) == {"fine-tuning", "learning-rate-rewinding"}  # 18 each, 25 to be seen
    assert page.troubles == []


def test_typing_filters(open_page, report):
    page = open_page(report)
    page.locator(f".dt-container:has({ROUNDS}) .dt-search input").type("lottery")
    assert set(column(page, "experiment")) == {"lottery-ticket"}
    assert "1 to 18 of 18" in page.locator(f".dt-container:has({ROUNDS}) .dt-info").inner_text()
    page.locator(f"{ROUNDS}").get_by_label("filter compression").type("1.6x")
    assert column(page, "compression") == ["1.6x"] * 2
    assert column(page, "seed") == ["0", "1"]
    assert page.troubles == []


def test_light_and_dark_follow_the_reader(open_page, report):
    parts = {"body": "backgroundColor", "#accuracy-1 svg path": "fill", "#accuracy-1 svg text": "fill"}
    seen = []
    for scheme in ("light", "dark"):
        page = open_page(report, color_scheme=scheme)
        seen.append([page.eval_on_selector(e, f"e => getComputedStyle(e).{what}") for e, what in parts.items()])
    for light, dark in zip(*seen, strict=True):
        assert light != dark
    assert seen[0][0] == "rgb(255, 255, 255)"


def test_a_phone_scrolls_in_one_direction_only(open_page, report):
    page = open_page(report, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for svg in page.query_selector_all("figure.picture svg"):
        assert svg.bounding_box()["width"] <= 390


def test_long_names_do_not_widen_the_page(open_page, tmp_path):
    save([r for data in ("cifar10", "d" * 200) for r in path_of("n" * 100, 0, 1, epochs=1, data=data)], tmp_path)
    page = open_page(tmp_path / "report.html", viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_hostile_names_are_text_and_run_nothing(open_page, tmp_path):
    save(hostile_records(), tmp_path, [{"experiment": odd, "reason": odd} for odd in HOSTILE])
    page = open_page(tmp_path / "report.html")
    for name in HOSTILE[:3]:
        page.locator(ROUNDS).get_by_label("filter experiment").fill(name)
        assert set(column(page, "experiment")) == {name}
    sort_by(page, "technique", "ascending")
    assert page.locator("img").count() == 0
    assert HOSTILE[1] in page.inner_text("main")
    page.wait_for_timeout(200)
    assert page.troubles == []


def test_exported_files_are_shown_side_by_side(open_page, tmp_path):
    save(path_of("fine-tuning", 0, 2, epochs=2), tmp_path, deployed=deployment())
    seen = []
    for scheme in ("light", "dark"):
        page = open_page(tmp_path / "report.html", color_scheme=scheme)
        section = page.locator("#deployed")
        assert section.locator("svg").count() == 2
        for box in (svg.bounding_box() for svg in section.locator("svg").all()):
            assert box["width"] > 300
            assert box["height"] > 100
        seen.append(section.locator("svg [id$=latency-0] path").first.evaluate("e => getComputedStyle(e).fill"))
        files = section.locator("table").nth(1).locator("tbody tr")
        cells = files.nth(3).locator("td").all_inner_texts()
        assert cells[:6] == ["unstructured.onnx", "103 MB", "19.8 MB", "76.10", "2e-06", "115 ms"]
        assert cells[-2] == "no"
        assert "Left out: unstructured as pte: not installed" in section.inner_text()
        assert page.troubles == []
    assert seen[0] != seen[1]


def test_exported_files_on_a_phone_and_with_hostile_names(open_page, tmp_path):
    for place, name in enumerate([HOSTILE[1], "n" * 300]):
        folder = tmp_path / str(place)
        save(path_of("fine-tuning", 0, 2, epochs=2), folder, deployed=deployment(name, name))
        page = open_page(folder / "report.html", viewport={"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("img").count() == 0
        assert page.troubles == []
