"""The page in a real browser: an upload, a result, an error, the keyboard, the token, the camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, browser
from fastapi.testclient import TestClient
from small_service import Small, listening, png

FILES = ("", "page.css", "page.js")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(Small(max_body=100_000).app) as (address, _):
        yield address


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A light image, a dark one, and a file that is none."""
    for name, content in (("light.png", png(255)), ("dark.png", png(0)), ("no.png", b"<svg/>")):
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in ("light.png", "dark.png", "no.png")]


def test_its_files_stand_in_the_package_and_ask_nobody_else() -> None:
    with TestClient(Small().app) as client:
        for name in FILES:
            response = client.get(f"/{name}")
            assert response.status_code == 200
            assert "//" not in response.text.replace("// ", "")
            assert "script-src 'self'" in response.headers["content-security-policy"]
        text = client.get("/").text
        assert " style=" not in text
        assert " onclick=" not in text


@in_browser
def test_images_are_chosen_and_answered(page: Page, address: str, images: list[Path]) -> None:
    page.open(address, width=390)
    page.until("models.length")
    assert page.text("#about") == "lamp knows 2 classes."
    page.run("document.querySelector('#choose').focus()")
    page.press("Enter")
    page.choose(images[0], images[1])
    page.until("document.querySelectorAll('article:not([aria-busy])').length === 2")
    words = "[...document.querySelectorAll('.name, .answer')].map(part => part.textContent)"
    found = page.run(words)
    assert sorted(zip(found[::2], found[1::2], strict=True)) == [
        ("dark.png", "dark, 100.0%"),
        ("light.png", "light, 100.0%"),
    ]
    assert page.run("document.querySelector('.track span').style.width") == "100%"
    assert page.text("#status") == "2 of 2 images answered."
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.complaints() == []


@in_browser
def test_the_keyboard_leads_everywhere_and_results_are_said(
    page: Page, address: str, images: list[Path]
) -> None:
    page.open(address)
    page.until("models.length")
    places = []
    for _ in range(8):
        page.press("Tab")
        places.append(page.run("document.activeElement.id || document.activeElement.tagName"))
    assert places[:3] == ["model", "choose", "camera"]
    assert "SUMMARY" in places
    page.run("document.querySelector('#choose').focus()")
    page.press("Enter")
    page.choose(images[0])
    page.until("document.querySelector('#status').textContent.includes('light, 100.0%')")
    assert page.run("document.querySelector('#status').getAttribute('aria-live')") == "polite"
    page.run("document.querySelector('#clear').focus()")
    page.press("Enter")
    page.until("document.querySelector('#results').hidden")
    assert page.run("document.activeElement.id") == "choose"


@in_browser
def test_what_is_wrong_is_said_beside_the_image(
    page: Page, address: str, images: list[Path], tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(200_000))
    page.open(address)
    page.until("models.length")
    for file, words in ((images[2], "this is not an image"), (large, "larger than the")):
        page.run("document.querySelector('#choose').focus()")
        page.press("Enter")
        page.choose(file)
        page.until(
            "document.querySelector('article') && !document.querySelector('article').hasAttribute('aria-busy')"
        )
        assert words in page.text(".failed .answer")
        assert "No answer. " in page.text("#status")


@in_browser
def test_images_are_dropped_and_pasted(page: Page, address: str) -> None:
    page.open(address)
    page.until("models.length")
    page.run("""(async () => {
        const canvas = new OffscreenCanvas(9, 9);
        canvas.getContext('2d').fillRect(0, 0, 9, 9);
        const kinds = [['drop', DragEvent, 'dataTransfer'], ['paste', ClipboardEvent, 'clipboardData']];
        for (const [kind, Event_, key] of kinds) {
            const data = new DataTransfer();
            data.items.add(new File([await canvas.convertToBlob()], kind + '.png', { type: 'image/png' }));
            document.dispatchEvent(new Event_(kind, { [key]: data, bubbles: true, cancelable: true }));
        }
    })()""")
    page.until("document.querySelectorAll('article:not([aria-busy]) .top li').length === 4")
    assert page.complaints() == []


@in_browser
def test_the_camera_takes_an_image(page: Page, address: str) -> None:
    page.open(address)
    page.until("models.length")
    page.run("document.querySelector('#camera').focus()")
    page.press("Enter")
    page.until("document.querySelector('dialog').open && document.querySelector('video').videoWidth > 0")
    page.run("document.querySelector('#shoot').click()")
    page.until("document.querySelector('article:not([aria-busy]) .answer')")
    assert "camera" in page.text(".name")
    page.until("document.querySelector('video').srcObject === null")


@in_browser
def test_what_a_richer_answer_has_is_shown(page: Page, address: str) -> None:
    page.open(address)
    page.until("models.length")
    page.run("""(() => {
        add([new File([], 'a.png')]);
        const top = [{ label: 'cat', probability: 0.6 }, { label: 'dog', probability: 0.4 }];
        window.card = document.querySelector('article').parentElement;
        show({ card, answer: { label: 'cat', probability: 0.6, top, set: ['cat', 'dog'] } });
    })()""")
    assert "It is one of: cat, dog." in page.text(".more")
    page.run("show({ card, answer: { label: 'cat', probability: 0.6, top: [], unknown: true } })")
    assert page.text(".answer") == "none of the classes"
    assert page.text(".more") == "The nearest class is cat."


@in_browser
def test_reasons_are_shown_on_request(page: Page, address: str, tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    grey.write_bytes(png(128, side=20))
    page.open(address, width=390)
    page.until("models.length")
    page.run("document.querySelector('#choose').focus()")
    page.press("Enter")
    page.choose(grey)
    page.until("document.querySelector('article:not([aria-busy]) .top li')")
    assert page.run("document.querySelector('.reasons').hidden")
    page.run("document.querySelector('.why').focus()")
    page.press("Enter")
    page.until("!document.querySelector('.reasons').hidden")
    assert page.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert page.run("[...document.querySelectorAll('.nearest li')].map(one => one.innerText)") == [
        "light",
        "dark\nnight/1.png",
    ]
    assert page.run("document.querySelector('.nearest img').alt") == "day/1.png"
    page.until("document.querySelector('.nearest img').naturalWidth === 8")
    assert page.run("document.querySelectorAll('.nearest img').length") == 1
    assert page.text(".heat figcaption") == "Red speaks for light, blue against it."
    assert "grey.png" in page.run("document.querySelector('.heat canvas').getAttribute('aria-label')")
    assert page.text("#status") == "grey.png: most like training images of light, dark"
    row = page.run(
        "[...document.querySelector('.heat canvas').getContext('2d').getImageData(0, 99, 224, 1).data]"
    )
    left, right = row[80:84], row[800:804]  # red, green, blue, opacity
    assert left[0] > left[2] + 50
    assert right[2] > right[0] + 50
    assert page.run("document.documentElement.scrollWidth") <= 390
    page.press("Enter")
    page.until("document.querySelector('.reasons').hidden")
    page.run("document.querySelector('#model').value = 'moon'")
    page.run("document.querySelector('#choose').focus()")
    page.press("Enter")
    page.choose(grey)
    page.until("document.querySelectorAll('article:not([aria-busy])').length === 2")
    assert page.run("document.querySelector('.why').hidden")
    assert page.complaints() == []


@in_browser
def test_the_token_is_asked_for_and_kept_in_the_page(page: Page, images: list[Path]) -> None:
    with listening(Small(token="sesame").app) as (address, _):
        page.open(address)
        page.until("document.activeElement.id === 'token'")
        page.call("Input.insertText", text="wrong")
        page.press("Enter")
        page.until("document.querySelector('#status').textContent.includes('wrong')")
        page.run("document.querySelector('#token').value = ''")
        page.call("Input.insertText", text="sesame")
        page.press("Enter")
        page.until("models.length")
        page.run("document.querySelector('#choose').focus()")
        page.press("Enter")
        page.choose(images[1])
        page.until("document.querySelector('article:not([aria-busy]) .top li')")
        assert page.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
