"""What the report shows of findings."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from blocklora.core.errors import RunError
from blocklora.findings.finding import KINDS, Finding
from blocklora.metrics import evaluate
from blocklora.report import RunMetrics, metrics_from_json, metrics_json
from blocklora.report.finding_views import kind_views
from blocklora.report.page import render_report

COPIES = tuple(
    Finding(
        kind="exact-duplicate",
        images=(f"a/{n}.png", f"b/{n}.png"),
        score=1.0,
        what="the same file",
        actions=("keep", "remove"),
        labels=("a", "b"),
        parts=("test", "train"),
    )
    for n in range(9)
)
LABEL = Finding(
    kind="label",
    images=("a/1.png", "b/2.png"),
    score=0.9,
    what="labelled 'a' (3%)",
    actions=("look", "keep"),
    suggested="b",
    labels=("a", "b"),
    parts=("train", "val"),
)
MANY = Finding(
    kind="near-duplicate",
    images=tuple(f"n{i}" for i in range(7)),
    score=0.95,
    what="nearly the same",
    actions=("look",) * 7,
    labels=("a",) * 7,
    parts=("train",) * 7,
)
UNEVEN = Finding("imbalance", (), 0.9, "'a' has 40 training images, 'b' has 2")
ALL = (LABEL, *COPIES, MANY, UNEVEN)


def metrics(findings: tuple[Finding, ...]) -> RunMetrics:
    return RunMetrics(evaluate([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["a", "b"]), findings=findings)


def teal(_: str) -> Image.Image:
    return Image.new("RGB", (40, 30), "teal")


def test_metrics_json_keeps_them():
    written = json.loads(json.dumps(metrics_json(metrics(ALL))))
    assert metrics_from_json(written).findings == ALL
    assert written["findings"][0]["suggested"] == "b"


def test_a_kind_that_is_not_known_is_refused():
    written = metrics_json(metrics(ALL))
    written["findings"][0]["kind"] = "strange"
    with pytest.raises(RunError, match="strange"):
        metrics_from_json(written, "m")


def test_the_worst_of_each_kind_and_the_first_images_are_shown():
    label, copies, near, uneven = kind_views(ALL, teal, 6)
    assert [view.n for view in (label, copies, near, uneven)] == [1, 9, 1, 1]
    assert len(copies.shown) == 6
    assert copies.words is KINDS["exact-duplicate"]
    first, second = copies.shown[0].images
    assert (first.name, first.label, first.part, first.action) == ("a/0.png", "a", "test", "keep")
    assert (second.part, second.action) == ("training", "remove")
    assert [(one.label, one.part, one.action) for one in label.shown[0].images] == [
        ("a", "", ""),
        ("b", "", ""),
    ]
    assert (len(near.shown[0].images), near.shown[0].more) == (4, 3)
    assert uneven.shown[0].images == []


def test_the_report_shows_them_and_escapes_their_words():
    evil = Finding("label", ("<b>.png",), 0.9, "<script>", ("look",), None, ("<i>",), ("train",))
    page = render_report(metrics((evil, *COPIES, UNEVEN)), teal)
    section = page[page.index("What is wrong with my images?") : page.index("Made by blocklora")]
    assert "Labels that may be wrong: 1</summary>" in section
    assert "Exact copies: 9</summary>" in section
    assert "The worst 6 are shown; metrics.json has all." in section
    assert section.count("data:image/") == 1 + 2 * 6
    assert "40 training images" in section
    assert "<script>" not in section
    assert "&lt;b&gt;.png" in section


def test_an_image_that_is_gone_leaves_a_gap():
    page = render_report(metrics((LABEL,)), lambda _: None)
    assert page.count("no preview") == 2


def test_of_many_images_one_of_each_label_and_split_is_shown():
    parts = ("test",) * 6 + ("train", "test")
    labels = ("a",) * 7 + ("b",)
    leak = Finding(
        "leak", tuple(f"{n}" for n in range(8)), 1.0, "the same", ("look",) * 8, None, labels, parts
    )
    (view,) = kind_views((leak,), teal, 6)
    assert [image.name for image in view.shown[0].images] == ["0", "1", "6", "7"]
    assert view.shown[0].more == 4
