"""The pictures, as PNGs and as parts of the page."""

import dataclasses
import itertools
import re
import statistics
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image
from report.synthetic import TECHNIQUES, THREE, deployment, in_bits, path_of, paths

from orchestrator.errors import OrchestratorError
from orchestrator.record import MODEL, Blob
from orchestrator.report import comparisons, summary
from orchestrator.report.chapters.exported import exported_pictures
from orchestrator.report.pictures import COLOURS, draw_pictures, drawing_style
from orchestrator.report.pictures.recommended import layer_densities, round_curves
from orchestrator.report.pictures.style import SMALL, thinned
from orchestrator.report.published import find_published

ODD = "long " * 40 + r"<script>alert(1)</script> & _x 文 $\frac{$"


def pictures(records, references=None):
    (comparison,) = comparisons(records)
    return {picture.name: picture for picture in draw_pictures(comparison, references or {})}


@pytest.fixture(scope="module")
def drawn():
    """All pictures of six experiments, by name; they must not be changed."""
    with drawing_style():
        return pictures(paths(TECHNIQUES, seeds=2, rounds=8, epochs=5))


def legend(picture):
    """Return the texts of the legend."""
    return [text.get_text().strip() for found in picture.figure.legends for text in found.get_texts()]


def test_every_picture_is_a_png_and_an_element_of_a_page(drawn, tmp_path):
    light = [light for light, _ in COLOURS.values()]
    assert len(set(light)) == len(light)
    assert list(drawn) == ["compression", "front", "cost", "layers", "learning"]
    for name, picture in drawn.items():
        with drawing_style():
            file, svg = picture.save(tmp_path / "new" / f"{name}.png"), picture.svg("abc-")
        with Image.open(file) as image:
            assert image.width == 1000
            assert len(set(image.convert("RGB").resize((80, 50)).getdata())) > 20
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") == picture.alt
        assert not {"width", "height"} & root.attrib.keys()
        assert set(re.findall(r"#[0-9a-f]{6}", svg)) == set(), "all colours are variables"
        assert all(found.startswith("abc-") for found in re.findall(r'\bid="([^"]*)"', svg))
        assert all(found.startswith("abc-") for found in re.findall(r'(?:href="#|url\(#)([^")]*)', svg))
        assert "<style" not in svg
        assert "<metadata" not in svg


def test_the_picture_shows_medians_and_what_is_recommended():
    records = paths(THREE[:1], rounds=8)
    (comparison,) = comparisons(records)
    with drawing_style():
        picture = pictures(records)["compression"]
    (axes,) = picture.figure.axes
    line = next(drawn for drawn in axes.lines if len(drawn.get_xdata()) == 9)
    assert list(line.get_xdata()) == pytest.approx([1.25**r for r in range(9)], rel=1e-4)  # whole weights are kept
    assert list(line.get_ydata()) == pytest.approx([100 * row.test.median for row in comparison.rows])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1x", "2x", "4x"]
    best = comparison.recommendation.row
    assert f"recommended: {best.compression:.1f}x, {100 * best.test.median:.2f} %" in legend(picture)
    assert f"dense: {100 * comparison.recommendation.dense.test.median:.2f} %" in legend(picture)
    assert not list(axes.texts), "no text covers a point"


def test_published_medians_are_dashed_with_hollow_markers():
    records = path_of("fine-tuning", 0, 6)
    with drawing_style():
        plain, picture = (pictures(records, r)["compression"] for r in ({}, {"fine-tuning": find_published(records)}))
    dashed = [line for line in picture.figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert len(dashed) == 1 + sum(line.get_markerfacecolor() == "none" for line in plain.figure.axes[0].lines)
    assert any(list(line.get_xdata()) == pytest.approx([1.25**r for r in range(1, 11)], rel=1e-4) for line in dashed)


def test_points_say_what_they_are():
    with drawing_style():
        svg = pictures(paths(["fine-tuning"], rounds=3))["compression"].svg("")
    titles = re.findall(r"<title>([^<]*)</title>", svg)
    assert [title.split(": ")[0] for title in titles] == [f"fine-tuning, round {r}" for r in range(4)]


def test_names_are_neither_formulas_nor_elements(tmp_path):
    with drawing_style():
        for picture in pictures(paths([ODD, "_hidden", "fine-tuning"], seeds=1, rounds=2)).values():
            root = ElementTree.fromstring(picture.svg(""))
            assert not [element for element in root.iter() if element.tag.endswith("script")]
            if picture.name == "compression":
                picture.save(tmp_path / "odd.png")
                shown = "".join(root.itertext())
                assert r"</script> & _x 文 $\frac{$" in shown
                assert "_hidden" in shown


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_pictures_of_little(rounds, accuracy):
    records = path_of("fine-tuning", 0, rounds, epochs=1)
    for record in records:
        record.metrics.update(val_accuracy=accuracy, test_accuracy=accuracy)
    with drawing_style():
        for picture in pictures(records).values():
            assert "<svg" in picture.svg("")
            if picture.name in ("compression", "cost", "front"):
                low, high = picture.figure.axes[0].get_ylim()
                assert low < 100 * accuracy < high


def test_without_a_dense_round_or_history_there_is_less_to_draw():
    with drawing_style():
        pruned = [record for record in paths(seeds=1, rounds=2) if record.round]
        assert list(pictures(pruned)) == ["compression", "front", "cost"]
        bare = path_of("fine-tuning", 0, 2, history=0)
        assert list(pictures(bare)) == ["compression", "front", "cost", "layers"]


def test_of_many_experiments_most_are_a_shade():
    names = [f"trial-{number}" for number in range(70)]
    with drawing_style():
        picture = pictures(paths(names, seeds=1, rounds=3))["compression"]
        assert len(picture.svg("")) < 200_000
    assert legend(picture)[-1] == "62 other experiments"


ENDS = [paths(TECHNIQUES, seeds=2, rounds=8, epochs=5), path_of("fine-tuning", 0, 0), path_of("fine-tuning", 0, 40)]
ALIKE = [f"digits_compare_with_a_long_name-{name}" for name in ("fine-tuning", "weight-rewinding")]


def visible_texts(figure):
    """Return every text that is drawn, with its box in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    outside = set()  # of the view, where ticks are not drawn
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = axis.get_major_ticks()
        outside |= {tick.label1 for tick in ticks if not low <= tick.get_loc() <= high or not tick.label1.get_visible()}
        outside |= {tick.label2 for tick in ticks}
    found = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in outside]
    return [(text, text.get_window_extent(canvas.get_renderer())) for text in found]


@pytest.mark.parametrize("records", [*ENDS, paths(ALIKE, seeds=2, rounds=18), in_bits(paths(rounds=12))])
def test_texts_do_not_touch_each_other_and_lie_inside_the_picture(records):
    with drawing_style():
        drawn = [*pictures(records).values(), *exported_pictures(deployment())]
        for picture in drawn:
            found = visible_texts(picture.figure)
            assert {text.get_fontsize() >= SMALL for text, _ in found} == {True}
            width, height = picture.figure.bbox.size
            for text, box in found:
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
                assert inside, f"{picture.name}: {text.get_text()!r} leaves the picture"
            for (one, first), (other, second) in itertools.combinations(found, 2):
                across = min(first.x1, second.x1) - max(first.x0, second.x0)
                down = min(first.y1, second.y1) - max(first.y0, second.y0)
                assert across < 1 or down < 2, f"{picture.name}: {one.get_text()!r} touches {other.get_text()!r}"


def test_no_line_of_the_grid_is_above_100_per_cent():
    records = path_of("fine-tuning", 0, 4, epochs=3)
    for record in records:
        record.metrics.update(val_accuracy=0.999, test_accuracy=0.999)
    with drawing_style():
        for name, picture in pictures(records).items():
            if name != "layers":
                ticks = picture.figure.axes[0].get_yticks()
                assert max(ticks) <= 100
                assert len(ticks) >= 3


@pytest.mark.parametrize(("low", "high"), [(9000, 10_000), (9000, 9001), (1, 10**9), (149_000, 1_180_000)])
def test_labels_of_sizes_have_space_and_differ(low, high):
    records = path_of("fine-tuning", 0, 1)
    for record, count in zip(records, (high, low), strict=True):
        record.blobs[MODEL] = Blob("0" * 64, count)
    with drawing_style():
        axes = pictures(records)["front"].figure.axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(labels)) == len(labels) >= 1


def test_ticks_are_thinned_to_those_with_space():
    places = {float(place): place / 100 for place in range(101)}
    kept = thinned(places, lambda tick: f"{tick:g} kB", places.__getitem__)
    assert 5 <= len(kept) <= 8
    assert thinned([1.0, 2.0], lambda tick: "the same", lambda tick: tick) == [1.0]


def test_long_names_lose_what_they_share():
    with drawing_style():
        drawn = pictures(paths(ALIKE, seeds=1, rounds=3))
    assert [text.split(",")[0] for text in legend(drawn["compression"])[2:]] == ["fine-tuning", "weight-rewinding"]


def test_the_learning_rate_is_drawn_below_the_loss():
    records = path_of("fine-tuning", 0, 2, epochs=8)
    with drawing_style():
        picture = pictures(records)["learning"]
        bare = [dataclasses.replace(r, history=[{k: v for k, v in e.items() if k != "lr"} for e in r.history])
                for r in records]  # fmt: skip
        assert len(pictures(bare)["learning"].figure.axes) == 2
    rates = [list(line.get_ydata()) for line in picture.figure.axes[2].lines if len(line.get_xdata()) == 8]
    assert rates == [[epoch["lr"] for epoch in record.history] for record in records]
    assert picture.titles["ends"][1].startswith("round 1, 1.2x, after 8 epochs: validation accuracy ")
    assert picture.titles["ends"][1].endswith(", learning rate from 0.1 to 0.001")


def test_exported_files_name_their_runtimes_where_these_differ():
    with drawing_style():
        sizes, times = exported_pictures(deployment())
    assert "Each in its own runtime: packed by packed; onnx by onnx." in [t.get_text() for t in times.figure.texts]
    assert [title for (title,) in sizes.titles.values()] == [
        "dense.packed: 88.7 MB, test 76.10 %", "dense.onnx: 88.7 MB, test 76.10 %",
        "unstructured.packed: 19.8 MB, test 76.10 %", "unstructured.onnx: 19.8 MB, test 76.10 %",
    ]  # fmt: skip


def test_the_users_own_style_is_neither_used_nor_changed(tmp_path):
    def once(name):
        with drawing_style():
            picture = pictures(path_of("fine-tuning", 0, 2))["compression"]
            return picture.save(tmp_path / name).read_bytes(), picture.svg("")

    plain = once("plain.png")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "savefig.dpi": 20}):
        assert once("styled.png") == plain
        assert matplotlib.rcParams["text.usetex"]


def test_a_picture_without_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OrchestratorError, match=r"pip install -e '\.'") as caught, drawing_style():
        pass
    assert "\n" not in str(caught.value)


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with drawing_style():
        picture = pictures(path_of("fine-tuning", 0, 1))["front"]
        with pytest.raises(OrchestratorError, match=r"cannot write .*/file/x\.png .*choose another folder"):
            picture.save(tmp_path / "file" / "x.png")


def test_curves_follow_each_other_and_layers_keep_their_order():
    records = paths(THREE[:1], rounds=2)
    rows = summary(records)
    found = round_curves(records, rows)
    assert [(curve.start, len(curve.validation)) for curve in found] == [(0, 4), (4, 4), (8, 4)]
    assert [curve.validation[-1] for curve in found] == [row.validation for row in rows]
    assert [layer.name for layer in layer_densities(records, rows[1])] == list(records[0].layers)
    for layer in layer_densities(records, rows[1]):
        shares = [r.layers[layer.name][0] / layer.weights for r in records if r.round == 1]
        assert (layer.density.median, layer.density.low) == (statistics.median(shares), min(shares))
