from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blocklora.core.choices import Choice
from blocklora.core.errors import ImageError, RunError
from blocklora.data.types import Unreadable
from blocklora.metrics import confusion_matrix, evaluate
from blocklora.report import (
    ConfusedPair,
    Mistake,
    PartFiles,
    RunMetrics,
    metrics_from_json,
    metrics_json,
    write_report,
)
from blocklora.report.page import render_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "\"><script>alert(1)</script>{{ 7 * 7 }}&amp;<img src=http://evil.example/x onerror=alert(2)>'"


def measured(n_classes=3, n_test=60, names=None, zero_shot=True, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n_test)
    logits = rng.normal(size=(n_test, n_classes)) * 2
    logits[np.arange(n_test), labels] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    before = rng.integers(0, n_classes, n_test) if zero_shot else None
    names = names or [f"class {i}" for i in range(n_classes)]
    return RunMetrics(evaluate(probabilities, labels, names, before))


def known(metrics, **changes):
    """Everything a run knows, with class names from the metrics."""
    names = [row.class_name for row in metrics.evaluation.per_class]
    top = ((names[1], 0.91), (names[0], 0.08), (names[-1], 0.01))
    facts = {
        "method": "block-lora",
        "model": "openai/clip-vit-base-patch16",
        "dataset": "my photos",
        "prompt": "a photo of a {}.",
        "shots": 16,
        "seed": 7,
        "n_train": 48,
        "n_val": 12,
        "trainable_parameters": 138_240,
        "total_parameters": 149_620_737,
        "train_seconds": 192.3,
        "peak_memory_bytes": 431_000_000,
        "device": "cuda",
        "precision": "bf16",
        "temperature": 1.234,
        "choices": {
            "kept step": Choice("last", "fixed", "the published recipe of CLIP-LoRA"),
            "temperature": Choice(1.234, "validation", n_images=12),
        },
        "notes": ("a note on the split",),
        "unreadable": tuple(Unreadable(f"bad/{i}.jpg", f"reason {i}") for i in range(12)),
        "history": tuple({"step": i, "loss": 3.0 / i, "lr": 2e-4} for i in range(1, 41)),
        "mistakes": tuple(Mistake(f"cat/{i}.jpg", names[0], names[1], top) for i in range(12)),
        "confused": (ConfusedPair(names[0], names[1], 3, 9),),
        "files": {
            "train": PartFiles.of(["cat/0.jpg"]),
            "val": PartFiles(12),
            "test": PartFiles.of([f"t/{i}.jpg" for i in range(600)]),
        },
        "versions": {"blocklora": "0.1.0", "torch": "2.13.0"},
        "created": "2026-01-02T03:04:05+00:00",
    }
    return replace(metrics, **facts | changes)


def photo(_):
    return Image.new("RGB", (400, 300), "teal")


def no_photo(_):
    return None


class Page(HTMLParser):
    """Text, tags and attributes of a page; tags left open are an error."""

    VOID = frozenset({"meta", "img", "link", "br", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


# ---- what is shown


def test_numbers_of_the_run_appear():
    metrics = known(measured())
    page = Page(render_report(metrics, photo))
    for words in (
        f"my photos: {100 * metrics.evaluation.accuracy:.1f}% accuracy",
        f"{100 * metrics.evaluation.zero_shot_accuracy:.1f}%",
        "openai/clip-vit-base-patch16 was adapted with block-lora to the 3 classes of my photos, on 48 images "
        "(up to 16 a class, seed 7, 12 more for validation), then tested on 60 images.",
        "Better than zero-shot by",
        "a note on the split",
        "12 files could not be read and were left out:",
        "2 more",
        "138,240 (0.092% of 149,620,737)",
        "3 min 12 s",
        "411 MiB",
        "bf16",
        "1.23 (logits are divided by it)",
        f"{metrics.evaluation.nll:.3f} nats an image",
        "the published recipe of CLIP-LoRA kept step last",
        "temperature 1.234: fitted to 12 validation images",
        "train: 1 image",
        "val: 12 images",
        "and 100 more, all listed in split.json",
        "Made by blocklora on 2026-01-02 03:04:05 UTC. With blocklora 0.1.0, torch 2.13.0.",
        "Newcombe",
        "Learning rate from 0.0002 to 0.0002.",
        "class 0 taken for class 1",
        "91%",
    ):
        assert words.replace(" ", "") in page.text.replace(" ", ""), words
    assert page.tags.count("svg") == 2
    assert page.tags.count("img") == 12


def test_every_class_has_its_row_and_the_confusion_its_cells():
    metrics = measured(4, 200, names=["ant", "bee", "cow", "dog"])
    text = render_report(metrics, no_photo)
    rows = re.findall(r'<tr><th scope="row">(\w+)</th><td class="num">([\d.]+)%', text)
    shown = {name: float(share) for name, share in rows}
    for row in metrics.evaluation.per_class:
        assert shown[row.class_name] == pytest.approx(100 * row.accuracy, abs=0.051)
    assert list(shown.values()) == sorted(shown.values())  # the worst first
    matrix = text[text.index('class="matrix') :]
    cells = re.findall(r"<td[^>]*>(\d+|·)</td>", matrix[: matrix.index("</table>")])
    assert [int(cell.replace("·", "0")) for cell in cells] == np.ravel(
        confusion_matrix(metrics.evaluation.confusion_counts, 4)
    ).tolist()


def test_with_an_evaluation_alone_the_page_is_whole():
    page = Page(render_report(measured(), photo))
    assert "Test:" in page.text
    assert "The model was adapted to 3 classes, then tested on 60 images." in page.text
    assert page.tags.count("svg") == 1
    assert "img" not in page.tags
    for heading in ("most confident mistakes", "How it learned", "chosen", "files"):
        assert heading not in page.text
    assert "Nothing was noticed." in page.text


def test_short_names_stand_upright_over_the_matrix():
    assert 'class="matrix upright"' in render_report(measured(names=["a", "bcd", "9"]), photo)
    assert 'class="matrix"' in render_report(measured(names=["a", "bcde", "9"]), photo)


def test_the_questions_come_in_a_persons_order():
    text = render_report(known(measured()), photo)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "How good is it?",
        "Where does it fail?",
        "Can I trust its confidence?",
        "What is wrong with my images?",
        "What should I do next?",
        "How was it made?",
    ]


def test_confused_classes_are_shown_beside_their_training_images():
    pair = ConfusedPair("class 0", "class 1", 3, 9, ("t/1", "t/2"), ("a/1",), ("b/1", "gone"))
    bare = ConfusedPair("class 2", "class 1", 1, 9, ("gone",), ("a/1",))
    asked = []

    def photo_unless_gone(image):
        asked.append(image)
        return None if image == "gone" else photo(image)

    text = render_report(known(measured(), confused=(pair, bare), mistakes=()), photo_unless_gone)
    page = Page(text)
    assert page.tags.count("img") == 4
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == [
        "Test: class 0, taken for class 1",
        "Training: class 0",
        "Training: class 1",
    ]
    assert "class 0 taken for class 1: 3 of 9 images" in page.text
    assert "class 2 taken for" not in page.text  # none of its images can be had
    assert asked[:5] == ["t/1", "t/2", "a/1", "b/1", "gone"]


OPTIONAL = [field.name for field in fields(RunMetrics) if field.name != "evaluation"]


@pytest.mark.parametrize("name", OPTIONAL)
def test_whatever_is_not_known_is_left_out(name):
    least = getattr(RunMetrics(measured().evaluation), name)
    Page(render_report(replace(known(measured()), **{name: least}), photo))


def test_facts_inside_may_be_unknown():
    metrics = known(
        measured(),
        history=tuple({"step": i, "loss": 1.0 / i} for i in range(1, 5)),
        mistakes=(Mistake("x", "a", "b"),),
    )
    page = Page(render_report(metrics, photo))
    assert "Learning rate" not in page.text


def test_a_class_without_a_test_image_is_named_beside_the_headline():
    metrics = RunMetrics(evaluate([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], [0, 1], ["ant", "bee", "owl"], [0, 0]))
    text = render_report(metrics, no_photo)
    headline = text[text.index('class="headline"') : text.index("</section>")]
    note = "1 of 3 classes has no test image: owl. The accuracy says nothing about it."
    assert note in headline
    assert text.count(note) == 1


def test_warnings_stand_before_the_notes():
    flat = tuple({"step": i, "loss": 1.6, "lr": 0.1} for i in range(10))
    found = measured()
    same = replace(found.evaluation.difference, value=0.0, interval=(-0.1, 0.1), p_value=1.0)
    found = known(
        replace(found, evaluation=replace(found.evaluation, difference=same, ece=0.5)), history=flat
    )
    page = Page(render_report(found, no_photo))
    places = [
        page.text.index(words)
        for words in ("stayed flat", "no clear gain", "mean little", "a note on the split")
    ]
    assert places == sorted(places)


def test_the_page_does_not_tell_where_the_images_lie():
    metrics = known(
        measured(),
        model="/home/me/models/clip",
        files={
            "train": PartFiles.of(["/home/me/data/cat/1.jpg"]),
            "test": PartFiles.of(["/home/me/data/cat/2.jpg"]),
        },
        mistakes=(Mistake("/home/me/data/dog/2.jpg", "a", "b"),),
        unreadable=(Unreadable("/home/me/data/dog/3.jpg", "/home/me/data/dog/3.jpg: cut short"),),
    )
    asked = []
    text = render_report(metrics, lambda image: asked.append(image))
    assert "/home/me" not in text
    assert all(
        name in text for name in ("cat/1.jpg", "dog/2.jpg", "dog/3.jpg: cut short", "clip was adapted")
    )
    assert asked == ["/home/me/data/dog/2.jpg"]


def test_a_class_absent_from_the_test_is_a_dash_and_comes_last():
    metrics = RunMetrics(evaluate([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], [0, 1], ["ant", "bee", "owl"], [0, 0]))
    text = render_report(metrics, no_photo)
    Page(text)
    row = re.search(r'<tr><th scope="row">owl</th>.*', text).group()
    assert row.count(">–<") == 4
    assert text.index(">owl</th>") > text.index(">bee</th>")


def test_no_mistake_is_said_so():
    page = Page(render_report(RunMetrics(evaluate(np.eye(2), [0, 1], ["a", "b"])), photo))
    assert "No class was taken for another." in page.text
    assert "100.0%" in page.text
    assert "Zero-shot" not in page.text


def test_zero_shot_is_not_called_adapted():
    page = Page(render_report(known(measured(), method="zero-shot", n_train=0), photo))
    assert "openai/clip-vit-base-patch16 was tested on 60 images of the 3 classes of my photos" in page.text
    assert "was adapted" not in page.text
    assert not [
        value for name, value in page.attributes if name == "style" and "--z" in value
    ]  # no mark on the bars
    assert page.tags.count("svg") == 2
    assert (
        page.text.count("95% interval") == page.text.count("with the 95% interval") + 2
    )  # one score, one column
    assert "Adapted" not in page.text


# ---- safe, whole, self-contained


def test_hostile_names_are_only_text():
    names = [EVIL, "b", "c"]
    metrics = known(
        measured(names=names),
        dataset=EVIL,
        model=EVIL,
        prompt=EVIL,
        created=EVIL,
        notes=(EVIL,),
        choices={EVIL: Choice(EVIL, "fixed", EVIL), "x": Choice(EVIL, "validation", EVIL, 3)},
        old_selection={EVIL: EVIL},
        versions={EVIL: EVIL},
        files={"train": PartFiles.of([EVIL])},
        method=EVIL,
        unreadable=(Unreadable(EVIL, EVIL),),
        mistakes=(Mistake(EVIL, EVIL, EVIL, ((EVIL, 0.5),)),),
    )
    for image in (photo, no_photo):
        text = render_report(metrics, image)
        page = Page(text)
        assert page.tags.count("script") == 1
        assert page.tags.count("img") == (1 if image is photo else 0)
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert page.text.count("{{ 7 * 7 }}") > 10
        assert "49&" not in text
        assert html.escape(EVIL, quote=False).split("{{")[0].lstrip('"') in text.replace("&#34;", '"')


def test_nothing_is_loaded_from_elsewhere():
    for metrics in (known(measured()), known(measured(60, 600))):
        text = render_report(metrics, photo)
        page = Page(text)
        loads = {"src", "href", "action", "data", "poster", "srcset", "background", "xlink:href"}
        addresses = [value for name, value in page.attributes if name in loads]
        assert addresses
        elsewhere = {value for value in addresses if not value.startswith("data:image/")}
        assert elsewhere == {"confusion.csv", "predictions.csv"}  # links to what stands beside it
        assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
        assert not re.search(r"url\(|@import|https?:", text)
        assert "default-src 'none'" in text


def test_a_thousand_classes_stay_small():
    names = [f"a class with quite a long name, number {i}" for i in range(1000)]
    files = {
        "train": PartFiles.of([f"train/{name}/1.jpg" for name in names] * 16),
        "test": PartFiles.of([f"{i}.jpg" for i in range(5000)]),
    }
    metrics = known(measured(1000, 5000, names), files=files)
    text = render_report(metrics, photo)
    assert len(text.encode()) < 3e6
    page = Page(text)
    assert "All 1,000 classes" in page.text
    assert 'class="matrix"' not in text
    assert all(text.count(f"{name}</th>") >= 1 for name in names)


def test_the_file_is_written_whole(tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    write_report(known(measured()), out, photo)
    first = out.read_bytes()
    assert first.startswith(b"<!DOCTYPE html>")
    assert first.rstrip().endswith(b"</html>")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(known(measured(seed=1)), out, photo)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert out.read_bytes() == first


def test_the_same_metrics_give_the_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        facts = json.loads(json.dumps(metrics_json(known(measured()))))
        write_report(metrics_from_json(facts), tmp_path / name, photo)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_folder_in_the_way_is_named(tmp_path):
    with pytest.raises(RunError, match="is a folder; expected the name of the report file, such as"):
        write_report(measured(), tmp_path, photo)


def test_a_path_of_any_bytes_can_be_reported(tmp_path):
    write_report(known(measured(), notes=("a \udcff b",)), tmp_path / "r.html", photo)
    assert "a ? b" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_images_that_cannot_be_had_leave_a_place():
    def broken(image):
        if image == "cat/0.jpg":
            raise ImageError("damaged")
        if image == "cat/1.jpg":
            raise OSError("gone")
        return photo(image) if image == "cat/2.jpg" else None

    page = Page(render_report(known(measured()), broken))
    assert page.tags.count("img") == 1
    assert page.text.count("image not available") == 11


def test_the_script_is_the_one_the_page_allows():
    text = render_report(measured(), photo)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL).group(1)
    encode, digest = base64.b64encode, hashlib.sha256
    assert f"script-src 'sha256-{encode(digest(script.encode()).digest()).decode()}'" in text


# ---- in a browser

MEASURE = """<!DOCTYPE html><body style="margin:0"><iframe src="report.html" style="width:360px;height:900px;border:0"
onload="const d = this.contentDocument, r = d.documentElement, t = d.querySelectorAll('table.sortable')[0];
const first = () => t.tBodies[0].rows[0].cells[0].textContent;
const head = t.querySelectorAll('thead th')[0], before = first();
head.querySelector('button').click(); head.querySelector('button').click();
const find = d.querySelector('input.find'); find.value = 'ZEB'; find.dispatchEvent(new Event('input'));
const left = [...t.tBodies[0].rows].filter(row => !row.hidden).length;
document.title = [left, r.scrollWidth, r.clientWidth, before, first(), head.getAttribute('aria-sort')].join('|')">
</iframe></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_a_phone_shows_the_page_without_sideways_scrolling_and_the_table_sorts(tmp_path):
    names = [
        "aardvark",
        "Extraordinarily" * 8,
        *(f"a class with a long name {i}" for i in range(38)),
        "zebra",
    ]
    bad = (Unreadable("x" * 300 + ".jpg", "y" * 300),)
    metrics = known(measured(41, 800, names), unreadable=bad, prompt="z" * 200)
    write_report(metrics, tmp_path / "report.html", photo)
    (tmp_path / "wrapper.html").write_text(MEASURE, encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --allow-file-access-from-files --virtual-time-budget=4000 --dump-dom"
    ).split()
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    wrapper = Path(tmp_path / "wrapper.html").as_uri()
    done = subprocess.run(
        [BROWSER, *flags, profile, wrapper], capture_output=True, text=True, timeout=120, check=True
    )
    left, wide, room, before, after, order = (
        re.search(r"<title>(.*)</title>", done.stdout).group(1).split("|")
    )
    assert 300 < int(room) <= 360  # a scroll bar down the side may take some
    assert wide == room
    assert before != after
    assert (after, order) == ("zebra", "descending")
    assert left == "1"  # the search leaves the zebra
