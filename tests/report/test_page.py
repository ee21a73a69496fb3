"""The page: whole in itself, the same each time, no name in it more than text; as a file and in a real browser."""

import dataclasses
import html
import html.parser
import json
import re
import shutil
from importlib import resources

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from report.synthetic import (
    HOSTILE,
    NBSP,
    TECHNIQUES,
    deployment,
    hostile_records,
    path_of,
    paths,
    read_page,
    save,
    save_page_alone,
)
from waiting import PATIENCE_S

from orchestrator.errors import OrchestratorError
from orchestrator.objective import Objective
from orchestrator.report import comparisons, page
from orchestrator.report.tables import TextTable
from orchestrator.task import ACCURACY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
ROUNDS = "table[data-source=rounds]"
RECORDS = paths(TECHNIQUES, seeds=2, rounds=8, epochs=5)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")

# Each report is written once, as its pictures take seconds.


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The page of six experiments on one model and data set."""
    return written(tmp_path_factory, RECORDS)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page of names that try to break it."""
    failures = [{"experiment": odd, "seed": odd, "round": odd, "reason": odd} for odd in HOSTILE] + [{}, {"seed": None}]
    return written(tmp_path_factory, hostile_records(), failures)


@pytest.fixture(scope="module")
def two_data_sets(tmp_path_factory):
    """A page of an experiment on two data sets, with long names. Only the first has a dense round."""
    first, second = (path_of("n" * 100, 0, 1, epochs=1, data=data) for data in ("cifar10", "d" * 200))
    return written(tmp_path_factory, first + second[1:])


@pytest.fixture(scope="module")
def exported_files(tmp_path_factory):
    """A page of one experiment with one seed, and of exported files."""
    return written(tmp_path_factory, path_of("fine-tuning", 0, 2, epochs=2), exported=deployment())


def written(tmp_path_factory, records, failures=(), exported=None):
    folder = tmp_path_factory.mktemp("report")
    save(records, folder, failures, exported)
    return folder / "report.html"


class Parser(html.parser.HTMLParser):
    """Count elements, and collect attributes, texts and the content of scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts, self.scripts, self._script = [], [], [], {}, None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "script":
            self._script = dict(attrs).get("id", "module")

    def handle_endtag(self, tag):
        self._script = None if tag == "script" else self._script

    def handle_data(self, data):
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self.cdata_elem is None and self.tags[-1:] != ["text"]:  # a picture's text stays on its line
            self.texts.append(data)


def parsed(text):
    parser = Parser()
    parser.feed(text)
    return parser


def test_the_page_says_what_was_found(usual):
    text = read_page(usual)
    (comparison,) = comparisons(RECORDS)
    row = comparison.recommendation.row
    assert f"Recommended: {row.experiment}, round {row.round}" in text
    assert comparison.recommendation.reason.replace("'", "&#39;") in text
    assert text.count('role="img"') == 5
    assert "10,000 resamples" in text
    assert "95 % bootstrap interval" in text
    assert "Beside the published results" in text
    parser = parsed(text)
    assert len(json.loads(parser.scripts["rounds"])["lines"]) == len(RECORDS)
    assert len(json.loads(parser.scripts["pairs-1"])["lines"]) == 15 * 8


def test_the_same_records_give_the_same_bytes(usual, tmp_path):
    save(RECORDS, tmp_path)
    for file in usual.parent.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_the_page_asks_for_nothing(usual):
    parser = parsed(usual.read_text())
    links = [(tag, name, value) for tag, name, value in parser.attributes if name in ("src", "href", "action", "data")]
    assert {link for link in links if not link[2].startswith(("data:", "#", "./"))} == set()
    assert {tag for tag, _, value in links if value.startswith("./")} == {"a"}
    assert {"iframe", "object", "embed", "form", "base"}.isdisjoint(parser.tags)


def test_every_link_leads_somewhere(usual):
    parser = parsed(usual.read_text())
    links = [value for tag, name, value in parser.attributes if (tag, name) == ("a", "href")]
    ids = {value for _, name, value in parser.attributes if name == "id"}
    assert {link for link in links if link.startswith("#")} >= {"#result-1", "#settings-1", "#all"}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    files = {link[2:] for link in links if link.startswith("./")}
    assert files == {file.name for file in usual.parent.iterdir()} - {"report.html"}


def test_no_line_ends_between_a_number_and_its_unit(usual, exported_files):
    for file in (usual, exported_files):
        text = " ".join(parsed(file.read_text()).texts)
        assert len(re.findall(rf"[0-9]{NBSP}(?:%|kB|MB|ms|s|m)\b", text)) > 20
        assert not re.search(r"[0-9] (?:%|[kMG]?B\b|m?s\b|m\b|h\b)", text)


def test_names_keep_their_spaces(tmp_path):
    save_page_alone(paths(["after 5 s", "b"], seeds=1, rounds=1), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<summary>after 5 s" in text
    assert f"5{NBSP}s" not in text


def test_settings_and_the_command_that_exports_are_on_every_page(tmp_path):
    records = path_of("fine-tuning", 0, 3, epochs=4)
    for each in records:
        each.settings["training"].update(batch_size=64, schedule={"type": "StepDecay", "peak": 0.1, "drops": [2, 3]})
    records = [dataclasses.replace(each, processor="Some Processor 3000") for each in records]
    (comparison,) = comparisons(records)
    key = comparison.recommended_records[0].key[:12]
    text = save(records, tmp_path, storage="s3://bucket/my 2 GB runs")
    assert NBSP not in re.search("<code>orchestrator export (.*)</code>", (tmp_path / "report.html").read_text())[1]
    assert f"<code>orchestrator export &#39;s3://bucket/my 2 GB runs&#39; --round {key} --out ./deploy</code>" in text
    lines = dict(re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td></tr>', text))
    assert lines == {
        "model": "resnet20", "data": "cifar10", "task": "Classification(label_smoothing=0), objective: accuracy",
        "weights": "291,376, of which 291,376 are prunable", "epochs of the last round": "4",
        "epochs of the schedule": "4",
        "batch size": "64", "learning rate": "StepDecay(peak=0.1, drops=[2, 3])",
        "technique": "FineTuning(optimizer_state=kept)", "selection": "Global", "criterion": "magnitude", "seed": "0",
        "versions": "python 3.11.7, torch 2.14.1", "processor": "Some Processor 3000, 4 workers",
        "finished": "2026-01-01 00:00", "storage": "s3://bucket/my 2 GB runs",
    }  # fmt: skip


def test_settings_that_differ_name_their_experiments(tmp_path):
    records = paths(["fine-tuning", "weight-rewinding"], seeds=1, rounds=1)
    text = save(records, tmp_path)
    assert "FineTuning(optimizer_state=kept) (fine-tuning); WeightRewinding(epochs=164) (weight-rewinding)" in text


def test_the_command_trusts_code_of_the_users_own(tmp_path):
    records = path_of("fine-tuning", 0, 1, epochs=1)
    for each in records:
        each.settings.update(model="my_models:network", task={"type": "my_tasks.Ranking"})
    text = save(records, tmp_path, storage="runs")
    assert "--out ./deploy --trust my_models:network --trust my_tasks:Ranking</code>" in text


def test_a_round_of_a_notebook_has_the_call_that_loads_it_in_place_of_a_command(tmp_path):
    records = path_of("fine-tuning", 0, 1, epochs=1)
    for each in records:
        each.settings.update(model="__main__:network", data="my_data:images")
    text = html.unescape(save(records, tmp_path, storage="/my/runs"))
    (comparison,) = comparisons(records)
    key = comparison.recommended_records[0].key[:12]
    assert f"<code>load('/my/runs', '{key}', trust=['__main__:network', 'my_data:images'])</code>" in text
    assert "orchestrator export" not in text


@pytest.mark.parametrize(("change", "warns"), [(-0.0049, False), (-0.0051, True), (0.01, False)])
@pytest.mark.parametrize("objective", [ACCURACY, Objective("error", higher_is_better=False, fraction=True)])
def test_a_recommended_network_that_loses_more_on_test_has_a_warning(tmp_path, objective, change, warns):
    test = {True: 0.9 + change, False: 0.1 - change}[objective.higher_is_better]
    records = [
        dataclasses.replace(each, objective=objective, metrics={
            "train_loss": 0.1, f"val_{objective.name}": 0.5, f"test_{objective.name}": test if each.round else
            (0.9 if objective.higher_is_better else 0.1)}, history=[])
        for each in path_of("fine-tuning", 0, 1)
    ]  # fmt: skip
    text = save_page_alone(records, tmp_path / "report.html")
    side = "below" if objective.higher_is_better else "above"
    assert (f"On test data the recommended network is more than half a point {side} the dense one" in text) == warns


def test_one_seed_and_one_experiment_have_no_words_about_more(tmp_path):
    text = save(path_of("fine-tuning", 0, 3, epochs=3), tmp_path)
    text = text[: text.index('<script type="module">')]
    for word in ("median of", "minimum", "each seed", "experiments,", "saved", "interval", "shared", "Every two"):
        assert word not in text.replace("median of the trials", "")


def test_more_sections_stand_in_the_chapter_that_they_are_about(tmp_path, monkeypatch):
    def searches(comparison):
        if "cifar10" not in comparison.title:
            return []
        table = TextTable("What was tried", ("agent", "score"), (("Cem", "97.31 %"),))
        return [page.Section("searches", "Searches", (f"About {comparison.title}.",), (table,))]

    monkeypatch.setattr("orchestrator.report.folder.MORE_SECTIONS", (searches,))
    monkeypatch.setattr("orchestrator.report.folder.draw_pictures", lambda comparison, references: [])
    text = save([each for data in ("cifar10", "other") for each in path_of("a", 0, 1, data=data)], tmp_path)
    assert '<a href="#searches-1">Searches</a>' in text
    assert '<h3 id="searches-1">Searches</h3>' in text
    assert "About resnet20 on cifar10." in text
    assert '<th scope="row">Cem</th><td>97.31 %</td>' in text
    assert "searches-2" not in text


def test_a_round_that_ended_with_rounding_to_int8_shows_it_before_and_after(tmp_path):
    *before, last = path_of("a", 0, 1)
    int8 = {"val_before": 0.5, "test_before": 0.8125, "test_after": 0.875, "test_file": 0.9}
    text = save([*before, dataclasses.replace(last, int8=int8)], tmp_path)
    cells = "<td>81.25 %</td><td>87.50 %</td><td>90.00 %</td>"
    assert cells in text
    assert text.count("packed-int8 file") == 2, "one table, and the sentence before it"
    assert "Rounding to int8" not in save(before, tmp_path / "without")


def test_names_are_text_wherever_they_stand(hostile):
    text = hostile.read_text()
    parser = parsed(text)
    assert sum(tag == "script" for tag in parser.tags) == 4  # rounds, medians, pairs, and the module
    assert not [name for _, name, _ in parser.attributes if name.startswith("on")]
    assert "img" not in parser.tags
    assert not [value for _, name, value in parser.attributes if name == "href" and "javascript" in value.lower()]
    assert "<b>49</b>" not in text
    lines = json.loads(parser.scripts["rounds"])["lines"]
    assert {line[1] for line in lines} == {"".join(c if c.isprintable() else " " for c in name) for name in HOSTILE}
    assert not re.search("[\u2028\u202e\x00]", text)


def test_several_data_sets_have_a_chapter_and_pictures_each(two_data_sets):
    text = two_data_sets.read_text()
    titles = re.findall(r'<h2 class="task">([^<]*)', text)
    assert [title[:14] for title in titles] == ["resnet20 on ci", "resnet20 on dd"]
    assert (two_data_sets.parent / "compression.png").exists()
    assert (two_data_sets.parent / "compression-2.png").exists()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert text.count("Nothing is recommended before a dense round has finished") == 1


def test_what_sharing_saved_is_told_exactly(tmp_path):
    records = paths(["fine-tuning", "learning-rate-rewinding"], seeds=2, rounds=3, epochs=3)
    text = save_page_alone(records, tmp_path / "report.html")
    assert "need 16 rounds, 14 were trained" in text
    assert "<strong>42</strong> epochs instead of 48, <strong>12.5 % saved</strong>" in text


def test_many_experiments_have_one_table_of_all(tmp_path):
    names = [f"trial-{number}" for number in range(20)]
    parser = parsed(save_page_alone(paths(names, seeds=1, rounds=3), tmp_path / "report.html"))
    assert {line[0] for line in json.loads(parser.scripts["medians-1"])["lines"]} == set(names)
    assert parser.tags.count("details") == 8 + 1 + 1  # each shown, all medians, all pairs


def test_one_pair_has_no_interval(tmp_path):
    records = paths(["fine-tuning", "weight-rewinding"], seeds=1, rounds=5)
    text = save_page_alone(records, tmp_path / "report.html")
    assert "There is one seed, so no interval." in text
    assert "bootstrap interval" not in text
    more = path_of("fine-tuning", 1, 5, epochs=4)
    assert save_page_alone(records + more, tmp_path / "report.html").count("<small>one pair</small>") == 5


def test_what_the_page_is_made_of_is_in_the_package():
    project = (resources.files("orchestrator") / ".." / "pyproject.toml").read_text()
    files = resources.files("orchestrator.report").iterdir()
    present = {file.name for file in files if file.is_file() and not file.name.endswith(".py")}
    listed = re.search(r'^"orchestrator\.report" = (\[.*\])$', project, re.MULTILINE)[1]
    assert set(json.loads(listed)) == present == {"page.css", "page.html.j2", "page.js", "published.csv"}


def test_another_form_of_the_library_is_an_error(monkeypatch):
    monkeypatch.setattr(page, "EXPORT_STATEMENT", re.compile("no such statement"))
    with pytest.raises(OrchestratorError, match="itables"):
        page.render({})


def test_the_parts_of_the_page_name_no_host():
    for name in ("page.css", "page.html.j2", "page.js"):
        text = (resources.files("orchestrator.report") / name).read_text()
        assert not re.search(r"https?://|//cdn", text)


def test_files_are_compared_with_those_of_the_same_format(tmp_path):
    exported = deployment()
    (one,) = exported.skipped
    exported = dataclasses.replace(exported, skipped=(dataclasses.replace(one, network="dense"), one))
    text = save_page_alone([], tmp_path / "report.html", exported)
    assert (
        "smallest download: unstructured.packed, test 76.10 %. The dense network takes 88.7 MB in this format." in text
    )
    assert "fastest: dense.onnx, onnx 1.0, test 76.10 %. 1 other file takes at most a tenth longer." in text
    assert text.count("not installed") == 1
    assert "Not written: dense, unstructured as pte: not installed" in text
    exported = dataclasses.replace(exported, artifacts=exported.artifacts[2:])
    text = save_page_alone([], tmp_path / "report.html", exported)
    assert "The dense network has 103 MB of weights." in text
    assert "fastest: unstructured.onnx" in text


# In a browser.


@pytest.fixture(scope="module")
def open_page():
    """Open a report in a context of its own and return its page, which collects what goes wrong as `troubles`."""
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


def column(page, title):
    """Return the texts of a column, as they are shown."""
    index = page.eval_on_selector_all(f"{ROUNDS} thead tr:first-child th", "all => all.map(th => th.innerText.trim())")
    place = [text.split("\n")[0] for text in index].index(title)
    return page.eval_on_selector_all(f"{ROUNDS} tbody tr", f"all => all.map(tr => tr.cells[{place}].innerText)")


def sort_by(page, title, order):
    """Click on a column's header and wait until the table is in that order."""
    header = page.locator(f"{ROUNDS} thead tr:first-child th", has_text=title)
    header.click()
    page.wait_for_selector(f"{ROUNDS} thead th[aria-sort={order}]:has-text('{title}')")


@in_browser
def test_every_picture_is_drawn(open_page, usual):
    page = open_page(usual)
    boxes = [svg.bounding_box() for svg in page.query_selector_all("figure.picture svg")]
    assert len(boxes) == 5
    assert all(box["width"] > 300 and box["height"] > 150 for box in boxes)
    curve = page.query_selector("#compression-1 svg path[style*='var(--line-1)']")
    assert curve.evaluate("e => getComputedStyle(e).stroke") == "rgb(217, 72, 15)"
    assert page.troubles == []


@in_browser
def test_a_click_on_a_header_sorts_by_value(open_page, usual):
    page = open_page(usual)
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


@in_browser
def test_typing_filters(open_page, usual):
    page = open_page(usual)
    page.locator(f".dt-container:has({ROUNDS}) .dt-search input").type("lottery")
    assert set(column(page, "experiment")) == {"lottery-ticket"}
    assert "1 to 18 of 18" in page.locator(f".dt-container:has({ROUNDS}) .dt-info").inner_text()
    page.locator(f"{ROUNDS}").get_by_label("filter compression").type("1.6x")
    assert column(page, "compression") == ["1.6x"] * 2
    assert column(page, "seed") == ["0", "1"]
    assert page.troubles == []


@in_browser
def test_light_and_dark_follow_the_reader(open_page, usual):
    parts = {"body": "backgroundColor", "#compression-1 svg path": "fill", "#compression-1 svg text": "fill"}
    seen = []
    for scheme in ("light", "dark"):
        page = open_page(usual, color_scheme=scheme)
        seen.append([page.eval_on_selector(e, f"e => getComputedStyle(e).{what}") for e, what in parts.items()])
    for light, dark in zip(*seen, strict=True):
        assert light != dark
    assert seen[0][0] == "rgb(255, 255, 255)"


@in_browser
def test_a_phone_scrolls_in_one_direction_only(open_page, usual):
    page = open_page(usual, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for svg in page.query_selector_all("figure.picture svg"):
        assert svg.bounding_box()["width"] <= 390


@in_browser
def test_texts_of_pictures_can_be_read_on_a_phone(open_page, usual, exported_files):
    for file in (usual, exported_files):
        page = open_page(file, viewport={"width": 390, "height": 800})
        sizes = page.eval_on_selector_all(
            ".chart svg text",
            """all => all.map(text => {
                const svg = text.ownerSVGElement;
                const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
                return scale * parseFloat(getComputedStyle(text).fontSize);
            })""",
        )
        assert len(sizes) > 30
        assert min(sizes) >= 10


@in_browser
def test_a_touch_and_the_arrow_keys_read_the_values_of_a_point(open_page, usual):
    page = open_page(usual, viewport={"width": 390, "height": 800}, has_touch=True)
    figure = page.locator("#compression-1")
    assert figure.locator("output").inner_text().startswith("Touch a point")
    point = figure.locator("[id$=points-0] use").nth(2)
    wanted = point.locator("title").text_content()
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert figure.locator("output").inner_text() == wanted
    assert wanted.startswith("fine-tuning, round 2: 1.6x, test accuracy ")
    figure.locator(".chart").focus()
    page.keyboard.press("ArrowRight")
    assert figure.locator("output").inner_text().startswith("fine-tuning, round 3: 2.0x")
    for name in ("front", "cost", "learning", "layers"):
        page.locator(f"#{name}-1 .chart").focus()
        page.keyboard.press("ArrowLeft")
        assert not page.locator(f"#{name}-1 output").inner_text().startswith("Touch")
    assert page.troubles == []


@in_browser
def test_the_key_stays_in_sight_while_the_table_scrolls_in_its_own_box(open_page, usual):
    page = open_page(usual, viewport={"width": 390, "height": 800})
    box = page.locator(f".dt-layout-table:has({ROUNDS})")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth + 100")
    box.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    cell = page.locator(f"{ROUNDS} tbody td").first
    assert len(cell.inner_text()) == 12
    assert 0 <= cell.bounding_box()["x"] < 30
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@in_browser
def test_a_button_copies_the_command(open_page, usual):
    page = open_page(usual, permissions=["clipboard-read", "clipboard-write"])
    page.locator(".command button").click()
    page.wait_for_selector(".command button:has-text('Copied')")
    command = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(r"orchestrator export STORAGE --round [0-9a-f]{12} --out ./deploy", command)
    assert page.troubles == []


@in_browser
@pytest.mark.parametrize(
    ("scheme", "width"),
    [("light", 390), *(pytest.param("dark", width, marks=pytest.mark.slow) for width in (390, 1280))],
)
def test_axe_finds_nothing_to_mend(open_page, usual, hostile, two_data_sets, exported_files, scheme, width):
    for file in (usual, hostile, two_data_sets, exported_files):
        page = open_page(file, color_scheme=scheme, viewport={"width": width, "height": 800})
        page.eval_on_selector_all("details", "all => all.forEach(details => { details.open = true; })")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@in_browser
def test_long_names_do_not_widen_the_page(open_page, two_data_sets):
    page = open_page(two_data_sets, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@in_browser
def test_hostile_names_are_text_and_run_nothing(open_page, hostile):
    page = open_page(hostile)
    for name in HOSTILE[:3]:
        page.locator(ROUNDS).get_by_label("filter experiment").fill(name)
        assert set(column(page, "experiment")) == {name}
    sort_by(page, "technique", "ascending")
    assert page.locator("img").count() == 0
    assert HOSTILE[1] in page.inner_text("main")
    page.wait_for_timeout(200)
    assert page.troubles == []


@in_browser
def test_exported_files_are_shown_side_by_side(open_page, exported_files):
    seen = []
    for scheme in ("light", "dark"):
        page = open_page(exported_files, color_scheme=scheme)
        section = page.locator("#deployed")
        assert section.locator("svg").count() == 2
        for box in (svg.bounding_box() for svg in section.locator("svg").all()):
            assert box["width"] > 300
            assert box["height"] > 100
        seen.append(section.locator("svg [id$=latency-0] path").first.evaluate("e => getComputedStyle(e).fill"))
        files = section.locator("table").nth(1).locator("tbody tr")
        cells = files.nth(3).locator("td").all_inner_texts()
        shown = [cell.replace(NBSP, " ") for cell in cells[:6]]
        assert shown == ["unstructured.onnx", "103 MB", "19.8 MB", "76.10", "99.87 %", "115 ms"]
        assert cells[-2] == "no"
        assert "Not written: unstructured as pte: not installed" in section.inner_text()
        assert page.troubles == []
    assert seen[0] != seen[1]


@in_browser
def test_exported_files_on_a_phone_and_with_hostile_names(open_page, tmp_path):
    name = HOSTILE[1] + "n" * 300
    save(path_of("fine-tuning", 0, 1, epochs=1)[:1], tmp_path, exported=deployment(name, name))
    page = open_page(tmp_path / "report.html", viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("img").count() == 0
    assert page.troubles == []
