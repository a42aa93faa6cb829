"""One visual language: a colour per method, text that can be read, intervals that are possible."""

import pytest

from minipeft.analysis import plots

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def agg():
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def shown_size(text) -> float:
    """Points of a text on a page that is 890 CSS pixels wide."""
    figure = text.figure
    pixels = text.get_fontsize() / 72 * figure.dpi
    width = figure.get_figwidth() * figure.dpi
    return pixels * min(1, 890 / width) * 72 / 96


@pytest.mark.parametrize("width, dpi", [(4, 72), (6, 96), (9, 100), (14, 90), (6, 200)])
def test_all_text_is_at_least_11_points_as_shown(width, dpi):
    figure, panels = pyplot.subplots(1, 2, figsize=(width, 3), dpi=dpi)
    for axes, name in zip(panels, ("LoRA", "full"), strict=True):
        plots.whiskers(axes, [1, 2, 3], [[0.1, 0.2], [0.5, 0.6], [0.9, 0.8]], name)
        axes.text(1, 0.5, "small", fontsize=6)
        plots.finish(
            axes, "x (steps)", "share", "title", limits=(0, 1), chance=0.5, caption="Keep."
        )
    figure.canvas.draw()
    texts = [t for t in figure.findobj(pyplot.Text) if t.get_text()]
    assert len(texts) > 10
    assert min(map(shown_size, texts)) >= 11 - 1e-6


def test_the_plots_of_the_library_are_readable_too():
    for axes in (
        plots.curves({"LoRA": [[1, 2, 3], [3, 4, 5]]}),
        plots.bars({"LoRA": [1.0, 2.0], "base": [4.0]}, reference={"chance": 0.5}),
        plots.heat([[1, 2], [3, 4]], unit="nats"),
    ):
        axes.figure.canvas.draw()
        texts = [t for t in axes.figure.findobj(pyplot.Text) if t.get_text()]
        assert min(map(shown_size, texts)) >= 11 - 1e-6


@pytest.mark.parametrize("title", ["", "mean of 3 seeds"])
@pytest.mark.parametrize(
    "labels",
    [["LoRA", "prefix", "adapter"], ["LoRA"], [f"a rather long name {i}" for i in range(8)]],
)
def test_the_legend_stands_beside_the_data_and_once(labels, title):
    figure, panels = plots.figure(2)
    for axes in panels:
        for name in labels:
            plots.whiskers(axes, [1, 2], [[0.1, 0.2], [0.5, 0.6]], name)
        plots.finish(axes, "x", "y", legend_title=title)
    figure.canvas.draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels
    assert not any(axes.get_legend() for axes in panels)
    box = legend.get_window_extent()
    assert figure.bbox.y0 <= box.y0
    assert all(box.y1 <= axes.get_tightbbox().y0 for axes in panels)


def test_a_caption_stands_below_the_data_and_a_second_one_takes_its_place():
    figure, axes = plots.figure()
    plots.whiskers(axes, [1, 2], [[0.1, 0.2], [0.5, 0.6]], "LoRA")
    plots.finish(axes, "x", "y", caption="The first sentence.")
    plots.add_caption(figure, "A long sentence that has to be broken. " * 5)
    figure.canvas.draw()
    (caption,) = [text for text in figure.texts if text.get_gid() == "caption"]
    assert caption.get_text().startswith("A long") and "\n" in caption.get_text()
    box = caption.get_window_extent()
    assert box.y0 >= 0 and box.x1 <= figure.bbox.x1
    legend = figure.legends[0].get_window_extent()
    data = axes.get_tightbbox()
    assert box.y1 <= legend.y0 and legend.y1 <= data.y0 and data.y1 <= figure.bbox.y1
    assert axes.get_window_extent().height > 0.5 * 3.4 * figure.dpi  # the axes keep their height


@pytest.mark.parametrize(
    "name, method",
    [
        ("LoRA", "LoRA"),
        ("lora r = 8", "LoRA"),
        ("LoRA+", "LoRA+"),
        ("P-tuning", "P-tuning"),
        ("PTuningV2", "P-Tuning v2"),
        ("P-Tuning v2, length 20", "P-Tuning v2"),
        ("PromptTuning", "prompt tuning"),
        ("prompt_tuning", "prompt tuning"),
        ("top 2", "top"),
        ("TopLayers", "top"),
        ("FullFineTuning", "full"),
        ("full", "full"),
        ("HeadOnly", "head only"),
        ("(IA)³", "IA3"),
        ("qlora", "QLoRA"),
        ("from scratch", "random"),
        ("topic", None),
        ("prefixes", None),
        ("accuracy", None),
    ],
)
def test_a_method_has_one_look_however_it_is_spelt(name, method):
    assert plots.look(name) == (plots.LOOKS[method] if method else None)


def test_methods_differ_in_look_and_every_method_of_the_library_has_one():
    import minipeft as mp

    assert len(set(plots.LOOKS.values())) >= len(plots.LOOKS) - 1  # base and chance share theirs
    greys = {plots.COLOURS["base"], plots.COLOURS["chance"]}
    assert greys == {plots.GREY} and plots.COLOURS["full"] == "#b91c1c"
    for name in ("LoRA", "Adapter", "Prefix", "PromptTuning", "PTuning", "PTuningV2", "IA3"):
        assert hasattr(mp, name) and plots.look(name)


def test_no_interval_reaches_beyond_what_is_possible():
    _, axes = plots.figure()
    plots.whiskers(axes, [1, 2], [[1.0, 0.6, 0.9], [0.0, 0.1, 0.3]], "LoRA")
    reaches = [point for bars in axes.collections for point in bars.get_segments()]
    ends = [y for segment in reaches for _, y in segment]
    assert min(ends) >= 0 and max(ends) <= 1
    with pytest.raises(ValueError, match="limits=None"):
        plots.whiskers(axes, [1], [[2.3, 2.4]], "loss")
    plots.whiskers(axes, [1], [[2.3, 2.4]], "loss", limits=None)
    assert plots.clipped([0.5], [9.0], (0, 1)) == ([0.5], [0.5])
    assert plots.clipped([0.5], [float("nan")], None) == ([0.0], [0.0])
    assert plots.clipped([1e-3], [1e-2], None, log=True) == ([0.0], [1e-2])  # 0 has no logarithm
    bars = plots.bars({"a": [1.0, 0.9, 0.6]}, limits=(0, 1))
    bars.figure.canvas.draw()
    cap = bars.transData.transform((0, 0))[0] + 4 * bars.figure.dpi / 72  # half of it is 4 pt wide
    assert bars.texts[0].get_window_extent().x0 > cap  # the number stands beside the whisker
    assert max(y for c in bars.collections for s in c.get_segments() for _, y in s) <= 1


def test_a_letter_beside_an_axis_stands_upright():
    """On its side an i is a dash, and an r cannot be told from a turned one."""
    figure, (left, right) = pyplot.subplots(1, 2)
    plots.finish(left, "j", "i")
    plots.finish(right, "step", "loss")
    assert (left.yaxis.label.get_rotation(), right.yaxis.label.get_rotation()) == (0, 90)
