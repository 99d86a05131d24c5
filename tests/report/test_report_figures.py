from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blocklora.metrics import ClassResult, evaluate, reliability_bins
from blocklora.report.figures import learning_curve, nice_ticks, reliability_diagram
from blocklora.report.run_metrics import PartFiles
from blocklora.report.tables import (
    ConfusedPair,
    class_tables,
    confused_pairs,
    confusion_view,
    file_lists,
    thumbnail,
)


def parsed(drawing):
    """The elements of a drawing, all of whose numbers are finite and inside it."""
    root = ElementTree.fromstring(str(drawing))
    width, height = map(float, root.get("viewBox").split()[2:])
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, 0)) <= height
        for pair in element.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    return root


# ---- ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
@settings(deadline=None)
def test_ticks_are_round_even_and_enclose_the_data(low, span, n):
    high = low + span
    if high - low < 1e-9 * max(abs(low), 1.0):
        return
    ticks = nice_ticks(low, high, n)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert 2 <= len(ticks) <= n + 3
    assert np.allclose(np.diff(ticks), step, rtol=1e-3)
    assert min(abs(math.log10(step / m) % 1 - r) for m in (1, 2, 5) for r in (0, 1)) < 1e-3


def test_ticks_of_known_limits():
    assert nice_ticks(0, 2.3, 4) == [0, 1, 2, 3]
    assert nice_ticks(0, 100) == [0, 20, 40, 60, 80, 100]


# ---- learning curve


def test_learning_curve_goes_down_where_the_loss_does():
    root = parsed(learning_curve([{"step": s, "loss": 3 - s / 10} for s in range(1, 21)]))
    raw, line = (e for e in root.iter() if e.tag.endswith("polyline"))
    ys = [float(pair.split(",")[1]) for pair in raw.get("points").split()]
    assert ys == sorted(ys)
    assert len(ys) == len(line.get("points").split()) == 20
    assert root.get("aria-label") == "Training loss, from 2.85 at step 1 to 1.05 at step 20."


def test_a_long_history_is_averaged_to_few_points_with_the_same_mean():
    losses = np.random.default_rng(0).random(3000)
    root = parsed(learning_curve([{"step": s, "loss": float(x)} for s, x in enumerate(losses)]))
    raw = next(e for e in root.iter() if e.tag.endswith("polyline"))
    assert len(raw.get("points").split()) == 300


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "loss": 1.0}],
        [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}, {"step": 3}],
    ],
)
def test_no_curve_of_fewer_than_two_points(history):
    assert learning_curve(history) is None


@pytest.mark.parametrize("losses", [[0.0, 0.0], [1e-9, 2e-9], [5.0, 1e6], [-1.0, 2.0], [3.0, 3.0]])
def test_curves_of_odd_losses_stay_in_the_drawing(losses):
    parsed(learning_curve([{"step": s, "loss": loss} for s, loss in enumerate(losses)]))


# ---- reliability


@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 20))
@settings(deadline=None)
def test_every_filled_bin_has_a_bar_as_high_as_its_accuracy(seed, n, n_bins):
    rng = np.random.default_rng(seed)
    bins = reliability_bins(rng.dirichlet([0.5, 0.5, 0.5], n), rng.integers(0, 3, n), n_bins)
    root = parsed(reliability_diagram(bins))
    heights = [float(e.get("height")) for e in root.iter() if e.get("class") == "bin"]
    assert heights == pytest.approx([268 * a for a in bins.accuracy if a is not None], abs=0.051)
    amounts = [float(e.get("height")) for e in root.iter() if e.get("class") == "amount"]
    assert max(amounts) == 40
    assert len(amounts) == sum(count > 0 for count in bins.counts)


# ---- tables


def rows(*accuracies):
    return [ClassResult(f"c{i}", 0, 0, accuracy, None, None, None) for i, accuracy in enumerate(accuracies)]


def evaluation(matrix):
    """What test images say whose confusion matrix is known."""
    places = [(i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) for _ in range(n)]
    names = [chr(ord("a") + i) for i in range(len(matrix))]
    return evaluate(np.eye(len(matrix))[[j for _, j in places]], [i for i, _ in places], names)


def test_few_classes_are_one_table_with_the_worst_first_and_the_untested_last():
    (table,) = class_tables(rows(0.5, None, 0.1, 1.0))
    assert [row.class_name for row in table.rows] == ["c2", "c0", "c3", "c1"]


def test_many_classes_open_with_the_worst_and_fold_all_away():
    worst, everything = class_tables(rows(*np.linspace(1, 0, 61)))
    assert [row.class_name for row in worst.rows] == [f"c{i}" for i in range(60, 10, -1)]
    assert everything.title == "All 61 classes"
    assert [row.class_name for row in everything.rows] == [f"c{i}" for i in range(61)]


def test_of_very_many_classes_only_the_worst_are_listed():
    worst, listed = class_tables(rows(*np.linspace(1, 0, 6000)))
    assert len(worst.rows) == 50
    assert listed.title == "5,000 of 6,000 classes, the lowest recall first; metrics.json has all"
    assert [row.class_name for row in listed.rows] == [f"c{i}" for i in range(5999, 999, -1)]


def test_pairs_are_sorted_and_leave_correct_predictions_out():
    pairs = confused_pairs(evaluation([[9, 1, 0], [3, 2, 0], [0, 2, 0]]))
    assert pairs == [
        ConfusedPair("b", "a", 3, 5),
        ConfusedPair("c", "b", 2, 2),
        ConfusedPair("a", "b", 1, 10),
    ]
    assert confused_pairs(evaluation([[4, 0], [0, 4]])) == []
    assert len(confused_pairs(evaluation(np.ones((9, 9), int).tolist()))) == 15


def test_cells_hold_counts_and_shares_of_their_row():
    view = confusion_view(evaluation([[3, 1], [0, 0]]))
    assert view.rows == [("a", [(3, 0.75), (1, 0.25)]), ("b", [(0, 0), (0, 0)])]


def test_parts_of_the_files():
    parts = {"test": PartFiles(3), "train": PartFiles.of(["x"] * 501)}
    train, test = file_lists(parts, {"x": "shown"})
    assert (train.title, train.names, train.more) == ("train: 501 images", ["shown"] * 500, 1)
    assert (test.title, test.names, test.more) == ("test: 3 images", [], 3)


# ---- thumbnails


@pytest.mark.parametrize(
    ("size", "shown", "kind"),
    [
        ((400, 300), (160, 120), "jpeg"),
        ((100, 400), (40, 160), "jpeg"),
        ((8, 8), (160, 160), "png"),
        ((80, 20), (160, 40), "png"),
        ((81, 20), (81, 20), "jpeg"),
    ],
)
def test_thumbnails_are_small_or_magnified(size, shown, kind):
    original = Image.new("RGBA", size, "red")
    found = thumbnail("x", lambda _: original)
    assert (found.width, found.height) == shown
    assert re.match(rf"data:image/{kind};base64,[\w+/]+=*$", found.address)
    assert found.tiny == (kind == "png")
    assert original.size == size
