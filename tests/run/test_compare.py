"""Runs side by side: the same images are found by name and content, and what is left out is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command import call
from written_runs import TestImage, test_images, write_run

from blocklora.core.errors import ConfigError, DataError, RunError
from blocklora.metrics import PairedAnswers, mcnemar_exact, wilson_interval
from blocklora.report import Comparison, DisputedImage, read_metrics
from blocklora.run.compare import compare_runs, open_shown


def test_two_runs_are_counted_image_by_image(tmp_path: Path) -> None:
    images = test_images(30)
    a = write_run(tmp_path / "a", images, wrong=[0, 1, 2], sure=0.9)
    b = write_run(tmp_path / "b", images, wrong=[2, *range(10, 20)], sure=0.6)
    found = compare_runs([a, b])
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("A", "B")
    assert pair.answers == PairedAnswers(both=17, only_first=10, only_second=2, neither=1)
    assert pair.p_holm == pair.answers.p_value == mcnemar_exact(10, 2)
    assert [run.accuracy for run in found.runs] == [27 / 30, 19 / 30]
    assert found.runs[0].accuracy_interval == wilson_interval(27, 30)
    assert [image.image for image in found.disputed] == [images[i].name for i in (0, 1, *range(10, 20))]
    assert found.disputed[0] == DisputedImage("cat/0.png", "cat", ("dog", "cat"), (False, True))
    assert (found.n_images, found.notes) == (30, ())
    for run, folder in zip(found.runs, (a, b), strict=True):  # what each report says
        known = read_metrics(folder / "metrics.json")
        assert (run.accuracy, run.train_seconds, run.trainable_parameters) == (
            known.evaluation.accuracy,
            72.4,
            1234,
        )
        assert (run.ece, run.nll) == pytest.approx((known.evaluation.ece, known.evaluation.nll), abs=1e-5)


def test_two_runs_of_equal_answers_do_not_differ(tmp_path: Path) -> None:
    images = test_images(9)
    found = compare_runs([write_run(tmp_path / name, images, wrong=[3]) for name in "ab"])
    assert found.pairs[0].p_holm == 1
    assert found.disputed == ()


def test_the_order_of_runs_mirrors_the_pair(tmp_path: Path) -> None:
    images = test_images(12)
    a, b = write_run(tmp_path / "a", images, [0]), write_run(tmp_path / "b", images[::-1], [1, 2, 3])
    one, other = compare_runs([a, b]).pairs[0], compare_runs([b, a]).pairs[0]
    assert one.answers.difference == -other.answers.difference
    assert one.p_holm == other.p_holm


def test_p_of_three_runs_is_corrected(tmp_path: Path) -> None:
    images = test_images(30)
    runs = [
        write_run(tmp_path / name, images, wrong)
        for name, wrong in (("a", []), ("b", range(8)), ("c", range(7, 14)))
    ]
    pairs = compare_runs(runs).pairs
    assert [(pair.first, pair.second) for pair in pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    p = [mcnemar_exact(8, 0), mcnemar_exact(7, 0), mcnemar_exact(6, 7)]
    assert [pair.p_holm for pair in pairs] == pytest.approx([3 * p[0], 2 * p[1], p[2]])


def test_many_runs_have_letters(tmp_path: Path) -> None:
    found = compare_runs([write_run(tmp_path / str(i), test_images(3)) for i in range(28)])
    assert [run.key for run in found.runs[24:]] == ["Y", "Z", "AA", "AB"]


def test_only_images_that_all_have_are_compared(tmp_path: Path) -> None:
    images = test_images(12)
    a = write_run(tmp_path / "a", images[:9], wrong=[0, 5])
    b = write_run(tmp_path / "b", images[3:], wrong=[0])
    found = compare_runs([a, b])
    assert found.n_images == 6
    assert [(run.n_correct, run.n_test) for run in found.runs] == [(5, 9), (5, 9)]
    assert found.notes == ("Compared on the 6 test images that all runs have, no more: A has 9, B has 9.",)


def test_an_image_that_was_replaced_is_left_out_and_named(tmp_path: Path) -> None:
    images = test_images(6)
    a = write_run(tmp_path / "a", images)
    b = write_run(tmp_path / "b", [TestImage(images[0].name, 0, "another"), *images[1:]], wrong=[0])
    found = compare_runs([a, b])
    assert found.n_images == 5
    assert found.notes == (
        "Compared on the 5 test images that all runs have, no more: A has 6, B has 6.",
        "1 image left out, of the same name but another content in A and B: 'cat/0.png'.",
    )
    assert found.disputed == ()


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", test_images(3)), write_run(tmp_path / "b", test_images(9)[3:])
    with pytest.raises(
        DataError, match=r"no test image in common \(A has 3, B has 6\).* Compare runs on the same"
    ):
        compare_runs([a, b])


def test_fewer_classes_are_easier_which_is_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", test_images(6))
    b = write_run(
        tmp_path / "b", [image for image in test_images(6) if image.label < 2], classes=["cat", "dog"]
    )
    found = compare_runs([a, b])
    assert found.n_images == 4
    assert found.notes[1] == (
        "A and B have different classes: only A knows 'owl'; A chooses among 3 and B among 2, and fewer are easier."
    )


def test_other_words_for_a_class_are_the_same_class(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", test_images(6))
    b = write_run(tmp_path / "b", test_images(6), wrong=[1], classes=["cat", "hound", "owl"])
    found = compare_runs([a, b])
    assert found.n_images == 6
    assert "A and B have other words for 1 class: 'dog = hound'." in found.notes
    assert found.disputed == (DisputedImage("dog/1.png", "dog", ("dog", "owl"), (True, False)),)


@pytest.mark.parametrize(
    ("classes", "left"),
    [
        (["dog", "cat", "owl"], 2),  # both runs know both names: another class, not another word
        (["pet", "pet", "owl"], 2),  # two classes became one
    ],
)
def test_images_of_another_class_are_left_out(classes: list[str], left: int, tmp_path: Path) -> None:
    a, b = (
        write_run(tmp_path / "a", test_images(6)),
        write_run(tmp_path / "b", test_images(6), classes=classes),
    )
    found = compare_runs([a, b])
    assert found.n_images == left
    assert any(
        note.startswith("4 images left out, of another class in A than in B: 'cat/0.png', 'dog/1.png'")
        for note in found.notes
    )


def test_an_image_that_a_table_lists_twice_counts_twice(tmp_path: Path) -> None:
    images = [*test_images(3), test_images(1)[0]]
    found = compare_runs([write_run(tmp_path / "a", images), write_run(tmp_path / "b", images, wrong=[3])])
    assert found.n_images == 4
    assert [image.image for image in found.disputed] == ["cat/0.png"]


def test_names_that_are_no_utf8_are_matched(tmp_path: Path) -> None:
    images = [TestImage("caf\udce9.png", 0), TestImage("a,\r\nb.png", 1)]
    found = compare_runs([write_run(tmp_path / "a", images), write_run(tmp_path / "b", images, wrong=[0])])
    assert found.disputed[0].image == "caf\\udce9.png"
    json.dumps(found.to_json()).encode("ascii")


def test_json_holds_everything(tmp_path: Path) -> None:
    images = test_images(6)
    found = compare_runs([write_run(tmp_path / "a", images), write_run(tmp_path / "b", images, wrong=[1, 2])])
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(facts) == ["n_images", "notes", "runs", "pairs", "disputed"]
    assert facts["runs"][0]["folder"] == str(tmp_path / "a")
    assert facts["runs"][1]["accuracy"] == pytest.approx(4 / 6)
    assert facts["pairs"][0] | {"interval": None} == {
        "first": "A", "second": "B", "difference": pytest.approx(2 / 6), "interval": None, "p_value": 0.5,
        "p_holm": 0.5, "both": 4, "only_first": 2, "only_second": 0, "neither": 0,
    }  # fmt: skip
    assert facts["disputed"][0] == {
        "image": "dog/1.png",
        "label": "dog",
        "predicted": {"A": "dog", "B": "owl"},
        "correct": {"A": True, "B": False},
    }


# ---- what cannot be compared


def test_one_run_or_the_same_one_twice_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", test_images(3))
    with pytest.raises(ConfigError, match="1 run to compare; expected two RUN folders or more"):
        compare_runs([a])
    with pytest.raises(ConfigError, match="this run is given twice"):
        compare_runs([a, tmp_path / "." / "x" / ".." / "a"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.json", None, r"b: is no finished run, as it has no metrics\.json; end it with"),
        ("metrics.json", "{}", r"metrics\.json: has no"),
        (
            "predictions.csv",
            None,
            r"b: has no predictions\.csv, which earlier versions did not write; fit it again",
        ),
        ("predictions.csv", "image\n", r"predictions\.csv, line 1: expected the columns image,label"),
        ("split.json", None, r"split\.json: cannot be read"),
        ("split.json", "{}", r"split\.json: expected a list 'test' of images with 'image' and 'sha256'"),
        ("split.json", '{"test": [{"image": "cat/0.png"}]}', r"split\.json: expected a list 'test'"),
        ("split.json", '{"test": 3}', r"split\.json: expected a list 'test'"),
        (
            "split.json",
            '{"test": []}',
            r"predictions\.csv: names 'cat/0\.png', which is no test image of split\.json",
        ),
    ],
)
def test_files_that_are_missing_or_damaged_are_named(
    name: str, content: str | None, words: str, tmp_path: Path
) -> None:
    a, b = (write_run(tmp_path / key, test_images(3)) for key in "ab")
    (b / name).unlink()
    if content is not None:
        (b / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=words):
        compare_runs([a, b])


def test_predictions_of_another_run_are_refused(tmp_path: Path) -> None:
    a, b, other = (
        write_run(tmp_path / key, test_images(6), wrong) for key, wrong in (("a", []), ("b", []), ("c", [1]))
    )
    (other / "predictions.csv").replace(b / "predictions.csv")
    with pytest.raises(RunError, match=r"has 5 right answers of 6, but metrics\.json beside it has 6 of 6"):
        compare_runs([a, b])


# ---- real runs


def test_runs_of_fit_on_two_copies_of_a_folder(
    clip_folder: Path,
    make_photos: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = []
    for name, method in (("one", "zero-shot"), ("two", "linear-probe")):
        photos = make_photos(tmp_path / name / "photos")
        runs.append(tmp_path / name / "run")
        arguments = (
            "--model",
            clip_folder,
            "--method",
            method,
            "--shots",
            4,
            "--device",
            "cpu",
            "--out",
            runs[-1],
        )
        assert call(capsys, monkeypatch, "fit", photos, *arguments)[0] == 0
    found = compare_runs(runs)
    assert (found.n_images, found.notes) == (9, ())
    for run, folder in zip(found.runs, runs, strict=True):
        known = read_metrics(folder / "metrics.json").evaluation
        assert (run.accuracy, run.accuracy_interval) == (known.accuracy, known.accuracy_interval)
        assert (run.ece, run.nll) == pytest.approx((known.ece, known.nll), abs=1e-5)
    opened = open_shown(runs[0], found)
    assert found.disputed
    for one in found.disputed:
        image = opened(one.image)
        assert image is not None
        assert image.size == (40, 48)
    assert opened("nobody.png") is None


def test_images_that_are_gone_are_not_opened(tmp_path: Path) -> None:
    images = test_images(6)
    a, b = write_run(tmp_path / "a", images), write_run(tmp_path / "b", images, wrong=[1])
    found: Comparison = compare_runs([a, b])
    assert open_shown(a, found)("dog/1.png") is None
