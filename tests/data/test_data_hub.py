"""Data sets of the hub, from Parquet files as the hub makes them, without a network."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from blocklora.core.errors import DataError
from blocklora.data import DataChoice, choose, few_shot, hub, load_dataset, open_image


def encoded(shade, kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(stream, kind)
    return stream.getvalue()


def write_parquet(path, columns, features=None):
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A folder that stands for a repository on the hub; what is written there can be downloaded."""
    monkeypatch.setenv("BLOCKLORA_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "repository"
    asked = []

    class Api:
        def list_repo_files(self, name, *, repo_type, revision):
            assert (repo_type, revision) == ("dataset", "refs/convert/parquet")
            if not repository.is_dir():
                raise OSError("404")
            return [path.relative_to(repository).as_posix() for path in repository.rglob("*.*")]

    def download(name, path, *, repo_type, revision):
        asked.append(path)
        return str(repository / path)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return repository, asked


def write_typed(repository, splits, names, column="label"):
    for split, labels in splits.items():
        write_parquet(
            repository / "default" / split / "0000.parquet",
            {"image_id": list(range(len(labels))),
             "image": [{"bytes": encoded(n), "path": f"{n}.png"} for n in range(len(labels))], column: labels},
            {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}},
        )  # fmt: skip


def test_columns_names_and_splits(online):
    repository, _ = online
    write_typed(
        repository,
        {"train": [1, 0, 1, 0], "test": [0, 1]},
        ["n01440764 tench, Tinca tinca", "great_white_shark"],
    )
    dataset = load_dataset("hf:tanganke/sharks")
    assert dataset.class_names == ("tench", "great white shark")
    assert [(e.image, e.label) for e in dataset.train] == [
        ("train/0000000.png", 1), ("train/0000001.png", 0), ("train/0000002.png", 1), ("train/0000003.png", 0),
    ]  # fmt: skip
    assert len(dataset.test) == 2
    assert open_image(dataset.train[3].source).getpixel((0, 0)) == (3, 0, 0)
    assert dataset.notes[0] == "read from 'image' and 'label' of tanganke/sharks on the hub"


def test_images_are_unpacked_once(online, monkeypatch):
    repository, asked = online
    write_typed(repository, {"train": [1, 0, 1, 0], "test": [0, 1]}, ["a", "b"])
    first = load_dataset("hf:me/it")
    monkeypatch.setattr(hub, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert load_dataset("hf:me/it") == first
    assert asked == ["default/test/0000.parquet", "default/train/0000.parquet"] * 2


def test_what_was_unpacked_is_there_offline(online):
    repository, _ = online
    write_typed(repository, {"train": [1, 0, 1, 0], "test": [0, 1]}, ["a", "b"])
    first = load_dataset("hf:me/it")
    repository.rename(repository.with_name("gone"))
    assert load_dataset("hf:me/it") == first
    listing = next(hub.cache_folder().rglob("listing.json"))
    listing.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be reached"):
        load_dataset("hf:me/it")


def test_the_same_sampling_and_a_known_prompt(online):
    repository, _ = online
    write_typed(repository, {"train": [0] * 30 + [1] * 30, "validation": [0, 1]}, ["apple_pie", "pho"])
    dataset, split = choose(DataChoice("hf:ethz/food101"), 4, 1)
    assert dataset.prompt == "a photo of {}, a type of food."
    assert [int(e.image[6:13]) for e in split.train[:4]] == [4, 18, 27, 25]  # the golden vector of seed 1
    assert (len(split.test), dataset.val) == (2, ())
    assert any("validation split is the test part" in note for note in dataset.notes)
    assert not {e.image for e in split.val} & {e.image for e in split.test}
    assert split.val == few_shot(dataset, 4, 1).val


def test_columns_without_types(online):
    repository, _ = online
    for split in ("train", "test"):
        write_parquet(
            repository / "default" / split / "0000.parquet",
            {
                "__key__": ["x", "y", "z"],
                "webp": [encoded(n, "WEBP") for n in range(3)],
                "cls": ["10", "9", "10"],
            },
        )
    dataset = load_dataset("hf:clip-benchmark/wds_vtab-caltech101")
    assert dataset.class_names == ("9", "10")
    assert dataset.train[0].image.endswith(".webp")


def test_a_typed_column_wins(online):
    repository, _ = online
    write_typed(repository, {"train": [0, 1], "test": [0, 1]}, ["707-320", "727-200"], column="variant")
    assert load_dataset("hf:HuggingFaceM4/FGVC-Aircraft").class_names == ("707-320", "727-200")


def test_configurations(online):
    repository, _ = online
    for config in ("family", "variant"):
        write_typed(repository, {"train": [0, 1], "test": [0, 1]}, [f"{config} a", f"{config} b"])
        (repository / "default").rename(repository / config)
    with pytest.raises(DataError, match="choose a configuration of me/planes, as in hf:me/planes:family"):
        load_dataset("hf:me/planes")
    with pytest.raises(DataError, match="found are 'family', 'variant'"):
        load_dataset("hf:me/planes:maker")
    assert load_dataset("hf:me/planes:variant").class_names == ("variant a", "variant b")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [0]}, "no column of images among 'text', 'label'"),
        ({"image": [b"x"], "text": ["a"]}, "no column of labels among 'image', 'text'"),
        ({"image": [None], "label": [0]}, "row 0 of train has no image or no label"),
    ],
)
def test_sets_of_another_kind(columns, message, online):
    repository, _ = online
    write_parquet(repository / "default" / "train" / "0000.parquet", columns)
    with pytest.raises(DataError, match=message):
        load_dataset("hf:me/it")


def test_a_label_without_a_name(online):
    repository, _ = online
    write_typed(repository, {"train": [0, 2], "test": [0, 1]}, ["a", "b"])
    with pytest.raises(DataError, match="has label 2: expected one of 2 classes"):
        load_dataset("hf:me/it")


def test_no_such_set(online):
    with pytest.raises(DataError, match=r"hf:me/nothing: the hub has no such data set, .* \(OSError: 404"):
        load_dataset("hf:me/nothing")


def test_a_download_that_breaks_off(online, monkeypatch):
    repository, _ = online
    write_typed(repository, {"train": [0, 1]}, ["a", "b"])
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(OSError("reset")))
    with pytest.raises(DataError, match=r"default/train/0000\.parquet cannot be downloaded \(reset\)"):
        load_dataset("hf:me/it")


def test_a_cache_that_cannot_be_written_is_named(online, monkeypatch, tmp_path):
    repository, _ = online
    write_typed(repository, {"train": [0, 1]}, ["a", "b"])
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLOCKLORA_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        DataError, match=r"its images cannot be unpacked into .*file.*: name another folder with the var"
    ):
        load_dataset("hf:me/it")
