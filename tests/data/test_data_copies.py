"""Copies among the images of a fit, by their pixels."""

from __future__ import annotations

import io

from PIL import Image

from blocklora.data import Copies, Example

CLASSES = ("cat", "dog")


def as_bytes(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def notes_of(train: list[Example], val: list[Example]) -> list[str]:
    copies = Copies()
    for one in (*train, *val):
        copies.open(one.source)
    return copies.notes(train, val, CLASSES)


def test_the_same_pixels_under_two_labels_are_named_whatever_the_bytes():
    image, other = Image.new("RGB", (6, 5), "red"), Image.new("RGB", (5, 6), "red")
    png, bmp = as_bytes(image, "PNG"), as_bytes(image, "BMP")
    train = [Example("1", 0, png), Example("2", 0, other), Example("3", 1, bmp)]
    assert notes_of(train, []) == [
        "1 image has the same content as an image of another class, e.g. 3 ('dog') and 1 ('cat'): keep each in one "
        "class"
    ]
    more = [*train, Example("4", 1, as_bytes(other, "PNG"))]
    assert notes_of(more, [])[0].startswith("2 images have the same content")


def test_validation_images_that_train_too_are_named():
    image = Image.new("RGB", (6, 5), "red")
    found = notes_of(
        [Example("1", 0, image)], [Example("2", 0, image.copy()), Example("3", 0, as_bytes(image, "PNG"))]
    )
    assert found == [
        "2 validation images have the same content as a training image, e.g. 2 and 1: what is chosen by validation is "
        "flattered; remove the copies"
    ]


def test_different_images_and_copies_of_one_class_are_no_matter():
    one, two = Image.new("RGB", (6, 5), "red"), Image.new("RGB", (6, 5), "blue")
    assert notes_of([Example("1", 0, one), Example("2", 0, one.copy())], [Example("3", 1, two)]) == []
    assert notes_of([], []) == []
