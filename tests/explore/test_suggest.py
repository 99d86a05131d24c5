"""From a run and unlabelled images to a list and a page, and back into a run."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command import call
from PIL import Image
from runs import read, settings

from blocklora.core.errors import ConfigError, DataError
from blocklora.explore.label_page import write_suggestions
from blocklora.explore.suggest import Suggested, Suggestion, suggest_images
from blocklora.run.fit import fit_run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --allow-file-access-from-files --virtual-time-budget=20000 --dump-dom"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos, clip_folder) -> Path:
    out, _ = fit_run(
        str(photos),
        tmp_path_factory.mktemp("runs") / "run",
        **settings(clip_folder, method="linear-probe", shots=2),
    )
    return out


@pytest.fixture
def pool(tmp_path, photos) -> Path:
    """A folder with all of the run's data, and what is not worth a label."""
    folder = tmp_path / "pool"
    shutil.copytree(photos, folder)
    Image.new("RGB", (40, 48), "white").save(folder / "blank.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    image = Image.open(folder / "blue-cross" / "0.png")
    image.save(folder / "copy.bmp")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_images_of_the_run_copies_and_blank_ones_are_not_suggested(run, pool):
    found = suggest_images(run, [pool], 50, device="cpu")
    record = read(run / "split.json")
    used = {item["sha256"] for part in ("train", "val", "test") for item in record[part]}
    assert f"{len(used)} images left out: the run has them" in found.notes
    names = {one.path.name for one in found.images}
    assert not names & {"blank.png", "broken.jpg"}
    assert any(note.startswith("1 image left out: one colour all over") for note in found.notes)
    assert any("broken.jpg" in note for note in found.notes)
    assert found.images[0].score == 1
    scores = [one.score for one in found.images]
    assert scores == sorted(scores, reverse=True)
    assert found.classes == ("blue-cross", "green disc", "red_square")
    assert all(one.guess in found.classes and 0 < one.probability <= 1 for one in found.images)


def test_an_adapted_run_encodes_them_anew_and_gives_no_more_than_asked(tmp_path, photos, clip_folder, pool):
    adapted, _ = fit_run(str(photos), tmp_path / "run", **settings(clip_folder, shots=1))
    assert len(suggest_images(adapted, [pool], 3, device="cpu").images) == 3


def test_wrong_numbers_and_folders_are_named(run, photos, tmp_path):
    with pytest.raises(ConfigError, match="n is 0: expected 1 or more"):
        suggest_images(run, [photos], 0)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="this folder holds no images"):
        suggest_images(run, [tmp_path / "none"], 5)
    Image.new("RGB", (9, 9), "white").save(tmp_path / "none" / "white.png")
    with pytest.raises(DataError, match="no image is left to label: 1 image left out: one colour all over"):
        suggest_images(run, [tmp_path / "none"], 5, device="cpu")


def test_the_command_writes_a_list_that_fit_takes(
    run, photos, pool, clip_folder, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "to_label"
    code, text, _ = call(capsys, monkeypatch, "suggest", run, pool, "-n", 4, "--out", out)
    assert code == 0
    assert "to label, the most useful first:" in text
    rows = rows_of(out / "to_label.csv")
    assert list(rows[0]) == ["image", "label", "why", "score", "guess", "probability"]
    assert all(row["label"] == "" and Path(row["image"]).is_file() for row in rows)
    rows[0]["label"], rows[1]["label"] = "green disc", "red_square"
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    fit = ["fit", photos, "--model", clip_folder, "--method", "linear-probe", "--shots", 2, "--seed", 1]
    fit += ["--device", "cpu", "--add", tmp_path / "labels.csv", "--out", tmp_path / "more"]
    code, text, err = call(capsys, monkeypatch, *fit)
    assert code == 0, err
    assert f"2 training images added from 'labels.csv'; {len(rows) - 2} rows without a label left" in text
    record = read(tmp_path / "more" / "split.json")
    assert len(record["train"]) == len(read(run / "split.json")["train"]) + 2
    assert [item["class_name"] for item in record["train"][-2:]] == ["green disc", "red_square"]
    assert read(tmp_path / "more" / "config.json")["add"] == [str(tmp_path / "labels.csv")]
    again = suggest_images(tmp_path / "more", [pool], 50, device="cpu")
    assert not {str(one.path) for one in again.images} & {rows[0]["image"], rows[1]["image"]}
    assert call(capsys, monkeypatch, "evaluate", tmp_path / "more", "--device", "cpu")[0] == 0


def test_json_is_one_document(run, pool, tmp_path, capsys, monkeypatch):
    arguments = ("suggest", run, pool, "-n", 2, "--out", tmp_path / "x", "--json")
    code, text, _ = call(capsys, monkeypatch, *arguments)
    document = json.loads(text)
    assert code == 0
    assert document.keys() == {"suggestions", "notes"}
    assert document["suggestions"][0].keys() == {"image", "score", "why", "guess", "probability"}


# ---- the page in a browser

DRIVE = """<!DOCTYPE html><iframe id="f" src="label.html" style="width:390px;height:900px"></iframe><script>
const frame = document.getElementById("f"), wait = (ms) => new Promise((done) => setTimeout(done, ms));
const inside = () => frame.contentDocument, at = (id) => inside().getElementById(id);
const press = (key, more) => (inside().activeElement || inside().body).dispatchEvent(
  new frame.contentWindow.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
const labels = () => [...inside().querySelectorAll(".grid .label")].map((one) => one.textContent);
const current = () => [...at("grid").children].findIndex((card) => card.getAttribute("aria-current") === "true");
const loaded = () => new Promise((done) => frame.addEventListener("load", done, { once: true }));
async function drive() {
  const said = {};
  press("2"); press("1"); press("s"); press("Enter");
  said.typed = labels(); said.after = current();
  press("u"); said.undone = labels(); said.back = current();
  press("z", { ctrlKey: true }); said.twice = labels();
  press("ArrowLeft"); said.left = current();
  press("ArrowRight"); press("ArrowRight"); said.right = current();
  at("grid").children[5].click(); said.clicked = current();
  press("/"); at("find").value = "blue"; at("find").dispatchEvent(new Event("input"));
  said.shown = [...at("classes").children].filter((one) => !one.hidden).map((one) => one.title);
  press("Enter"); said.found = labels();
  at("classes").children[2].click(); said.button = labels();
  press("9"); said.unknown = labels();
  said.state = at("state").textContent;
  const page = frame.contentWindow;
  page.URL.createObjectURL = (blob) => { said.blob = blob; return "#"; };
  page.HTMLAnchorElement.prototype.click = function () { said.file = this.download; };
  at("save").click(); said.csv = await said.blob.text(); delete said.blob;
  const again = loaded(); frame.contentWindow.location.reload(); await again; await wait(50);
  said.kept = labels(); said.keptCurrent = current();
  press("u"); said.undoneLater = labels();
  const root = inside().documentElement;
  said.wide = root.scrollWidth; said.room = root.clientWidth;
  said.lazy = [...inside().querySelectorAll(".photo")].filter((one) => one.src).length;
  document.title = btoa(unescape(encodeURIComponent(JSON.stringify(said))));
}
frame.addEventListener("load", () => drive().catch((error) => { document.title = btoa("!" + error); }), { once: true });
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_a_person_labels_undoes_leaves_comes_back_and_saves(tmp_path):
    names = ['a, "b".png', "</script>.png", *(f"{n}.png" for n in range(198))]
    images = []
    for place, name in enumerate(names):
        path = tmp_path / "images" / name.replace("/", "_")
        path.parent.mkdir(exist_ok=True)
        if place < 20:
            Image.new("RGB", (60, 40), (place, 90, 200)).save(path)
        images.append(Suggestion(path, 1.0, "in doubt", "red", 0.5))
    write_suggestions(Suggested(tuple(images), ("red", "green", "blue </b>"), ("a note",)), tmp_path)
    (tmp_path / "drive.html").write_text(DRIVE, encoding="utf-8")
    command = [
        str(BROWSER),
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "drive.html").as_uri(),
    ]
    done = subprocess.run(
        command, capture_output=True, timeout=120, check=True, env=os.environ | {"HOME": str(tmp_path)}
    )
    title = re.search(r"<title>(.*)</title>", done.stdout.decode()).group(1)
    said = json.loads(base64.b64decode(title))
    assert said["typed"][:5] == ["green", "red", "skipped", "red", ""]
    assert said["after"] == 4
    assert (said["undone"][:4], said["back"]) == (["green", "red", "skipped", ""], 3)
    assert said["twice"][:3] == ["green", "red", ""]
    assert (said["left"], said["right"], said["clicked"]) == (1, 3, 5)
    assert said["shown"] == ["blue </b>"]
    assert said["found"][5] == "blue </b>"
    assert said["button"][6] == "blue </b>"
    assert said["unknown"] == said["button"]
    assert said["state"].startswith("4 of 200 labelled")
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert said["file"] == "labels.csv"
    assert [row["image"] for row in rows] == [str(one.path) for one in images]
    assert [row["label"] for row in rows[:7]] == ["green", "red", "", "", "", "blue </b>", "blue </b>"]
    assert said["kept"] == said["button"]
    assert said["keptCurrent"] == 2
    assert said["undoneLater"][6] == ""
    assert said["wide"] == said["room"] <= 390
    assert 0 < said["lazy"] < 20
