"""Figures show the numbers they are given; files are written, and twice the same bytes."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from modalign.errors import InputError
from modalign.evaluation.contributions import Example, Extremes
from modalign.evaluation.metrics import calibration
from modalign.reporting import diagnosis, figures
from modalign.reporting.artifacts import draw_run
from modalign.reporting.diagnosis import example_grid
from modalign.reporting.figures import tradeoff_figures, write_figures
from modalign.reporting.runs import compare, read_runs
from modalign.reporting.style import (
    COLORS,
    INK,
    MODALITIES,
    OTHER,
    OURS,
    canvas,
    inline_svg,
    modality_look,
    save,
    series_look,
)


def test_comparison_shows_means_and_intervals(bench: Path) -> None:
    rows = compare(read_runs(bench))
    figure = figures.comparison(rows).figure
    digits = [row for row in rows if row.dataset == "digits"]
    axis = figure.axes[0]
    assert axis.get_title("left") == "digits"
    assert [t.get_text() for t in axis.get_yticklabels()] == [row.title for row in digits]
    segments, points = axis.lines[::2], axis.lines[1::2]
    for row, segment, point in zip(digits, segments, points, strict=True):
        assert point.get_xdata()[0] == pytest.approx(100 * row.mean)
        assert list(segment.get_xdata()) == pytest.approx([100 * row.ci_low, 100 * row.ci_high])


def test_curves_are_means_over_seeds(bench: Path) -> None:
    runs = [run for run in read_runs(bench) if run.dataset == "digits" and run.strategy == "joint"]
    figure = figures.training_curves(runs, "accuracy")
    drawn = figure.axes[1].lines[0].get_ydata()
    expected = np.mean([[100 * e["valid"]["accuracy"] for e in run.epochs] for run in runs], axis=0)
    assert drawn == pytest.approx(expected)


def test_tradeoff_and_its_file(tmp_path: Path) -> None:
    points = [
        {
            "alpha": alpha,
            "margin": margin,
            "seed": seed,
            "fusibility": alpha + seed,
            "complementarity": 1 - alpha / 10,
            "accuracy": 0.7,
        }
        for alpha in (0.0, 0.1, 1.0)
        for margin in (True, False)
        for seed in (0, 1)
    ]
    path = tmp_path / "tradeoff.json"
    path.write_text(json.dumps({"default": 0.1, "points": points}))
    sweep, plane = tradeoff_figures(path)
    assert [sweep.name, plane.name] == ["tradeoff", "tradeoff_plane"]
    line = sweep.figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 0.1, 1]
    assert list(line.get_ydata()) == pytest.approx([0.5, 0.6, 1.5])
    assert list(plane.figure.axes[0].lines[0].get_xdata()) == pytest.approx([0.5, 0.6, 1.5])
    content = {"default": 0.1, "points": points, "failed": ["alpha9 seed 0: diverged"]}
    path.write_text(json.dumps(content))
    assert "as training diverged: 1 run." in tradeoff_figures(path)[0].note
    path.write_text("{}")
    with pytest.raises(InputError, match="points"):
        tradeoff_figures(path)


def test_context_confidence_is_sorted_by_difference() -> None:
    interval = lambda mean: {"mean": mean, "low": mean, "high": mean}  # noqa: E731
    entry = {
        "contexts": ["wind", "paint", "horn"],
        "count": [3, 4, 5],
        "by_modality": {"audio": [interval(v) for v in (0.9, 0.2, None)], "video": [interval(0.5)] * 3},
    }
    found = {"confidence": {"class": entry}, "heads": {}}
    axis = diagnosis.context_confidence(found).figure.axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["paint (4)", "horn (5)", "wind (3)"]
    assert axis.lines[0].get_xdata() == pytest.approx([20, np.nan, 90], nan_ok=True)
    assert len(diagnosis.context_confidence(found, limit=2).figure.axes[0].get_yticklabels()) == 2


def test_small_figures_draw_what_they_get() -> None:
    values = {"a": {"mean": 0.1, "low": 0.05, "high": 0.15}, "b": {"mean": -0.02, "low": None, "high": None}}
    found = {"metric": "accuracy", "shapley": {"values": values}, "subsets": [], "units": 9, "samples": 9}
    bars = diagnosis.shapley_bars(found).figure
    assert [patch.get_width() for patch in bars.axes[0].patches] == pytest.approx([10, -2])
    p = np.array([[0.6, 0.4], [0.2, 0.8]]).repeat(6, 0)
    curve = figures.reliability({"fused": calibration(p, np.zeros(12, int), bins=2)}, "", "").figure
    assert curve.axes[0].lines[1].get_xdata() == pytest.approx([70])
    sparse = figures.reliability({"fused": calibration(p[:3], np.zeros(3, int), bins=2)}, "", "").figure
    assert len(sparse.axes[0].lines[1].get_xdata()) == 0
    assert sparse.axes[0].lines[2].get_xdata() == pytest.approx([60])
    matrix = figures.confusion(np.array([[3, 1], [0, 2]]), ["x", "y"])
    assert [text.get_text() for text in matrix.axes[0].texts] == ["3", "1", "2"]
    assert list(matrix.axes[0].images[0].get_array()[0]) == pytest.approx([75, 25])
    assert set(figures.SHADES(0.0)[:3]) == set(figures.SHADES(1.0)[:3])  # one blue on the page's own ground
    assert (figures.SHADES(0.0)[3], figures.SHADES(1.0)[3]) == (0, 1)


def test_what_a_search_tried_is_drawn_for_each_setting_that_varied() -> None:
    trials = [
        {"state": "complete", "value": 0.3, "lr": 0.001, "alpha": 1.0, "hard": True, "same": 2},
        {"state": "complete", "value": 0.2, "lr": 0.1, "alpha": 2.0, "hard": False, "same": 2},
        {"state": "pruned", "value": 0.9, "lr": 0.01, "alpha": 3.0, "hard": False, "same": 2},
        {"state": "fail", "value": None, "lr": 0.02, "alpha": 3.0, "hard": False, "same": 2},
    ]
    chosen = {"lr": 0.1, "options": {"alpha": 2.0, "hard": False}}
    drawn = figures.search_figure([{"row": "mine", "chosen": chosen, "trials": trials}], "mine")
    assert drawn is not None
    lr, alpha, hard = drawn.figure.axes
    assert [axis.get_xlabel() for axis in (lr, alpha, hard)] == ["learning rate", "alpha", "hard"]
    assert lr.get_xscale() == "log"
    assert [line.get_xdata().tolist() for line in lr.lines[:2]] == [[0.001, 0.1], [0.01]]
    assert lr.lines[2].get_xdata() == [0.1, 0.1]
    assert [label.get_text() for label in hard.get_xticklabels()] == ["False", "True"]
    assert hard.lines[2].get_xdata() == [0, 0]
    assert figures.search_figure([{"row": "mine", "chosen": chosen, "trials": trials}], "other") is None
    drawn.figure.canvas.draw()
    assert not any("$" in label.get_text() for label in lr.get_xticklabels())


def test_series_differ_in_dashes_where_their_colors_are_both_blue() -> None:
    blues = [i for i, color in enumerate(COLORS) if color in ("#0072B2", "#56B4E9")]
    assert len({series_look(i)["linestyle"] for i in blues}) == 2
    assert len({modality_look(i)["linestyle"] for i in range(3)}) == 3


def test_a_modality_looks_alike_in_every_figure() -> None:
    point = {"mean": 0.5, "low": 0.4, "high": 0.6}
    entry = {"shares": [0, 1], "curves": {n: [point] * 2 for n in ("any", "a", "b")}}
    found = {"metric": "accuracy", "missing": entry, "units": 9, "samples": 9}
    missing = diagnosis.missing_modalities(found).figure
    curves = dict.fromkeys(("fused", "a", "b"), calibration(np.full((12, 2), 0.5), np.zeros(12, int)))
    drawn = {line.get_label().split(":")[0]: line for line in figures.reliability(curves, "", "").figure.axes[0].lines}
    for line in missing.axes[0].lines:
        if line.get_label() != "any one":
            assert line.get_color() == drawn[line.get_label()].get_color()


def test_no_modality_looks_like_a_method() -> None:
    assert not {OURS, OTHER} & set(MODALITIES[:4])
    amount = {"value": 0.5, "stderr": 0.1, "trusted": True}
    pair = {"modalities": ["a", "b"], "shared": amount, "shared_given_target": amount | {"trusted": False}}
    entry = {"samples": 9, "pairs": [pair], "target": {"a": amount, "b": amount}, "unique": {"a": amount, "b": amount}}
    shared, doubted, *single = diagnosis.information_bars(entry).figure.axes[0].patches
    assert doubted.get_hatch()
    assert not shared.get_hatch()
    assert [to_hex(bar.get_facecolor()).upper() for bar in single] == [*MODALITIES[:2], *MODALITIES[:2]]


def test_clips_and_sequences_have_contrast() -> None:
    sound = np.ones((50, 8))
    sound[:, 0] = np.arange(50)
    sound[3, 4] = 1e6
    clip = np.arange(9.0)[:, None, None, None] * np.ones((9, 1, 2, 3))
    figure = example_grid({"": [Example("sample 1", {"s": sound, "c": clip}, {})]}, {"s": "sequence", "c": "clip"})
    assert figure.axes[0].images[0].get_clim()[1] < 100
    assert figure.axes[1].images[0].get_array().shape == (4, 12)  # eight frames in two lines


def test_a_wide_range_of_losses_is_logarithmic(bench: Path) -> None:
    (run,) = [r for r in read_runs(bench) if (r.dataset, r.strategy, r.seed) == ("digits", "joint", 0)]
    assert figures.training_curves([run]).axes[0].get_yscale() == "linear"
    run.epochs[0]["train"]["task"] = 100.0
    assert figures.training_curves([run]).axes[0].get_yscale() == "log"


def test_cost_is_relative_to_joint_training(bench: Path) -> None:
    rows = [row for row in compare(read_runs(bench)) if row.dataset == "digits"]
    for row, seconds in zip(rows, (2.0, 1.0, 3.0, 6.0), strict=True):
        row.seconds_per_epoch = seconds
    labels = [text.get_text() for text in figures.cost(rows).figure.axes[0].texts]
    assert dict(zip([row.strategy for row in rows], labels, strict=True))["modalign"] == "3×"
    assert labels[0] == "1×"


def test_what_the_method_did_is_drawn_by_epoch(bench: Path) -> None:
    runs = [run for run in read_runs(bench) if run.strategy == "modalign" and run.dataset == "digits"]
    for run in runs:
        for line in run.epochs:
            line["log"]["margin_a"] = 0.5
    figure = figures.alignment(runs).figure
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(runs[0].epochs[0]["log"]["weight_joint"])
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([50] * 12)


def test_examples_show_every_kind() -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "sound": rng.normal(size=(20, 8)),
        "photo": rng.random((3, 6, 6)),
        "lips": rng.random((7, 1, 5, 4)),
        "genes": rng.normal(size=12),
        "words": "a few words " * 40,
    }
    kinds = dict(zip(inputs, ("sequence", "image", "clip", "vector", "text"), strict=True))
    whole = Example("sample 1", inputs, {"sound": "“a”, 93 %"})
    partial = Example("sample 2", {"words": "short"}, {})
    figure = example_grid({"sound sure": [whole], "words sure": [partial]}, kinds)
    assert len(figure.axes) == 10
    assert figure.axes[2].images[0].get_array().shape == (5, 16)  # four frames of seven, in a line
    assert figure.axes[0].get_xlabel() == "sound: “a”, 93 %"
    assert figure.axes[5].texts[0].get_text() == "missing"
    with pytest.raises(InputError, match="did you mean 'image'"):
        example_grid({"": [whole]}, {"photo": "imag"})


@pytest.mark.slow
def test_files_are_written_and_reproduce(bench: Path, tmp_path: Path) -> None:
    runs = [run for run in read_runs(bench) if run.dataset == "digits"]
    written = write_figures(runs[:2], tmp_path / "a")
    names = ("comparison", "curves", "confusion", "reliability")
    assert {p.name for p in written} == {f"digits_{n}.{kind}" for n in names for kind in ("svg", "png", "pdf")}
    rows = compare(runs)
    first = figures.write_comparison(runs, tmp_path / "one")
    second = save(figures.comparison(rows).figure, tmp_path / "two")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert figures.write_comparison([], tmp_path / "none") == []


def test_curves_of_one_run_show_its_losses_its_metric_and_its_log(bench: Path) -> None:
    path = bench / "runs/digits/modalign/seed0"
    loss, valid, log = figures.training_curves(path).axes
    assert [line.get_label() for line in loss.lines] == ["task", "contrast"]
    (run,) = read_runs(path)
    assert valid.lines[0].get_ydata() == pytest.approx([100 * line["valid"]["accuracy"] for line in run.epochs])
    assert valid.lines[1].get_xdata() == [11, 11]  # the selected epoch, counted from one
    assert log.lines[0].get_ydata() == pytest.approx([line["log"]["weight_joint"] for line in run.epochs])
    for line in run.epochs:
        del line["log"]
    assert len(figures.training_curves(run).axes) == 2


def test_a_figure_on_a_page_follows_its_ground_and_keeps_its_identifiers_to_itself() -> None:
    with canvas(3, 2) as (figure, (axis,)):
        axis.plot([1, 2], color=INK)
        axis.plot([2, 1], color=OTHER)
        axis.plot([1, 1], color=OURS)
        axis.set_title("costs $5 or $6_x")  # no formula
    text = inline_svg(figure, 'a "quoted" <alt>', "p1-")
    assert INK not in text
    assert OTHER.lower() not in text
    assert {f"stroke: {tone}" for tone in ("var(--ink)", "var(--blue)", OURS.lower())} <= set(
        re.findall(r"stroke: [^;\"]+", text)
    )
    assert set(re.findall(r'(?:id="|url\(#|href="#)(.{3})', text)) == {"p1-"}
    assert 'aria-label="a &quot;quoted&quot; &lt;alt&gt;"' in text
    assert "<style" not in text
    assert "costs $5 or $6_x</text>" in text  # letters are text, in the page's own font
    assert "var(--font)" in text
    assert not re.search(r' d="[^"]*\d\.\d{3}', text)


def test_pictures_on_a_page_are_small_and_lose_nothing_of_few_colors() -> None:
    values = np.arange(64.0).reshape(8, 8)
    with canvas(2, 2) as (figure, (axis,)):
        axis.imshow(values, cmap="gray", interpolation="none")
    found = re.search(r'href="data:image/(\w+);base64,([^"]*)"', inline_svg(figure, "a picture", "p-"))
    assert found is not None
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[2]))).convert("L"))
    assert picture.shape == (8, 8)
    assert picture == pytest.approx(values / 63 * 255, abs=1)


def test_samples_of_an_evaluation_are_kept_as_small_as_they_are_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "sound": rng.normal(size=(500, 8)), "photo": rng.random((3, 300, 200)), "lips": rng.random((40, 1, 5, 4)),
        "genes": rng.normal(size=12), "words": "a few words",
    }  # fmt: skip
    kinds = dict(zip(inputs, ("sequence", "image", "clip", "vector", "text"), strict=True))
    kept = Extremes({"sound sure": [Example("sample 1", inputs, {"sound": "says a"})]}, kinds)
    again = Extremes.load(kept.save(tmp_path / "examples.npz"))
    assert (again.kinds, [*again.groups]) == (kinds, ["sound sure"])
    (one,) = again.groups["sound sure"]
    assert (one.title, one.notes) == ("sample 1", {"sound": "says a"})
    shapes = {m: value.shape for m, value in one.inputs.items() if not isinstance(value, str)}
    assert shapes == {"sound": (125, 8), "photo": (3, 100, 67), "lips": (8, 1, 5, 4), "genes": (12,)}
    assert one.inputs["words"] == "a few words"
    assert one.inputs["genes"] == pytest.approx(inputs["genes"])
    low, high = inputs["lips"].min(), inputs["lips"].max()
    assert one.inputs["lips"][0] / 255 == pytest.approx((inputs["lips"][0] - low) / (high - low), abs=0.05)
    np.savez(tmp_path / "other.npz", about=np.array("[1]"))
    with pytest.raises(InputError, match="holds no samples of an evaluation"):
        Extremes.load(tmp_path / "other.npz")


def test_a_tracker_is_given_tables_and_figures_of_a_run(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    draw_run(make_run(tmp_path / "run"), tmp_path / "drawn")
    written = {path.relative_to(tmp_path / "drawn").as_posix() for path in (tmp_path / "drawn").rglob("*.*")}
    figures = ("curves", "alignment", "confusion", "reliability")
    assert written == {f"figures/{name}.png" for name in figures} | {
        f"tables/table.{kind}" for kind in ("csv", "md", "tex")
    }
