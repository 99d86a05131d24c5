"""Everything that can be wrong before training is found before training."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blocklora.clip import class_features, load_clip
from blocklora.core.errors import ConfigError, DataError, ModelError
from blocklora.data import Dataset, Example, few_shot
from blocklora.methods import Prepared, fit_config, prepare

COLOURS = ("red", "green", "dark_blue")


def images(part: str) -> tuple[Example, ...]:
    return tuple(
        Example(f"{part}/{name}", label, Image.new("RGB", (40, 36), name.removeprefix("dark_")))
        for label, name in enumerate(COLOURS)
    )


DATASET = Dataset("colours", COLOURS, images("train"), images("val"), (), flip=False)


def prepared(clip_folder: Path, dataset: Dataset = DATASET, **options: Any) -> Prepared:
    config = fit_config(**({"model": str(clip_folder), "method": "zero-shot", "device": "cpu"} | options))
    return prepare(config, dataset, few_shot(dataset, None, 0))


def test_a_task_is_what_the_data_and_the_config_say(clip_folder: Path) -> None:
    found = prepared(clip_folder, prompt="the colour {}", ensemble=("a {}.", "many {}"))
    task = found.task
    assert task.class_names == COLOURS
    assert task.prompts == ("the colour red", "the colour green", "the colour dark blue")
    assert len(task.tokens) == len(task.ensemble[0]) == len(task.ensemble[1]) == 3
    assert len(task.ensemble) == 2
    assert [example.image for example in task.train] == [example.image for example in DATASET.train]
    assert len(task.val) == 3
    assert task.flip is False
    assert found.unreadable == ()
    assert class_features(found.clip.model, task.tokens).shape == (3, 16)


def test_unreadable_images_are_set_apart(clip_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    more = replace(DATASET, train=(*DATASET.train, Example("broken.png", 0, broken)))
    found = prepared(clip_folder, more)
    assert [bad.image for bad in found.unreadable] == ["broken.png"]
    assert len(found.task.train) == 3
    alone = replace(DATASET, train=(Example("broken.png", 0, broken), *DATASET.train[1:]))
    with pytest.raises(DataError, match=r"colours: no readable training image for .*red.*1 image could not"):
        prepared(clip_folder, alone)


def test_one_class_is_too_few(clip_folder: Path) -> None:
    one = Dataset("one", ("red",), DATASET.train[:1], (), ())
    with pytest.raises(DataError, match="one: 1 class; a classifier needs two or more"):
        prepared(clip_folder, one)


def test_notes_of_a_task_that_may_surprise(clip_folder: Path) -> None:
    dataset = replace(DATASET, class_names=("blue", "BLUE", "a " * 40), val=())
    notes = prepared(clip_folder, dataset).notes
    assert any("'blue' and 'BLUE' have the same prompt to the text tower" in note for note in notes)
    assert any(note.startswith("1 prompt of more than 24 tokens was cut at the end") for note in notes)


def test_prompts_need_a_place_for_the_name(clip_folder: Path) -> None:
    with pytest.raises(ConfigError, match="a photo"):
        prepared(clip_folder, prompt="a photo")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        prepared(tmp_path / "nowhere")


def test_methods_name_the_families_that_they_work_on(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load_clip(str(clip_folder))
    clip.model.config.model_type = "siglip"
    module = importlib.import_module("blocklora.methods.prepare")  # as an attribute that name is the function
    monkeypatch.setattr(module, "load_clip", lambda *_: clip)
    with pytest.raises(
        ConfigError, match=r"method 'coop': works on models of the type clip or metaclip_2, and"
    ):
        prepared(clip_folder, method="coop")
    assert prepared(clip_folder, method="clip-lora").clip is clip
