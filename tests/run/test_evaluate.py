"""A finished run is measured again: on its own test images as they were, or on others that it has not learned from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import Log, read, settings

from blocklora.core.errors import DataError, ModelError, RunError
from blocklora.core.files import write_json
from blocklora.report import RunMetrics, metrics_json
from blocklora.run.evaluate import evaluate_run
from blocklora.run.fit import fit_run
from blocklora.run.load import load_run
from blocklora.run.predict import predict_images

CLASSES = ("blue-cross", "green disc", "red_square")


@pytest.fixture
def own(photos: Path, run: Path, tmp_path: Path, clip_folder: Path) -> tuple[Path, Path]:
    """A run and its data, to be changed."""
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    out, _ = fit_run(str(data), tmp_path / "run", **settings(clip_folder, method="zero-shot"))
    return out, data


def again(run: Path, data: Path | None = None, **more: Any) -> RunMetrics:
    return evaluate_run(run, None if data is None else str(data), device="cpu", **more)


def parts(run: Path) -> dict[str, list[str]]:
    record = read(run / "split.json")
    return {part: [item["image"] for item in record[part]] for part in ("train", "val", "test")}


def test_the_same_figures_come_again(run: Path) -> None:
    log = Log()
    before, found = read(run / "metrics.json"), again(run, progress=log)
    facts = metrics_json(found)
    for name in (
        "accuracy",
        "zero_shot_accuracy",
        "n_test",
        "confusion_counts",
        "method",
        "model",
        "precision",
    ):
        assert facts[name] == before[name]
    assert facts["ece"] == pytest.approx(before["ece"], rel=1e-9)
    assert (facts["run"], facts["notes"]) == (str(run), [])
    assert log.done[-1] == (9, 9)


# ---- images that the run has learned from


def test_the_runs_own_folder(own: tuple[Path, Path]) -> None:
    run, data = own
    found = again(run, data)
    assert found.evaluation.n_test == 36 - 12 - 12
    seen = [*parts(run)["train"], *parts(run)["val"]]
    (note,) = [note for note in found.notes if "left out" in note]
    assert note.startswith(
        "24 images of 36 were left out, because the run was trained or validated on the same content: "
    )
    assert note.endswith(" and 19 more")
    assert sum(repr(image) in note for image in seen) == 5


def test_a_folder_that_contains_the_runs_own(own: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = own
    for part in ("train", "test"):
        shutil.copytree(data, tmp_path / "all" / part)
    found = again(run, tmp_path / "all")
    assert found.evaluation.n_test == 12
    assert any(note.startswith("24 images of 36 were left out") for note in found.notes)


def test_copies_under_other_names_and_in_other_classes_folders(
    own: tuple[Path, Path], make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    run, data = own
    other = make_photos(tmp_path / "other", n=1)
    shutil.rmtree(other / "red_square")
    trained = next(image for image in parts(run)["train"] if image.startswith("blue-cross/"))
    shutil.copy(data / trained, other / "blue-cross" / "unknown.png")
    validated = next(image for image in parts(run)["val"] if image.startswith("green disc/"))
    shutil.copy(data / validated, other / "green disc" / "copy of copy.png")
    image = Image.open(data / trained)
    image.save(other / "blue-cross" / "other bytes.png", compress_level=0)
    found = again(run, other)
    (note,) = [note for note in found.notes if "left out" in note]
    assert "'blue-cross/unknown.png'" in note
    assert "'green disc/copy of copy.png'" in note
    assert "other bytes" not in note  # saved anew: its content is another


def test_everything_was_seen(own: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = own
    for image in parts(run)["train"]:
        (tmp_path / "trained" / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / image, tmp_path / "trained" / image)
    with pytest.raises(
        DataError,
        match="trained: the run was trained or validated on all of its 12 images, so nothing is left",
    ):
        again(run, tmp_path / "trained")


# ---- what --data may be


def test_one_class_and_one_image_a_class(
    own: tuple[Path, Path], make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    run, _ = own
    other = make_photos(tmp_path / "other", n=3)
    for path in other.rglob("*.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    assert again(run, other).evaluation.n_test == 9  # all of them: there is no test part
    for name in CLASSES[1:]:
        shutil.rmtree(other / name)
    found = again(run, other)
    assert (found.evaluation.n_test, found.evaluation.n_classes) == (3, 3)
    assert (
        "2 of 3 classes have no test image: green disc and red_square" in metrics_json(found)["warnings"][0]
    )
    for path in (other / "blue-cross").iterdir():
        if path.name != "2.png":
            path.unlink()
    assert again(run, other).evaluation.n_test == 1


def test_a_test_part_is_taken_alone(run: Path, make_photos: Callable[..., Path], tmp_path: Path) -> None:
    make_photos(tmp_path / "parted" / "train", n=2)
    for path in make_photos(tmp_path / "parted" / "test", n=1).rglob("*.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    found = again(run, tmp_path / "parted")
    assert found.evaluation.n_test == 3
    assert "parted has a test part: its 3 images of 9 are read, the others are not" in found.notes


def test_a_class_that_is_not_known(run: Path, make_photos: Callable[..., Path], tmp_path: Path) -> None:
    other = make_photos(tmp_path / "other", n=1)
    (other / "green disc").rename(other / "yellow")
    with pytest.raises(
        DataError,
        match="other: 'yellow' is no class that the run knows; it knows 'blue-cross', 'green disc', 'red_square'",
    ):
        again(run, other)


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_old_and_new_class_names_are_known(
    kind: str, clip_folder: Path, photos: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["a cross", "a disc", "a squa\u0301re"]  # in two code points; the folder's name has one
    listed = tmp_path / f"names.{kind}"
    if kind == "json":
        write_json(listed, dict(zip(CLASSES, words, strict=True)))
    else:
        listed.write_text("\n".join(words), encoding="utf-8")
    given = settings(clip_folder, method="zero-shot", class_names=str(listed))
    run, before = fit_run(str(photos), tmp_path / "run", **given)
    assert again(run).evaluation == before.evaluation
    assert again(run, photos).evaluation.n_test == 12
    other = make_photos(tmp_path / "other", n=12)
    for old, new in zip(CLASSES, ["a cross", "a disc", "a squ\u00e1re"], strict=True):
        (other / old).rename(other / new)
    assert again(run, other).evaluation == again(run, photos).evaluation


# ---- the run's own test part


def test_other_images_and_folders_change_nothing(own: tuple[Path, Path]) -> None:
    run, data = own
    before = again(run)
    (data / "new class").mkdir()
    shutil.copy(next(data.rglob("*.png")), data / "new class" / "x.png")
    shutil.copy(data / "red_square" / "0.png", data / "red_square" / "00.png")
    assert again(run) == before
    for image in parts(run)["train"] + parts(run)["val"]:
        (data / image).unlink()
    shutil.rmtree(data / "new class")
    assert again(run) == before


def test_a_test_image_that_is_gone_or_replaced_is_named(own: tuple[Path, Path]) -> None:
    run, data = own
    first, second = parts(run)["test"][:2]
    content = (data / first).read_bytes()
    (data / first).write_bytes((data / second).read_bytes())
    with pytest.raises(
        DataError,
        match=rf"1 image of the run's 9 test images cannot be used: .*{Path(first).name}: was replaced",
    ):
        again(run)
    (data / first).unlink()
    with pytest.raises(
        DataError, match=rf"1 image of the run's 9 test images cannot be used: .*{Path(first).name}"
    ):
        again(run)
    (data / first).write_bytes(content)
    again(run)
    data.rename(data.with_name("elsewhere"))
    with pytest.raises(DataError, match="9 images of the run's 9 test images cannot be used"):
        again(run)


def test_identical_test_images_are_noted_again(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", n=2)
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "parted" / part)
    given = settings(clip_folder, method="zero-shot", shots=None)
    run, before = fit_run(str(tmp_path / "parted"), tmp_path / "run", **given)
    note = next(note for note in before.notes if "identical" in note)
    assert again(run).notes == (note,)


def _without_hashes(run: Path) -> None:
    record = read(run / "split.json")
    for part in ("train", "val", "test"):
        record[part] = [
            {name: item[name] for name in ("image", "label", "class_name")} for item in record[part]
        ]
    del record["folder"]
    write_json(run / "split.json", record)


def test_an_old_record_without_hashes(own: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = own
    before = again(run)
    _without_hashes(run)
    found = again(run)
    assert found.evaluation == before.evaluation
    assert found.notes == (
        "9 test images recorded without a hash: whether they were replaced since is not known",
    )
    copies = tmp_path / "copies"
    shutil.copytree(data, copies)
    found = again(run, copies)
    assert found.evaluation.n_test == 12
    assert any(note.startswith("24 images of 36 were left out") for note in found.notes)
    for image in parts(run)["train"]:
        (data / image).unlink()
    found = again(run, copies)
    assert found.evaluation.n_test == 24
    assert any("trained or validated on, 12 images cannot be found" in note for note in found.notes)


# ---- the folder, the model, the machine


def test_a_damaged_run(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (broken / "split.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"split\.json: cannot be read"):
        again(broken)
    (broken / "split.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match=r"split\.json: holds no JSON object"):
        again(broken)


def test_an_unfinished_run(run: Path, tmp_path: Path) -> None:
    for name in ("config.json", "split.json"):
        shutil.copy(run / name, tmp_path / name)
    with pytest.raises(RunError):
        again(tmp_path)


def test_nothing_is_written_into_the_run(run: Path, photos: Path) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in run.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before, folder = state(), run.stat().st_mtime_ns
    again(run)
    again(run, photos)
    list(predict_images(load_run(run, device="cpu"), [next(photos.rglob("*.png"))]))
    assert (state(), run.stat().st_mtime_ns) == (before, folder)


def test_a_base_model_that_moved(
    clip_folder: Path, make_clip: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "clip", tmp_path / "moved"
    shutil.copytree(clip_folder, old)
    run, before = fit_run(str(photos), tmp_path / "run", **settings(old))
    old.rename(new)
    with pytest.raises(ModelError, match="clip"):
        again(run)
    assert again(run, model=str(new)).evaluation == before.evaluation
    assert again(run, photos, model=str(new)).evaluation.n_test == 12
    with pytest.raises(RunError, match="has another image tower than the one it was fitted with"):
        again(run, model=str(make_clip(tmp_path / "wrong", seed=5)))


def test_the_precision_is_the_runs_own_where_the_device_has_it(
    clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    run, before = fit_run(str(photos), tmp_path / "run", **settings(clip_folder, precision="bf16"))
    found = again(run)
    assert (found.precision, found.notes) == ("bf16", ())
    assert found.evaluation == before.evaluation
    record = read(run / "classifier.json")
    write_json(run / "classifier.json", record | {"precision": "fp16"})  # as if a GPU had fitted it
    found = again(run)
    assert (found.precision, found.notes) == ("fp32", ("computed in fp32; the run was fitted in fp16",))
