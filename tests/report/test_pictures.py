"""The pictures, as PNGs and as parts of the page."""

import re
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image
from report.synthetic import TECHNIQUES, path_of

from orchestrator.errors import OrchestratorError
from orchestrator.report.pictures import COLOURS, draw, drawing
from orchestrator.report.published import published
from orchestrator.report.tasks import tasks

ODD = r"$\frac{$ <script>alert(1)</script> & _x 文 " + "long " * 40


def pictures(records, references=None):
    (task,) = tasks(records)
    return {picture.name: picture for picture in draw(task, references or {})}


def all_paths(names=tuple(TECHNIQUES), seeds=2, rounds=8):
    return [record for name in names for seed in range(seeds) for record in path_of(name, seed, rounds, epochs=5)]


def texts(picture):
    return [t.get_text() for axes in picture.figure.axes for t in axes.texts]


def test_every_picture_is_a_png_and_an_element_of_a_page(tmp_path):
    with drawing():
        found = pictures(all_paths())
        assert list(found) == ["accuracy", "front", "cost", "layers", "learning"]
        for name, picture in found.items():
            with Image.open(picture.save(tmp_path / "new" / f"{name}.png")) as image:
                assert image.width == 1240
                assert len(set(image.convert("RGB").resize((80, 50)).getdata())) > 20
            root = ElementTree.fromstring(picture.svg("t1-"))
            assert root.get("aria-label") == picture.alt
            assert not {"width", "height"} & root.attrib.keys()


def test_the_picture_shows_medians_and_what_is_recommended():
    with drawing():
        records = all_paths(["learning-rate-rewinding"], seeds=3)
        (task,) = tasks(records)
        picture = pictures(records)["accuracy"]
    (axes,) = picture.figure.axes
    line = next(drawn for drawn in axes.lines if len(drawn.get_xdata()) == 9)
    assert list(line.get_xdata()) == pytest.approx([1.25**r for r in range(9)], rel=1e-4)  # whole weights are kept
    assert list(line.get_ydata()) == pytest.approx([100 * row.test.median for row in task.rows])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1x", "2x", "4x"]
    best = task.choice.row
    assert f"recommended: {best.compression:.1f}x smaller\ntest {100 * best.test.median:.2f} %" in texts(picture)


def test_published_medians_are_dashed_with_hollow_markers():
    records = path_of("fine-tuning", 0, 6)
    with drawing():
        plain, picture = (pictures(records, r)["accuracy"] for r in ({}, {"fine-tuning": published(records)}))
    dashed = [line for line in picture.figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert len(dashed) == 1 + sum(line.get_markerfacecolor() == "none" for line in plain.figure.axes[0].lines)
    assert any(list(line.get_xdata()) == pytest.approx([1.25**r for r in range(1, 11)], rel=1e-4) for line in dashed)


def test_all_colours_are_variables_and_ids_are_the_pictures_own():
    light = [light for light, _ in COLOURS.values()]
    assert len(set(light)) == len(light)
    with drawing():
        for picture in pictures(all_paths()).values():
            svg = picture.svg("abc-")
            assert set(re.findall(r"#[0-9a-f]{6}", svg)) == set()
            assert all(found.startswith("abc-") for found in re.findall(r'\bid="([^"]*)"', svg))
            assert all(found.startswith("abc-") for found in re.findall(r'(?:href="#|url\(#)([^")]*)', svg))
            assert "<style" not in svg
            assert "<metadata" not in svg


def test_points_say_what_they_are():
    with drawing():
        svg = pictures(all_paths(["fine-tuning"], rounds=3))["accuracy"].svg("")
    titles = re.findall(r"<title>([^<]*)</title>", svg)
    assert [title.split(": ")[0] for title in titles] == [f"fine-tuning, round {r}" for r in range(4)]


def test_names_are_neither_formulas_nor_elements(tmp_path):
    with drawing():
        for picture in pictures(all_paths([ODD, "_hidden", "fine-tuning"])).values():
            picture.save(tmp_path / "odd.png")
            root = ElementTree.fromstring(picture.svg(""))
            assert not [element for element in root.iter() if element.tag.endswith("script")]
            if picture.name == "accuracy":
                shown = "".join(root.itertext())
                assert r"$\frac{$ <scri" in shown
                assert "_hidden" in shown


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_pictures_of_little(tmp_path, rounds, accuracy):
    records = path_of("fine-tuning", 0, rounds, epochs=1)
    for record in records:
        record.metrics.update(val_accuracy=accuracy, test_accuracy=accuracy)
    with drawing():
        for picture in pictures(records).values():
            picture.save(tmp_path / "little.png")
            if picture.name in ("accuracy", "cost", "front"):
                low, high = picture.figure.axes[0].get_ylim()
                assert low < 100 * accuracy < high


def test_without_a_dense_round_or_history_there_is_less_to_draw():
    with drawing():
        pruned = [record for record in all_paths(rounds=2) if record.round]
        assert list(pictures(pruned)) == ["accuracy", "front", "cost"]
        bare = path_of("fine-tuning", 0, 2, history=0)
        assert list(pictures(bare)) == ["accuracy", "front", "cost", "layers"]


def test_of_many_experiments_most_are_a_shade():
    names = [f"trial-{number}" for number in range(70)]
    with drawing():
        picture = pictures(all_paths(names, seeds=1, rounds=3))["accuracy"]
        assert len(picture.svg("")) < 200_000
    assert "62 other experiments" in picture.figure.legends[0].get_texts()[0].get_text()


def test_the_users_own_style_is_neither_used_nor_changed(tmp_path):
    def once(name):
        with drawing():
            picture = pictures(path_of("fine-tuning", 0, 2))["accuracy"]
            return picture.save(tmp_path / name).read_bytes(), picture.svg("")

    plain = once("plain.png")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "savefig.dpi": 20}):
        assert once("styled.png") == plain
        assert matplotlib.rcParams["text.usetex"]


def test_a_picture_without_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OrchestratorError, match=r"pip install -e '\.\[plots\]'") as caught, drawing():
        pass
    assert "\n" not in str(caught.value)


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with drawing():
        picture = pictures(path_of("fine-tuning", 0, 1))["front"]
        with pytest.raises(OrchestratorError, match=r"cannot write .*/file/x\.png .*choose another folder"):
            picture.save(tmp_path / "file" / "x.png")
