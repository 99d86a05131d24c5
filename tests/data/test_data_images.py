from __future__ import annotations

import os
import struct
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, features

from blocklora.core.errors import ConfigError, ImageError
from blocklora.data import IMAGE_ENDINGS, cut_long_side, open_for_model, open_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def corners(size=(24, 16)):
    """An image whose four quarters are red, green, blue and white, from the top left in reading order."""
    quarters = np.array([[RED, GREEN], [BLUE, WHITE]], dtype=np.uint8)
    return Image.fromarray(quarters).resize(size, Image.Resampling.NEAREST)


def grey_ramp():
    """(2, 256) values 0..65535 in equal steps."""
    return np.linspace(0, 65535, 512).round().astype(np.uint16).reshape(2, 256)


# ---- formats


@pytest.mark.parametrize("ending", sorted(IMAGE_ENDINGS))
def test_every_ending_that_counts_as_a_image_can_be_read(tmp_path, ending):
    kind = {".jfif": "JPEG", ".pgm": "PPM"}.get(ending)
    image = open_image(saved(corners((64, 48)), tmp_path / f"x{ending}", format=kind))
    assert image.size == (64, 48)
    assert np.abs(pixels(image) - pixels(corners((64, 48)))).mean() < 12


def test_upper_case_wrong_and_missing_endings_do_not_matter(tmp_path):
    for name in ("x.JPG", "photo", "x.txt"):
        path = saved(corners(), tmp_path / name, format="PNG")
        assert (pixels(open_image(path)) == pixels(corners())).all()


def test_path_text_bytes_and_image_give_the_same(tmp_path):
    path = saved(corners(), tmp_path / "ä b.png")
    expected = pixels(corners())
    for source in (path, str(path), path.read_bytes(), corners()):
        assert (pixels(open_image(source)) == expected).all()


def test_a_image_in_memory_is_copied_not_changed():
    image = corners()
    opened = open_image(image)
    opened.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == RED


def test_cmyk_jpeg(tmp_path):
    # Pillow writes CMYK inverted with Adobe's marker, as Photoshop does
    path = saved(corners((64, 48)).convert("CMYK"), tmp_path / "x.jpg", quality=95)
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    assert np.abs(pixels(open_image(path)) - pixels(corners((64, 48)))).mean() < 8


def test_ycck_jpeg(tmp_path):
    # Adobe's transform 2: C, M and Y are stored as if they were R, G and B turned to YCbCr. Red's inks,
    # (0, 255, 255, 0), are then (179, 171, 0) and K, inverted, 255; Pillow inverts what it writes.
    inks = Image.new("CMYK", (16, 16), (255 - 179, 255 - 171, 255 - 0, 0))
    stored = saved(inks, tmp_path / "x.jpg", quality=95).read_bytes()
    transform = stored.index(b"Adobe") + 11
    assert stored[transform] == 0
    path = tmp_path / "ycck.jpg"
    path.write_bytes(stored[:transform] + b"\x02" + stored[transform + 1 :])
    assert np.abs(pixels(open_image(path)) - RED).max() < 6


def test_palette_with_transparency_lies_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    for ending in ("png", "gif"):
        path = saved(image, tmp_path / f"x.{ending}", transparency=1)
        assert pixels(open_image(path)).tolist() == [[list(RED), list(WHITE)]]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("LA", [(0, 255), (0, 0), (0, 128)], [0, 255, 127]),
        ("RGBA", [(0, 0, 0, 255), (9, 9, 9, 0), (0, 0, 0, 128)], [0, 255, 127]),
    ],
)
def test_transparent_pixels_lie_on_white(tmp_path, mode, values, expected):
    image = Image.new(mode, (3, 1))
    image.putdata(values)
    shown = pixels(open_image(saved(image, tmp_path / "x.png")))
    assert np.abs(shown - np.array(expected)[None, :, None]).max() <= 1


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "LA", "RGBA"])
def test_every_mode_with_alpha_in_memory(mode):
    clear = Image.new("RGBA", (1, 1), (40, 40, 40, 0))
    image = clear.convert("LA" if "L" in mode else "RGBA").convert(mode)
    assert pixels(open_image(image)).ravel().tolist() == list(WHITE)


@pytest.mark.parametrize(("mode", "clear", "kept"), [("RGB", RED, BLUE), ("L", 0, 100)])
def test_one_colour_declared_transparent(tmp_path, mode, clear, kept):
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), kept)
    shown = pixels(open_image(saved(image, tmp_path / "x.png", transparency=clear)))
    assert shown[0, 0].tolist() == list(WHITE)
    assert shown[0, 1].tolist() == list(kept if mode == "RGB" else (kept,) * 3)


def test_one_bit(tmp_path):
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    for ending in ("png", "tif", "bmp"):
        shown = pixels(open_image(saved(image, tmp_path / f"x.{ending}")))
        assert shown.tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_over_their_whole_range(tmp_path, ending):
    ramp = grey_ramp()
    shown = pixels(open_image(saved(Image.fromarray(ramp), tmp_path / f"x.{ending}")))
    assert (shown == np.rint(ramp / 257).astype(int)[..., None]).all()
    dark = pixels(open_image(saved(Image.fromarray(ramp // 256), tmp_path / f"dark.{ending}")))
    assert dark.max() == 1  # a dark image stays dark


def test_big_endian_sixteen_bits():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 257, 65535))
    assert pixels(open_image(image))[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 256.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 50_000.0, 100_000.0], [0, 128, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_float_grey(tmp_path, values, expected):
    image = Image.fromarray(np.array([values], dtype=np.float32))
    shown = pixels(open_image(saved(image, tmp_path / "x.tif")))
    assert shown[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 255, 65535], [0, 1, 255]), ([-100, 0, 155], [0, 100, 255])]
)
def test_wide_integer_grey(values, expected):
    image = Image.fromarray(np.array([values], dtype=np.int32))
    assert pixels(open_image(image))[0, :, 0].tolist() == expected


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in (RED, GREEN, BLUE)]
    for ending in ("gif", "png", "webp"):
        options = {"lossless": True} if ending == "webp" else {}
        path = saved(frames[0], tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], **options)
        assert (pixels(open_image(path)) == RED).all()


def test_first_page_of_a_tiff_and_first_image_of_an_mpo(tmp_path):
    pages = [Image.new("RGB", (8, 8), colour) for colour in (BLUE, GREEN)]
    tiff = saved(pages[0], tmp_path / "x.tiff", save_all=True, append_images=pages[1:])
    assert (pixels(open_image(tiff)) == BLUE).all()
    mpo = saved(pages[0], tmp_path / "x.jpg", format="MPO", save_all=True, append_images=pages[1:])
    assert np.abs(pixels(open_image(mpo)) - BLUE).max() < 4


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_every_orientation_comes_upright(tmp_path, orientation, ending):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored a quarter to the left; the viewer turns it right
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners().transpose(undo[orientation]) if orientation > 1 else corners()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if ending == "jpg" else {}
    options |= {"lossless": True} if ending == "webp" else {}
    shown = open_image(saved(stored, tmp_path / f"x.{ending}", exif=exif, **options))
    assert shown.size == (24, 16)
    assert np.abs(pixels(shown) - pixels(corners())).max() < 40
    assert (pixels(open_image(shown)) == pixels(shown)).all()  # and is not turned twice


def test_sixteen_bits_are_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    shown = open_image(saved(Image.fromarray(grey_ramp()), tmp_path / "x.png", exif=exif))
    assert (pixels(shown)[0, 0, 0], pixels(shown)[-1, -1, 0]) == (255, 0)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f",
        b"Exif\0\0",
    ],
)
def test_a_broken_exif_block_counts_as_none(tmp_path, block):
    path = saved(corners(), tmp_path / "x.png", exif=block)
    assert (pixels(open_image(path)) == pixels(corners())).all()
    path = saved(corners(), tmp_path / "x.jpg", exif=block)
    assert open_image(path).size == (24, 16)


def test_an_orientation_that_does_not_exist_counts_as_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    path = saved(corners(), tmp_path / "x.png", exif=exif)
    assert (pixels(open_image(path)) == pixels(corners())).all()


# ---- what is no image


def test_a_truncated_image_is_refused_by_name(tmp_path):
    for ending in ("jpg", "png", "gif", "bmp", "tif"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = saved(Image.fromarray(noise), tmp_path / f"cut.{ending}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageError, match=rf"cut\.{ending}: the image is damaged, cut short"):
            open_image(path)


def test_a_cut_header_is_refused(tmp_path):
    path = saved(corners(), tmp_path / "x.jpg")
    path.write_bytes(path.read_bytes()[:24])
    with pytest.raises(ImageError, match="replace or remove it"):
        open_image(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "x.jpg").touch()
    with pytest.raises(ImageError, match=r"x\.jpg: the file is empty \(0 bytes\)"):
        open_image(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match=r"image in memory: the file is empty"):
        open_image(b"")


@pytest.mark.parametrize("text", ["hello", "<html><body>404</body></html>", "BM, said the text", "P6", "a"])
def test_text_called_jpg_is_refused(tmp_path, text):
    (tmp_path / "x.jpg").write_text(text)
    with pytest.raises(ImageError, match=r"x\.jpg: (this is not an image|the image is damaged)"):
        open_image(tmp_path / "x.jpg")


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(ImageError, match="not an image in a format that can be read"):
        open_image(tmp_path / "x.png")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(ImageError, match=r"x\.jpg: this is a folder: give the path of an image file"):
        open_image(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match=r"gone\.jpg: there is no such file: check the path"):
        open_image(tmp_path / "gone.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="not a plain file"):
        open_image(tmp_path / "x.jpg")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = saved(corners(), tmp_path / "x.png")

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(ImageError, match="no permission to read this file"):
        open_image(path)


def test_impossible_paths_are_refused():
    with pytest.raises(ImageError, match="the file cannot be opened"):
        open_image("a\0b.jpg")
    if sys.platform != "win32":
        with pytest.raises(ImageError, match="the file cannot be opened"):
            open_image("x" * 5000 + ".jpg")


def test_a_decompression_bomb_is_refused_and_nothing_warns(tmp_path, monkeypatch):
    path = saved(Image.new("1", (300, 200)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    with pytest.raises(ImageError, match=r"300 x 200 pixels are more than the 40000 that are read"):
        open_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)  # Pillow's own door would warn here
    with warnings.catch_warnings(record=True) as caught:
        assert open_image(path).size == (300, 200)
    assert not caught
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(path).size == (300, 200)


def test_a_image_in_memory_that_cannot_be_shown_is_refused_by_its_name():
    with pytest.raises(ImageError, match=r"image in memory: .*its size is 0 x 3"):
        open_image(Image.new("RGB", (0, 3)))
    with pytest.raises(ImageError, match=r"digits/0001: the image is damaged"):
        open_image(Image.new("RGB", (0, 3)), name="digits/0001")


def test_bytes_are_named_as_asked():
    with pytest.raises(ImageError, match=r"^table#3: this is not an image"):
        open_image(b"no image at all", name="table#3")


# ---- draft


@pytest.mark.parametrize(
    ("min_side", "expected"), [(None, 400), (64, 100), (100, 100), (101, 200), (999, 400)]
)
def test_min_side_decodes_a_big_jpeg_to_a_fraction(tmp_path, min_side, expected):
    path = saved(corners((800, 400)), tmp_path / "x.jpg")
    image = open_image(path, min_side=min_side)
    assert image.size == (2 * expected, expected)
    small = pixels(corners(image.size))
    assert np.abs(pixels(image) - small).mean() < 6


def test_min_side_holds_for_the_turned_image_and_changes_no_other_format(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(saved(corners((800, 400)), tmp_path / "x.jpg", exif=exif), min_side=64).size == (
        100,
        200,
    )
    assert open_image(saved(corners((800, 400)), tmp_path / "x.png"), min_side=64).size == (800, 400)
    assert open_image(corners((800, 400)), min_side=64).size == (800, 400)


@pytest.mark.parametrize("min_side", [0, -3])
def test_min_side_below_one_is_refused(min_side):
    with pytest.raises(ConfigError, match=f"min_side is {min_side}: give a number of pixels, 1 or more"):
        open_image(corners(), min_side=min_side)


def test_a_model_gets_no_less_than_twice_its_side(tmp_path):
    path = saved(corners((800, 400)), tmp_path / "x.jpg")
    assert open_for_model(path, 100).size == (400, 200)
    assert open_for_model(path, 101).size == (800, 400)
    assert (pixels(open_for_model(path, 32)) == pixels(open_image(path, min_side=64))).all()
    small = saved(corners((90, 60)), tmp_path / "y.jpg")
    assert (
        pixels(open_for_model(small, 64)) == pixels(open_image(small))
    ).all()  # nothing changes below twice
    with pytest.raises(ImageError, match=r"^image 3: this is not an image"):
        open_for_model(b"text", 32, name="image 3")


# ---- long images


@pytest.mark.parametrize(
    ("size", "expected"), [((160, 10), (160, 10)), ((10, 160), (10, 160)), ((3, 3), (3, 3))]
)
def test_usual_images_are_not_cut(size, expected):
    assert cut_long_side(corners(size)).size == expected


@pytest.mark.parametrize(("length", "kept"), [(5000, 16), (5001, 17), (17, 17), (18, 16)])
def test_a_very_long_image_keeps_its_exact_middle(length, kept):
    row = np.arange(length) % 251
    image = Image.fromarray(np.repeat(row.astype(np.uint8)[None, :, None], 3, axis=2))
    start = (length - kept) // 2
    assert start * 2 + kept == length
    assert pixels(cut_long_side(image))[0, :, 0].tolist() == row[start : start + kept].tolist()
    turned = cut_long_side(image.transpose(Image.Transpose.ROTATE_270))
    assert pixels(turned)[:, 0, 0].tolist() == row[start : start + kept].tolist()


# ---- names


def test_a_link_that_leads_nowhere_is_called_a_link(tmp_path):
    try:
        os.symlink(tmp_path / "gone.png", tmp_path / "x.png")
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(ImageError, match=r"x\.png: this is a link to .*gone\.png, which is not there: check"):
        open_image(tmp_path / "x.png")


def test_home_is_expanded_in_a_path_that_is_given_as_text(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    saved(corners(), tmp_path / "x.png")
    assert open_image("~/x.png").size == (24, 16)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_unicode_is_opened_and_shown_with_escapes(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    with open(path, "wb") as stream:
        corners().save(stream, "PNG")
    assert open_image(path).size == (24, 16)
    with open(path, "wb") as stream:
        stream.write(b"text")
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert "caf\\udce9.png: this is not an image" in str(caught.value)


def test_endings_are_lower_case_and_avif_is_there_where_pillow_has_it():
    assert all(ending == ending.lower() and ending.startswith(".") for ending in IMAGE_ENDINGS)
    assert (".avif" in IMAGE_ENDINGS) == bool(features.check("avif"))
