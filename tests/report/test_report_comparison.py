"""The page that shows runs side by side: what it says, that it needs nothing else, and that a phone can show it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from blocklora.core.errors import RunError
from blocklora.metrics import PairedAnswers, holm, wilson_interval
from blocklora.report import (
    ComparedPair,
    ComparedRun,
    Comparison,
    DisputedImage,
    compared_sentence,
    pair_verdict,
    run_words,
    shown_images,
    write_comparison,
)
from blocklora.report.comparison_page import render_comparison

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "\"><script>alert(1)</script>{{ 7 * 7 }}&amp;<img src=http://evil.example/x onerror=alert(2)>'"


def compared_run(key: str, n_correct: int = 60, folder: str = "") -> ComparedRun:
    return ComparedRun(
        key=key,
        folder=folder or f"runs/{key.lower()}",
        dataset="pets",
        model="tiny",
        method="block-lora",
        shots=16,
        seed=1,
        n_test=100,
        n_correct=n_correct,
        accuracy=n_correct / 100,
        accuracy_interval=wilson_interval(n_correct, 100),
        ece=0.0432,
        nll=1.2345,
        train_seconds=192.3,
        trainable_parameters=12_345,
    )


def disputed_image(i: int, n_runs: int) -> DisputedImage:
    correct = tuple(place == i % n_runs for place in range(n_runs))
    return DisputedImage(f"cat/{i}.jpg", "cat", tuple("cat" if hit else "dog" for hit in correct), correct)


def comparison(*tables: tuple[int, int, int, int], n_disputed: int = 30, **more: object) -> Comparison:
    """Return a comparison with a pair for each table of counts: of two runs for one table, of three for three."""
    keys = "AB" if len(tables) == 1 else "ABC"
    answers = [PairedAnswers(*table) for table in tables]
    pairs = [(one, two) for i, one in enumerate(keys) for two in keys[i + 1 :]]
    adjusted = holm([pair.p_value for pair in answers])
    found = Comparison(
        n_images=100,
        runs=tuple(compared_run(key) for key in keys),
        pairs=tuple(
            ComparedPair(*names, table, p) for names, table, p in zip(pairs, answers, adjusted, strict=True)
        ),
        disputed=tuple(disputed_image(i, len(keys)) for i in range(n_disputed)),
    )
    return replace(found, **more)  # type: ignore[arg-type]


TWO = comparison((50, 20, 5, 25))
THREE = comparison((50, 20, 5, 25), (40, 10, 10, 40), (45, 5, 25, 25), n_disputed=600)


def photo(_: str) -> Image.Image:
    return Image.new("RGB", (400, 300), "teal")


def nothing(_: str) -> None:
    return None


class Page(HTMLParser):
    """Text and tags of a page; tags left open are an error."""

    VOID = frozenset({"meta", "img", "link", "br", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


# ---- words


def test_the_better_run_is_named() -> None:
    verdict = pair_verdict(TWO.pairs[0])
    assert (verdict.kind, verdict.headline) == ("better", "A is better than B by 15.0 points")
    assert verdict.evidence == (
        "95% interval of the difference +5.3 to +24.2 points, p = 0.0041. A alone is right on 20 images, B alone on 5; "
        "both on 50, neither on 25."
    )


def test_the_other_way_round_the_other_run_is_better() -> None:
    verdict = pair_verdict(comparison((50, 5, 20, 25)).pairs[0])
    assert (verdict.kind, verdict.headline) == ("worse", "B is better than A by 15.0 points")


@pytest.mark.parametrize(
    "pair",
    [
        ComparedPair("A", "B", PairedAnswers(50, 5, 5, 0), 1.0),
        ComparedPair("A", "B", PairedAnswers(50, 20, 5, 25), 0.06),  # not after Holm's correction
        ComparedPair("A", "B", PairedAnswers(50, 20, 18, 25), 0.01),  # the interval holds 0
    ],
)
def test_what_is_not_clear_is_called_so(pair: ComparedPair) -> None:
    verdict = pair_verdict(pair)
    assert verdict.kind == "same"
    assert verdict.headline.startswith("No clear difference between A and B (")


def test_a_corrected_p_is_called_so() -> None:
    assert ", p = 0.012, Holm-corrected." in pair_verdict(replace(TWO.pairs[0], p_holm=0.0123)).evidence


def test_a_run_in_words() -> None:
    run = compared_run("A")
    assert run_words(run) == "block-lora on tiny, 16 images a class, seed 1"
    assert run_words(replace(run, shots=1, seed=None)) == "block-lora on tiny, 1 image a class"
    assert run_words(replace(run, method=None, model=None, shots=None, seed=None)) == "fitted"


def test_what_is_compared_in_words() -> None:
    assert compared_sentence(TWO) == "2 runs on the same 100 test images of pets."
    unknown = tuple(replace(run, dataset=None) for run in TWO.runs)
    assert compared_sentence(replace(TWO, runs=unknown, n_images=1)) == "2 runs on the same 1 test image."


# ---- the page


def test_two_runs_have_a_verdict_and_no_table_of_pairs() -> None:
    page = Page(render_comparison(TWO, photo))
    for words in (
        "A and B compared",
        "2 runs on the same 100 test images of pets.",
        "A is better than B by 15.0 points",
        "A runs/a",
        "60.0%",
        "95% interval 50.2–69.1%",
        "4.3%",
        "1.234",
        "3 min 12 s",
        "12,345",
        "30 images of 100 are right in some runs and wrong in others.",
        "All 30 images as a table",
        "exact McNemar test",
    ):
        assert words in page.text, words
    assert "Pair by pair" not in page.text
    assert "Worth knowing" not in page.text
    assert page.tags.count("img") == len(shown_images(TWO)) == 15


def test_three_runs_have_a_table_of_pairs_and_correct_for_them() -> None:
    page = Page(render_comparison(replace(THREE, notes=("mind this",)), nothing))
    for words in (
        "3 runs compared",
        "A, B A is better +15.0 +5.3 to +24.2 20 5 0.0041 0.0082",
        "A, C not clear 0.0",
        "B, C C is better −20.0",
        "Holm’s correction over 3 pairs",
        "mind this",
        "600 images of 100",
        "The first 500 images as a table",
        "blocklora compare --json lists all 600.",
        "These 24 are spread evenly over them.",
    ):
        assert words in page.text, words
    assert "img" not in page.tags
    assert page.text.count("image not available") == 24


@pytest.mark.parametrize("n", [0, 1, 23, 24, 25, 48, 49, 1000])
def test_shown_images_are_few_and_spread(n: int) -> None:
    found = comparison((50, 20, 5, 25), n_disputed=n)
    shown = shown_images(found)
    assert min(n, 12) <= len(shown) <= 24
    assert shown[:1] == list(found.disputed[:1])
    assert n <= 24 or found.disputed.index(shown[-1]) > n * 0.9


def test_runs_that_agree_are_said_to() -> None:
    page = Page(render_comparison(comparison((60, 0, 0, 40), n_disputed=0), photo))
    assert "Nowhere: on every image all runs are right, or all are wrong." in page.text
    assert "No clear difference between A and B (0.0 points)" in page.text


def test_what_is_not_known_is_a_dash() -> None:
    unknown = replace(
        compared_run("A"), dataset=None, model=None, method=None, shots=None, seed=None, train_seconds=None,
        trainable_parameters=None,
    )  # fmt: skip
    assert (
        "A – 60.0% 4.3% 1.234 – –"
        in Page(render_comparison(replace(TWO, runs=(unknown, TWO.runs[1])), photo)).text
    )


def test_names_are_text_and_paths_stay_private() -> None:
    run = replace(
        compared_run("A", folder=f"/home/me/secret/{EVIL}/a"), method=EVIL, dataset=EVIL, model=EVIL
    )
    other = replace(compared_run("B", folder=f"/home/me/secret/{EVIL}/b"))
    images = tuple(
        DisputedImage(f"/home/me/secret/{EVIL}{i}", EVIL, (EVIL, "x"), (True, False)) for i in (1, 2)
    )
    text = render_comparison(replace(TWO, runs=(run, other), disputed=images, notes=(EVIL,)), photo)
    page = Page(text)
    assert "<script>alert" not in text
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 2
    assert "home/me" not in page.text.replace(EVIL, "")
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search(r'(?:src|href)="?http', text.replace("src=http://evil.example", ""))


def test_the_page_is_one_whole_file(tmp_path: Path) -> None:
    lone = replace(TWO, disputed=(DisputedImage("\udcff.jpg", "cat", ("cat", "dog"), (True, False)),))
    write_comparison(lone, tmp_path / "c.html", photo)
    assert [path.name for path in tmp_path.iterdir()] == ["c.html"]
    assert "?.jpg" in (tmp_path / "c.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is a folder; expected the name of the report file"),
        ("metrics.json", r"metrics\.json: expected the name of a page to write, such as comparison\.html"),
        ("none/c.html", r"c\.html: there is no folder .*none; make it, or name another file"),
    ],
)
def test_what_is_no_name_of_a_page_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=words):
        write_comparison(TWO, tmp_path / name, photo)
    assert list(tmp_path.iterdir()) == []


# ---- in a browser

MEASURE = """<!DOCTYPE html><body style="margin:0"><iframe src="c.html" style="width:WIDTHpx;height:900px;border:0"
onload="const d = this.contentDocument, r = d.documentElement, t = d.querySelectorAll('table.sortable')[1];
const first = () => t.tBodies[0].rows[0].cells[0].textContent;
t.querySelectorAll('thead th')[2].querySelector('button').click();
document.title = [r.scrollWidth, r.clientWidth, first()].join('/')">
</iframe></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_the_screen_and_differences_sort_by_value(width: int, tmp_path: Path) -> None:
    long = DisputedImage(
        "x" * 200 + ".jpg", "Extraordinarily" * 8, ("y" * 120, "dog", "cat"), (True, False, False)
    )
    runs = (compared_run("A", folder="f" * 150), *THREE.runs[1:])
    found = replace(THREE, runs=runs, disputed=(long, *THREE.disputed[:9]), notes=("z" * 300,))
    write_comparison(found, tmp_path / "c.html", photo)
    (tmp_path / "w.html").write_text(MEASURE.replace("WIDTH", str(width)), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --allow-file-access-from-files --virtual-time-budget=4000 "
        "--window-size=1300,1000 --dump-dom"
    ).split()
    command = [
        str(BROWSER),
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "w.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*)</title>", done.stdout)
    assert title is not None
    wide, room, first = title.group(1).split("/")
    assert int(wide) <= int(room)
    assert first == "B, C"  # -20 points: the least
