"""Nothing reaches the test part before training has ended."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import blocklora
from blocklora.core.errors import SealedTestError
from blocklora.data import few_shot, half_of_classes, leaks, seal, split_record, training_record

MESSAGE = "the test images were touched before training had ended"


@pytest.mark.parametrize(
    "touch",
    [len, list, tuple, bool, lambda test: test[0], lambda test: test[-1:], lambda test: 3 in test,
     lambda test: [*test], lambda test: list(reversed(test)), lambda test: test.count(1), lambda test: test.index(1)],
)  # fmt: skip
def test_touching_it_raises(touch, make_dataset):
    dataset = make_dataset([0, 1], [0, 1], [0, 1])
    dataset, split, _ = seal(dataset, few_shot(dataset, 1, 0))
    for test in (dataset.test, split.test):
        with pytest.raises(SealedTestError, match=MESSAGE):
            touch(test)


def test_so_does_whatever_is_computed_from_it(make_dataset):
    dataset = make_dataset([0, 1, 2, 3], [0, 1], [0, 1])
    dataset, split, sealed = seal(dataset, few_shot(dataset, 1, 0))
    assert training_record(split, dataset.class_names).keys() == {"train", "val", "folder", "training_hash"}
    for compute in (
        lambda: split_record(split, dataset.class_names),
        lambda: leaks(split),
        lambda: half_of_classes(dataset, split, "base"),
    ):
        with pytest.raises(SealedTestError, match=MESSAGE):
            compute()
    assert "Example" not in repr(dataset.test)
    assert [example.image for example in sealed.open_after_training()] == ["test/0", "test/1"]


def test_only_the_shots_are_left_of_the_training_images(make_dataset):
    dataset = make_dataset([0, 0, 0, 1, 1, 1], [0, 0, 1], [0, 1])
    seen, split, _ = seal(dataset, few_shot(dataset, 1, 0))
    assert (seen.train, seen.val) == (split.train, split.val)
    assert (len(seen.train), len(seen.val)) == (2, 2)


def test_the_seal_is_opened_in_one_place_only():
    source = Path(blocklora.__file__).parent
    places = [
        (path.relative_to(source).as_posix(), node.lineno)
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "open_after_training"
    ]
    assert [name for name, _ in places] == ["run/fit.py"]
    private = [
        path.name for path in source.rglob("*.py") if "_SealedTest__" in path.read_text(encoding="utf-8")
    ]
    assert private == []
    lines = (source / "run" / "fit.py").read_text(encoding="utf-8").splitlines()
    trained = next(number for number, line in enumerate(lines, start=1) if ".fit(prepared" in line)
    assert places[0][1] > trained
