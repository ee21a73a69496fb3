"""The page as a file: whole in itself, the same each time, and no name in it is more than text."""

import dataclasses
import html.parser
import json
import re
from importlib import resources

import pytest
from report.synthetic import HOSTILE, TECHNIQUES, all_paths, deployment, hostile_records, path_of, save, write

from orchestrator.errors import OrchestratorError
from orchestrator.report import path_records, tasks
from orchestrator.report.page import template
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store


class Parser(html.parser.HTMLParser):
    """Counts elements, and collects attributes and the content of scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.scripts, self._script = [], [], {}, None

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


def parsed(page):
    parser = Parser()
    parser.feed(page)
    return parser


def test_the_page_says_what_was_found(tmp_path):
    records = all_paths()
    page = save(records, tmp_path)
    (task,) = tasks(records)
    row = task.choice.row
    assert f"Recommended: {row.experiment}, round {row.round}" in page
    assert task.choice.reason.replace("'", "&#39;") in page
    assert page.count('role="img"') == 5
    assert "10,000 resamples" in page
    assert "95 % bootstrap interval" in page
    assert "Beside the published results" in page
    parser = parsed(page)
    assert len(json.loads(parser.scripts["rounds"])["lines"]) == len(records)
    assert len(json.loads(parser.scripts["pairs-1"])["lines"]) == 15 * 5


def test_what_sharing_saved_is_told_exactly(tmp_path):
    page = save(all_paths(["fine-tuning", "learning-rate-rewinding"], seeds=2, rounds=3), tmp_path)
    assert "<strong>42</strong> of 48 epochs asked (14 of 16 rounds): <strong>12.5 % saved</strong>" in page


def test_the_same_ledger_gives_the_same_bytes(tmp_path):
    ledger = Ledger(open_store(str(tmp_path / "runs")))
    write(ledger, [path_of(name, seed, 3, epochs=3) for name in TECHNIQUES for seed in range(2)])
    pages = [save(path_records(ledger)[0], tmp_path / name) for name in ("a", "b")]
    assert pages[0] == pages[1]
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_the_page_asks_for_nothing(tmp_path):
    parser = parsed(save(all_paths(), tmp_path))
    links = [(tag, name, value) for tag, name, value in parser.attributes if name in ("src", "href", "action", "data")]
    assert [link for link in links if not link[2].startswith("data:")] == []
    assert {"iframe", "object", "embed", "form", "base"}.isdisjoint(parser.tags)


def test_names_are_text_wherever_they_stand(tmp_path):
    failures = [{"experiment": odd, "seed": odd, "round": odd, "reason": odd} for odd in HOSTILE] + [{}, {"seed": None}]
    page = save(hostile_records(), tmp_path, failures)
    parser = parsed(page)
    assert sum(tag == "script" for tag in parser.tags) == 4  # rounds, medians, pairs, and the module
    assert not [name for _, name, _ in parser.attributes if name.startswith("on")]
    assert "img" not in parser.tags
    assert "<b>49</b>" not in page
    lines = json.loads(parser.scripts["rounds"])["lines"]
    assert {line[0] for line in lines} == {"".join(c if c.isprintable() else " " for c in name) for name in HOSTILE}
    assert not re.search("[\u2028\u202e\x00]", page)


def test_several_data_sets_have_a_chapter_and_pictures_each(tmp_path):
    records = all_paths(["fine-tuning"]) + all_paths(["weight-rewinding"], data="digits")
    page = save(records, tmp_path)
    assert re.findall(r'<h2 class="task">([^<]*)', page) == ["resnet20 on cifar10", "resnet20 on digits"]
    assert (tmp_path / "accuracy.png").exists()
    assert (tmp_path / "accuracy-2.png").exists()
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_many_experiments_have_one_table_of_all(tmp_path):
    names = [f"trial-{number}" for number in range(20)]
    parser = parsed(save(all_paths(names, seeds=1, rounds=3), tmp_path))
    assert {line[0] for line in json.loads(parser.scripts["medians-1"])["lines"]} == set(names)
    assert parser.tags.count("details") == 8 + 1 + 1 + 1  # each shown, all medians, all pairs, what was published


def test_one_pair_has_no_interval(tmp_path):
    page = save(all_paths(["fine-tuning", "weight-rewinding"], seeds=1), tmp_path)
    assert page.count("<small>one pair</small>") == 5
    assert "with a single pair none can be given" in page


def test_without_a_dense_round_nothing_is_recommended(tmp_path):
    page = save([record for record in all_paths() if record.round], tmp_path)
    assert "Nothing is recommended before a dense round has finished" in page


def test_what_the_page_is_made_of_is_in_the_package():
    project = (resources.files("orchestrator") / ".." / "pyproject.toml").read_text()
    for package, names in {
        "orchestrator.report": ["published.csv"],
        "orchestrator.report.page": ["page.css", "page.html.j2", "page.js"],
    }.items():
        present = {f.name for f in resources.files(package).iterdir() if f.is_file() and not f.name.endswith(".py")}
        assert present == set(names)
        listed = re.search(rf'^"{re.escape(package)}" = \[(.*)\]$', project, re.MULTILINE)[1]
        assert json.loads(f"[{listed}]") == names


def test_another_form_of_the_library_is_an_error(monkeypatch):
    monkeypatch.setattr(template, "EXPORT", re.compile("no such statement"))
    with pytest.raises(OrchestratorError, match="itables"):
        template.render({})


def test_the_parts_of_the_page_name_no_host():
    for name in ("page.css", "page.html.j2", "page.js"):
        text = (resources.files("orchestrator.report.page") / name).read_text()
        assert not re.search(r"https?://|//cdn", text)


def test_files_are_held_against_their_like(tmp_path):
    found = deployment()
    (one,) = found.skipped
    found = dataclasses.replace(found, skipped=(dataclasses.replace(one, network="dense"), one))
    page = save(path_of("fine-tuning", 0, 2, epochs=2), tmp_path, deployed=found)
    assert "smallest to download: unstructured.packed; the dense network takes 88.7 MB as such a file" in page
    assert "fastest, as good as 1 other within a tenth: dense.onnx" in page
    assert "Each in its own runtime: packed by packed; onnx by onnx." in page
    assert page.count("not installed") == 1
    assert "Left out: dense, unstructured as pte: not installed" in page
    found = dataclasses.replace(found, artifacts=found.artifacts[2:])
    page = save(path_of("fine-tuning", 0, 2, epochs=2), tmp_path, deployed=found)
    assert "; the dense network has 103 MB of weights" in page
    assert "fastest: unstructured.onnx" in page
