"""``check`` from a folder to findings, with faults planted."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from blocklora.core.errors import DataError
from blocklora.explore.check import CheckResult, check_data
from blocklora.explore.check_page import COLUMNS, page_path, write_check_csv, write_check_page
from blocklora.findings.finding import KINDS, Finding

WRONG = 20


def write_digits(folder: Path, n: int = 400) -> set[str]:
    """Write enlarged scans as class folders in two splits; return the names of those under a wrong label."""
    scans = load_digits()
    draw = np.random.default_rng(0)
    wrong = set(draw.choice(n, WRONG, replace=False).tolist())
    names = set()
    for place in range(n):
        label = int(scans.target[place])
        if place in wrong:
            label = (label + int(draw.integers(1, 10))) % 10
        name = f"{'test' if place % 4 == 0 else 'train'}/{label}/{place:03d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scan = Image.fromarray(np.rint(scans.images[place] * (255 / 16)).astype(np.uint8))
        scan.resize((64, 64), Image.Resampling.BICUBIC).save(folder / name)
        names |= {name} if place in wrong else set()
    return names


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, set[str], CheckResult]:
    folder = tmp_path_factory.mktemp("planted") / "digits"
    wrong = write_digits(folder)
    (folder / "test" / "1" / "copy.png").write_bytes((folder / "train" / "1" / "001.png").read_bytes())
    Image.open(folder / "train" / "2" / "002.png").save(folder / "train" / "2" / "other.bmp")
    Image.open(folder / "train" / "3" / "003.png").convert("RGB").save(
        folder / "test" / "3" / "jpeg.jpg", quality=60
    )
    (folder / "train" / "7" / "same.png").write_bytes((folder / "train" / "5" / "005.png").read_bytes())
    Image.new("RGB", (64, 64), "white").save(folder / "train" / "6" / "blank.png")
    draw = np.random.default_rng(1).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(draw).resize((200, 30)).save(folder / "train" / "6" / "foreign.png")
    (folder / "train" / "8" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder, wrong, check_data(str(folder), model="tiny", device="cpu")


def of_kind(result: CheckResult, kind: str) -> list[Finding]:
    return [one for one in result.findings if one.kind == kind]


def test_most_wrong_labels_are_among_the_first_tenth(planted):
    _, wrong, result = planted
    suspects = [one.images[0] for one in of_kind(result, "label")]
    assert len(suspects) <= 41
    assert len(wrong.intersection(suspects)) >= 0.8 * WRONG
    first = of_kind(result, "label")[0]
    assert re.fullmatch(r"\S+: labelled '\d' \(\d+%\), looks like '\d' \(\d+%\), as \S+ is", first.message)
    assert first.actions == ("look", "keep")
    assert first.suggested == first.labels[1]


def test_copies_leaks_and_conflicts_are_named(planted):
    _, _, result = planted
    copies = {one.images: one for one in of_kind(result, "exact-duplicate")}
    assert copies[("test/1/copy.png", "train/1/001.png")].message.endswith(": the same file")
    assert copies[("train/2/002.png", "train/2/other.bmp")].message.endswith(": the same pixels")
    near = [set(one.images) for one in of_kind(result, "near-duplicate")]
    assert any({"train/3/003.png", "test/3/jpeg.jpg"} <= images for images in near)
    leaks = {one.images[0]: one for one in of_kind(result, "leak")}
    assert leaks["test/1/copy.png"].actions == ("keep", "remove")
    assert "test/3/jpeg.jpg" in leaks
    conflicts = {frozenset(one.images): one for one in of_kind(result, "conflict")}
    found = conflicts[frozenset({"train/5/005.png", "train/7/same.png"})]
    assert found.message.endswith(": the same file, under the labels '5', '7'")


def test_bad_images_are_named(planted):
    _, _, result = planted
    assert [one.images for one in of_kind(result, "blank")] == [("train/6/blank.png",)]
    assert ("train/6/foreign.png",) in [one.images for one in of_kind(result, "outlier")]
    (odd,) = of_kind(result, "odd-size")
    assert odd.message == "train/6/foreign.png: 6.7 times as wide as high"
    (broken,) = of_kind(result, "unreadable")
    assert broken.images == ("train/8/broken.png",)
    assert broken.message.count("broken.png") == 1


def test_findings_come_by_weight_and_then_by_score(planted):
    _, _, result = planted
    order = [(list(KINDS).index(one.kind), -one.score) for one in result.findings]
    assert order == sorted(order)
    assert all(0 <= one.score <= 1 for one in result.findings)
    assert all(len(one.actions) in (0, len(one.images)) for one in result.findings)
    assert json.loads(json.dumps([one.to_json() for one in result.findings]))[0].keys() == {
        "kind", "images", "score", "message",
    }  # fmt: skip
    assert result.parts == {"train": 305, "test": 102}


def test_the_spreadsheet_has_a_row_for_every_image_and_what_to_do(planted, tmp_path):
    _, _, result = planted
    write_check_csv(result, tmp_path / "found.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "found.csv").read_text(encoding="utf-8"))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == sum(max(1, len(one.images)) for one in result.findings)
    copy = next(row for row in rows if row["kind"] == "leak" and row["image"] == "train/1/001.png")
    assert (copy["action"], copy["split"], copy["label"], copy["others"]) == (
        "remove",
        "train",
        "1",
        "test/1/copy.png",
    )


def test_the_page_is_one_file_that_shows_images_and_runs_nothing_foreign(planted, tmp_path):
    _, _, result = planted
    path = page_path(tmp_path / "new" / "folder")
    write_check_page(result, path)
    assert path == tmp_path / "new" / "folder" / "check.html"
    text = path.read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/") > 20
    for kind in {one.kind for one in result.findings}:
        assert f'id="{kind}"' in text
    assert len(text) < 5_000_000


def test_a_formula_in_a_name_does_not_run(tmp_path):
    blank = Finding("blank", ("=1+1.png",), 1.0, "one colour", labels=("a",), parts=("train",))
    result = CheckResult("x", "m", {}, 1, (blank,), (), {})
    write_check_csv(result, tmp_path / "f.csv")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "f.csv").read_text(encoding="utf-8")))
    assert row["image"] == "'=1+1.png"


def test_small_and_odd_data_sets_are_no_trouble(tmp_path, clip_folder):
    for folder, n in (("a", 1), ("b", 1)):
        (tmp_path / "two" / folder).mkdir(parents=True)
        for number in range(n):
            Image.effect_noise((40, 40), 60).save(tmp_path / "two" / folder / f"{number}.png")
    assert of_kind(check_data(str(tmp_path / "two"), model=str(clip_folder), device="cpu"), "label") == []
    (tmp_path / "one" / "a").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "one" / "a" / "1.png")
    result = check_data(str(tmp_path / "one"), model=str(clip_folder), device="cpu")
    assert [one.kind for one in result.findings] == ["blank"]
    (tmp_path / "one" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 image can be read: a/1\.png: the file is empty"):
        check_data(str(tmp_path / "one"), model=str(clip_folder), device="cpu")


def test_classes_are_judged_by_name_size_and_how_they_were_taken(tmp_path, clip_folder):
    draw = np.random.default_rng(0)
    for name, n, bright in (("cat", 60, 200), ("Cat", 5, 40), ("dog", 45, 40)):
        (tmp_path / name).mkdir()
        for number in range(n):
            noise = draw.normal(bright, 15, (48, 48, 3)).clip(0, 255).astype(np.uint8)
            soft = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1))
            soft.save(tmp_path / name / f"{number}.png")
    result = check_data(str(tmp_path), model=str(clip_folder), device="cpu")
    assert of_kind(result, "similar-names")[
        0
    ].message == "'cat' and 'Cat' are the same words, written differently" or (
        of_kind(result, "similar-names")[0].message
        == "'Cat' and 'cat' are the same words, written differently"
    )
    (uneven,) = of_kind(result, "imbalance")
    assert uneven.message == "'cat' has 60 training images, 'Cat' has 5"
    assert [one.message.split()[0] for one in of_kind(result, "image-property")][:1] == ["brightness"]
