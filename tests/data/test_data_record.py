from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from PIL import Image

from blocklora.core.errors import ImageError
from blocklora.data import (
    Example,
    FewShotSplit,
    Unreadable,
    leaks,
    load_dataset,
    open_image,
    readable,
    split_record,
)

CLASSES = ("cat", "dog")


@pytest.fixture
def split(make_files):
    """A split of files, bytes and images in memory, all different."""
    root = make_files("1.png", "2.png", "3.png")
    return FewShotSplit(
        train=(Example("1.png", 0, root / "1.png"), Example("2.png", 1, root / "2.png")),
        val=(Example("t#1", 0, (root / "3.png").read_bytes()),),
        test=(
            Example("m/0", 1, Image.new("RGB", (5, 4), "red")),
            Example("m/1", 0, Image.new("L", (5, 4), 9)),
        ),
    )


# ---- split_record


def test_record_is_plain_json_with_names_and_labels(split):
    record = split_record(split, CLASSES)
    assert json.loads(json.dumps(record)) == record
    for place, label, name in ((0, 0, "cat"), (1, 1, "dog")):
        example = split.train[place]
        digest = hashlib.sha256(example.source.read_bytes()).hexdigest()
        named = {"image": example.image, "label": label, "class_name": name, "sha256": digest}
        assert record["train"][place] == named
    assert record["val"][0]["sha256"] == hashlib.sha256(split.val[0].source).hexdigest()
    assert record["folder"] == str(split.train[0].source.parent)
    assert [len(record[part]) for part in ("train", "val", "test")] == [2, 1, 2]


def test_hash_is_the_one_of_the_formula(split):
    def line(*values):
        return json.dumps(list(values), separators=(",", ":")).encode() + b"\n"

    expected = line(*CLASSES)
    for part, examples in (("train", split.train), ("val", split.val)):
        for example in examples:
            content = example.source if isinstance(example.source, bytes) else example.source.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            expected += line(part, example.image, example.label, digest)
    for example in split.test:
        rgb = example.source.convert("RGB")
        expected += line(
            "test", example.image, example.label, hashlib.sha256(b"[5,4]\n" + rgb.tobytes()).hexdigest()
        )
    assert split_record(split, CLASSES)["hash"] == hashlib.sha256(expected).hexdigest()


def test_hash_does_not_depend_on_where_the_files_are(make_files):
    pairs = [f"{name}/{i}.png" for name in "ab" for i in "1234"]
    one = make_files(*pairs)
    two = make_files(root="elsewhere")
    for pair in pairs:
        (two / pair).parent.mkdir(exist_ok=True)
        (two / pair).write_bytes((one / pair).read_bytes())
    hashes = set()
    for root in (one, two):
        dataset = load_dataset(root, seed=5)
        whole = FewShotSplit(dataset.train, dataset.val, dataset.test)
        hashes.add(split_record(whole, dataset.class_names)["hash"])
    assert len(hashes) == 1


def test_hash_feels_every_change(split, make_files):
    first, second = split.train
    other = Image.new("RGB", (5, 4), "red")
    other.putpixel((4, 3), (254, 0, 0))
    changed = [
        replace(split, train=(second, first)),
        replace(split, train=(first,)),
        replace(split, train=(replace(first, label=1), second)),
        replace(split, train=(replace(first, image="1.PNG"), second)),
        replace(split, train=(replace(first, source=second.source), second)),
        replace(split, val=(), train=(*split.train, *split.val)),
        replace(split, val=(replace(split.val[0], source=split.val[0].source + b"\0"),)),
        replace(split, test=(replace(split.test[0], source=other), split.test[1])),
        replace(split, test=(replace(split.test[0], source=Image.new("RGB", (4, 5), "red")), split.test[1])),
    ]
    hashes = [split_record(each, CLASSES)["hash"] for each in (split, *changed)]
    hashes.append(split_record(split, ("cat", "dogs"))["hash"])
    assert len(set(hashes)) == len(hashes)
    assert split_record(split, CLASSES)["hash"] == hashes[0]


def test_a_big_file_is_hashed_whole(tmp_path):
    content = bytearray(3 << 20)
    hashes = []
    for last in (0, 1):
        content[-1] = last
        (tmp_path / "x.png").write_bytes(content)
        split = FewShotSplit((Example("x.png", 0, tmp_path / "x.png"),), (), ())
        hashes.append(split_record(split, CLASSES)["hash"])
    assert hashes[0] != hashes[1]


def test_a_file_that_is_gone_is_named(split):
    gone = split.train[0].source
    gone.unlink()
    with pytest.raises(ImageError, match=r"1\.png: the file can no longer be read .*: put it back, or load"):
        split_record(split, CLASSES)
    with pytest.raises(ImageError, match=r"1\.png: the file can no longer be read"):
        leaks(split)


# ---- leaks


def test_no_leak_between_different_images(split):
    assert leaks(split) == []


def test_identical_images_are_found_in_the_order_of_the_test_part(split):
    first, second = split.train
    (lone,) = split.val
    test = (
        Example("copy of 2", 0, second.source.read_bytes()),
        *split.test,
        Example("copy of 3", 0, lone.source),
        Example("copy of 1", 0, first.source),
        Example("another copy of 2", 1, second.source),
    )
    assert leaks(replace(split, test=test)) == [
        ("2.png", "copy of 2"),
        ("t#1", "copy of 3"),
        ("1.png", "copy of 1"),
        ("2.png", "another copy of 2"),
    ]


def test_equal_sizes_alone_are_no_leak_and_images_in_memory_are_compared():
    grey, other = Image.new("L", (2, 3), 7), Image.new("L", (2, 3), 8)
    train = (Example("a", 0, grey),)
    test = (Example("b", 0, other), Example("c", 0, grey.convert("RGB")))
    assert leaks(FewShotSplit(train, (), test)) == [("a", "c")]


def test_the_first_of_equal_training_images_is_named():
    image = Image.new("L", (1, 1))
    train = (Example("a", 0, image), Example("b", 0, image))
    assert leaks(FewShotSplit(train, train, (Example("c", 0, image),))) == [("a", "c")]


# ---- readable


@pytest.mark.parametrize("workers", [None, 1, 7])
def test_readable_keeps_the_order_and_gives_reasons(make_files, workers):
    root = make_files(*(f"{i}.png" for i in range(30)))
    for i in range(0, 30, 7):
        (root / f"{i}.png").write_bytes(b"")
    examples = [Example(f"{i}.png", 0, root / f"{i}.png") for i in reversed(range(30))]
    good, bad = readable(iter(examples), workers=workers)
    assert good == [e for e in examples if int(e.image[:-4]) % 7]
    assert [item.image for item in bad] == ["28.png", "21.png", "14.png", "7.png", "0.png"]
    with pytest.raises(ImageError) as error:
        open_image(root / "28.png")
    assert bad[0] == Unreadable("28.png", str(error.value))


def test_readable_of_nothing():
    assert readable([]) == ([], [])


def test_readable_uses_the_decoder_given_and_does_not_hide_bugs():
    examples = [Example("a", 0, b"a"), Example("b", 0, b"b")]
    seen = []

    def decode(source):
        seen.append(source)
        if source == b"b":
            raise ImageError("b: no")
        return Image.new("RGB", (1, 1))

    good, bad = readable(examples, decode)
    assert (good, bad) == ([examples[0]], [Unreadable("b", "b: no")])
    assert sorted(seen) == [b"a", b"b"]

    def broken(source):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        readable(examples, broken)
