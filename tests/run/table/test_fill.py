"""A table holds a row for each image; it is begun anew, gone on with or refused, and nothing that is there is lost."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import call

from blocklora import FewShotClassifier
from blocklora.core.errors import BlockloraError, ConfigError, DataError, RunError
from blocklora.run.load import LoadedRun, load_run
from blocklora.run.predict import Asked
from blocklora.run.table import class_folders
from blocklora.run.table.fill import TableSummary, fill_table
from blocklora.run.table.journal import Journal
from blocklora.run.table.work import TableOrder, check_order, open_work


@pytest.fixture
def loaded(run: Path) -> LoadedRun:
    return replace(load_run(run, device="cpu"), images_at_once=8)


@pytest.fixture
def images(photos: Path, tmp_path: Path) -> Path:
    """A folder of 24 images, in three folders that have the same names in them, and one that is broken."""
    for folder in photos.iterdir():
        shutil.copytree(
            folder, tmp_path / "in" / folder.name, ignore=shutil.ignore_patterns("8.*", "9.*", "1?.*")
        )
    (tmp_path / "in" / "broken.png").write_text("no image", encoding="utf-8")
    return tmp_path / "in"


def fill(order: TableOrder, loaded: LoadedRun) -> TableSummary:
    with open_work(order) as work:
        return fill_table(work, loaded)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_for_each_image(run: Path, images: Path, tmp_path: Path, loaded: LoadedRun) -> None:
    told: list[tuple[int, int]] = []
    order = TableOrder(run, [images], tmp_path / "x.csv", asked=Asked(top_k=9), features=tmp_path / "x.npy")
    with open_work(order) as work:
        found = fill_table(work, loaded, on_batch=lambda *step: told.append(step))
    assert told == [(0, 25), (8, 25), (16, 25), (24, 25), (25, 25)]
    rows = rows_of(order.out)
    assert {row["image"] for row in rows} == set(map(str, images.rglob("*.png")))
    classifier = FewShotClassifier.load(run, device="cpu")
    paths = [row["image"] for row in rows if not row["reason"]]
    expected = dict(zip(paths, classifier.predict_proba(paths), strict=True))
    features = np.load(tmp_path / "x.npy")
    assert features.shape == (25, 16)
    for row, feature in zip(rows, features, strict=True):
        if row["image"].endswith("broken.png"):
            assert "this is not an image" in row["reason"]
            assert np.isnan(feature).all()
            assert not row["label"] + row["probability"]
            continue
        order_ = np.argsort(-expected[row["image"]], kind="stable")
        assert [row["label"], row["label_2"], row["label_3"]] == [
            classifier.classes_[place] for place in order_
        ]
        assert float(row["probability"]) == pytest.approx(expected[row["image"]].max(), abs=1e-6)
        assert np.linalg.norm(feature) == pytest.approx(1, abs=1e-5)
    assert (found.n_images, found.n_unreadable, found.n_abstained) == (25, 1, 0)
    assert sum(found.labels.values()) == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.csv", "x.npy"]


@pytest.mark.parametrize("way", ["move_to", "copy_to"])
def test_class_folders(way: str, run: Path, images: Path, tmp_path: Path, loaded: LoadedRun) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*.png")}
    below = sorted(float(row["probability"] or 0) for row in table(run, images, tmp_path, loaded))[12]
    order = TableOrder(run, [images], tmp_path / "x.csv", abstain_below=below, **{way: tmp_path / "out"})
    found = fill(order, loaded)
    assert found.n_abstained == 11
    for row in rows_of(order.out):
        source, target = Path(row["image"]), row[order.moved or ""]
        assert bool(target) == bool(row["label"])
        assert source.exists() == (way == "copy_to" or not target)
        if target:
            assert Path(target).parent == tmp_path / "out" / row["label"]
            assert Path(target).read_bytes() == before[source]
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == 13


def table(run: Path, images: Path, tmp_path: Path, loaded: LoadedRun) -> list[dict[str, str]]:
    """Fill a table that only helps to choose a threshold."""
    fill(TableOrder(run, [images], tmp_path / "plain.csv"), loaded)
    return rows_of(tmp_path / "plain.csv")


def test_a_name_that_is_taken_meanwhile(
    run: Path, images: Path, tmp_path: Path, loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = class_folders.ClassFolders._make
    taken: list[Path] = []

    def late(self: class_folders.ClassFolders, source: Path, target: Path) -> None:
        if not taken:
            taken.append(target)
            target.write_text("somebody else's", encoding="utf-8")
        if source.name == "3.png" and source.parent.name == "green disc":
            source.unlink(missing_ok=True)
        make(self, source, target)

    monkeypatch.setattr(class_folders.ClassFolders, "_make", late)
    order = TableOrder(run, [images], tmp_path / "x.csv", move_to=tmp_path / "out")
    fill(order, loaded)
    assert taken[0].read_text(encoding="utf-8") == "somebody else's"
    rows = {Path(row["image"]).relative_to(images).as_posix(): row for row in rows_of(order.out)}
    assert len(rows) == 25
    assert rows["green disc/3.png"]["label"]
    assert not rows["green disc/3.png"]["moved_to"]
    targets = [row["moved_to"] for row in rows.values() if row["moved_to"]]
    assert len(set(targets)) == 23
    assert all(Path(target).is_file() for target in targets)
    assert str(taken[0]) not in targets


def interrupted(order: TableOrder, loaded: LoadedRun) -> None:
    """Stop after two batches, as Ctrl-C does."""

    def stop(done: int, total: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_work(order) as work:
        fill_table(work, loaded, on_batch=stop)


def test_what_is_done_is_not_done_again(run: Path, images: Path, tmp_path: Path, loaded: LoadedRun) -> None:
    order = TableOrder(run, [images], tmp_path / "x.jsonl")
    interrupted(order, loaded)
    assert not order.out.exists()
    done = Journal(order.folder / "journal.jsonl", None)
    for row in done.rows():
        Path(str(row["image"])).unlink()  # so that a second look at it would find nothing
    with open_work(order) as work:
        assert (work.resumed, work.n_images) == (True, 25)
        assert fill_table(work, loaded).n_unreadable == 1
    lines = order.out.read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["image"] for line in lines}) == len(lines) == 25


def test_another_run_or_other_settings_are_refused(
    run: Path, images: Path, photos: Path, tmp_path: Path, loaded: LoadedRun
) -> None:
    order = TableOrder(run, [images], tmp_path / "x.csv")
    interrupted(order, loaded)
    other = FewShotClassifier(model=loaded.classifier.base.model_id, method="zero-shot", device="cpu")
    paths = sorted(photos.glob("*/*.png"))
    other.fit(paths, [path.parent.name[:3] for path in paths])
    other.save(tmp_path / "other")
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    for changed, text in [
        (replace(order, run=tmp_path / "other"), f"begun with another classifier, of {run}"),
        (replace(order, asked=Asked(top_k=2)), "begun with top_k = 1, not 2"),
        (replace(order, inputs=[photos]), "begun with images = "),
        (replace(order, copy_to=tmp_path / "out"), "begun with copy_to = None, not "),
    ]:
        with (
            pytest.raises(RunError, match="go on with the same, or delete the folder") as refused,
            open_work(changed),
        ):
            pass
        assert text in str(refused.value)
    assert fill(replace(order, run=moved), loaded).n_images == 25  # the same classifier in another folder


def test_what_is_there_is_not_replaced(run: Path, images: Path, tmp_path: Path, loaded: LoadedRun) -> None:
    order = TableOrder(run, [images], tmp_path / "x.csv", features=tmp_path / "x.npy")
    for name in ("x.csv", "x.npy", "x.npy.part"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
        with pytest.raises(RunError, match=f"{name}: is there already"), open_work(order):
            pass
        assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
        (tmp_path / name).unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_table_that_was_written_before_the_end_is_left_alone(
    run: Path, images: Path, tmp_path: Path, loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **more: object) -> None:
        raise KeyboardInterrupt

    order = TableOrder(run, [images], tmp_path / "x.csv")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            fill(order, loaded)
    content = order.out.read_bytes()
    with pytest.raises(RunError, match=r"x\.csv: is there already"), open_work(order):
        pass
    assert order.out.read_bytes() == content
    assert not order.folder.exists()


def test_two_processes_do_not_fill_one_table(run: Path, images: Path, tmp_path: Path) -> None:
    order = TableOrder(run, [images], tmp_path / "x.csv")
    with open_work(order), pytest.raises(RunError, match="another process is working"), open_work(order):
        pass


def test_nothing_to_answer(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    order = TableOrder(run, [tmp_path / "empty"], tmp_path / "x.csv")
    with pytest.raises(DataError, match="empty: there are no images here; name images"), open_work(order):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_damaged_work_folder_is_named(run: Path, images: Path, tmp_path: Path, loaded: LoadedRun) -> None:
    order = TableOrder(run, [images], tmp_path / "x.csv")
    interrupted(order, loaded)
    (order.folder / "settings.json").write_text("{", encoding="utf-8")
    with (
        pytest.raises(RunError, match=r"settings\.json: cannot be read .*delete the folder to begin anew"),
        open_work(order),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"out": "x.txt"}, "expected a name that ends in .csv"),
        ({"out": "no/x.csv"}, "there is no folder"),
        ({"features": "x.txt"}, "expected a name that ends in .npy"),
        ({"abstain_below": 1.5}, "expected a probability from 0 to 1"),
        ({"abstain_below": float("nan")}, "expected a probability from 0 to 1"),
        ({"move_to": "a", "copy_to": "b"}, "expected one of them"),
        ({"move_to": "in"}, "choose a folder outside of it"),
        ({"move_to": "in/sorted"}, "choose a folder outside of it"),
        ({"copy_to": "in/broken.png"}, "this is a file; expected a folder"),
    ],
)
def test_what_cannot_work_is_said_first(
    changes: dict[str, object], text: str, run: Path, images: Path, tmp_path: Path
) -> None:
    own = {name: tmp_path / value if isinstance(value, str) else value for name, value in changes.items()}
    order = replace(TableOrder(run, [images], tmp_path / "x.csv"), **own)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as refused:
        check_order(order)
    assert text in str(refused.value)
    with pytest.raises(BlockloraError), open_work(order):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_command(
    run: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "x.csv"
    code, stdout, _ = call(
        capsys, monkeypatch, "predict", run, images, "--out", out, "--threshold", 0.99, "--device", "cpu"
    )
    assert code == 0
    assert stdout == (
        "25 images; 1 cannot be read (see the column reason); 24 got no label, as none reaches 0.99; "
        f"written to {out}\n"
    )
    code, _, stderr = call(capsys, monkeypatch, "predict", run, images, "--out", out)
    assert code == 1
    assert "is there already" in stderr
    for option in ("--move-to", "--shard", "--features", "--abstain-below"):
        code, _, stderr = call(capsys, monkeypatch, "predict", run, images, option, "0")
        assert code == 1
        assert f"{option} needs --out" in stderr


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_shards_are_joined_by_concatenation(
    ending: str, run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def predict(*more: object) -> None:
        code, _, stderr = call(
            capsys,
            monkeypatch,
            "predict",
            run,
            images,
            "--out",
            tmp_path / f"x.{ending}",
            "--device",
            "cpu",
            *more,
        )
        assert code == 0, stderr

    predict()
    for place in (1, 2, 3):
        predict("--shard", f"{place}/3", "--json")
    whole, *parts = (
        (tmp_path / f"x{name}.{ending}").read_text(encoding="utf-8").splitlines()
        for name in ("", ".1-of-3", ".2-of-3", ".3-of-3")
    )
    header = [whole[0]] if ending == "csv" else []
    joined = [*header, *(line for part in parts for line in part[len(header) :])]
    assert all(part[: len(header)] == header for part in parts)

    def read(lines: list[str]) -> dict[str, dict[str, object]]:
        rows = csv.DictReader(lines) if ending == "csv" else map(json.loads, lines)
        return {row["image"]: {**row, "probability": float(row["probability"] or 0)} for row in rows}

    expected, found = read(whole), read(joined)
    assert len(joined) == len(whole)
    assert found.keys() == expected.keys()
    for image, row in found.items():  # batches are cut elsewhere, which changes the last digits
        assert row == {
            **expected[image],
            "probability": pytest.approx(expected[image]["probability"], abs=1e-6),
        }
    assert not list(tmp_path.glob("*.work"))


def test_a_mistyped_path_is_named_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    order = TableOrder(run, [tmp_path / "nowhere"], tmp_path / "x.csv")
    said = "nowhere: this path does not exist; expected an image or a folder"
    with pytest.raises(DataError, match=said), open_work(order):
        pass
    assert list(tmp_path.iterdir()) == []
    order.folder.mkdir()  # a file that was named may have been moved by the work that goes on
    check_order(order)
