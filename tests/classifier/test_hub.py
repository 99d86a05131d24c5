"""A classifier goes to a hub and comes back, through a stand-in of the hub's HTTP API; nothing else goes with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import call
from hub_server import TOKEN, Hub, serve_hub
from huggingface_hub import ModelCard, constants
from runs import settings

from blocklora import FewShotClassifier
from blocklora.core.errors import ConfigError, ModelError, RunError
from blocklora.run.fit import fit_run

REPO = "someone/squares"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub asks in this test, with a cache of its own."""
    with serve_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        place = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture(scope="module")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of block-lora on the photos."""
    out = tmp_path_factory.mktemp("hub") / "run"
    fit_run(str(photos), out, **settings(clip_folder))
    return out


def test_there_and_back(hub: Hub, run: Path, clip_folder: Path, photos: Path) -> None:
    classifier = FewShotClassifier.load(run, device="cpu")
    assert classifier.push_to_hub(REPO, private=True) == f"{hub.url}/{REPO}"
    assert hub.private == {REPO}
    assert set(hub.files[REPO]) == {
        "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "class_features.safetensors", "classifier.json", "evidence.safetensors",
    }  # fmt: skip
    back = FewShotClassifier.from_pretrained(REPO, device="cpu", model=clip_folder)
    images = sorted(photos.glob("*/*.png"))
    np.testing.assert_array_equal(back.predict_proba(images), classifier.predict_proba(images))
    assert back.classes_.tolist() == classifier.classes_.tolist()
    known = back.classifier_.evidence.training
    assert known is not None
    assert known.names[:3] == ("1", "2", "3")


def test_nothing_but_the_classifier_goes_up(
    hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told, _ = call(capsys, monkeypatch, "push", run, REPO)
    assert (code, told) == (0, f"pushed to {hub.url}/{REPO}\n")
    for name, content in hub.files[REPO].items():
        assert not name.endswith((".png", ".csv", ".html"))
        assert str(run.parent.parent).encode() not in content, name  # no path of this machine
        assert b".png" not in content
    card = ModelCard(hub.files[REPO]["README.md"].decode())
    assert card.data.library_name == "blocklora"
    assert f'FewShotClassifier.from_pretrained("{REPO}")' in card.text
    assert "95% interval" in card.text


def test_files_of_an_earlier_classifier_are_gone(
    hub: Hub, run: Path, clip_folder: Path, photos: Path
) -> None:
    FewShotClassifier.load(run, device="cpu").push_to_hub(REPO)
    files = sorted(photos.glob("*/[0-3].png"))
    probe = FewShotClassifier(model=str(clip_folder), method="linear-probe", device="cpu")
    probe.fit(files, [file.parent.name for file in files]).push_to_hub(REPO)
    assert not any(name.startswith("adapter/") for name in hub.files[REPO])


def test_a_base_model_that_is_not_there_is_named(hub: Hub, run: Path) -> None:
    FewShotClassifier.load(run, device="cpu").push_to_hub(REPO)
    record = json.loads(hub.files[REPO]["classifier.json"])
    assert record["model"] == "clip"  # the name of the folder, without its place
    with pytest.raises(
        ModelError, match=r"was fitted with this model; if it is elsewhere now, .* load\(path, model="
    ):
        FewShotClassifier.from_pretrained(REPO, device="cpu")


def test_a_base_folder_that_is_gone_is_named(
    run: Path, clip_folder: Path, tmp_path: Path, photos: Path
) -> None:
    shutil.copytree(clip_folder, tmp_path / "clip")
    files = sorted(photos.glob("*/[0-3].png"))
    probe = FewShotClassifier(model=str(tmp_path / "clip"), method="linear-probe", device="cpu")
    probe.fit(files, [file.parent.name for file in files]).save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "clip")
    with pytest.raises(ModelError, match=r"no such folder \(any more\).*name the place with --model"):
        FewShotClassifier.load(tmp_path / "saved", device="cpu")
    assert FewShotClassifier.load(tmp_path / "saved", device="cpu", model=clip_folder).classes_.size == 3


def test_what_the_hub_refuses(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = FewShotClassifier.load(run, device="cpu")
    with pytest.raises(RunError, match="someone/else: no such classifier on the hub, or it is private"):
        FewShotClassifier.from_pretrained("someone/else")
    for act in (classifier.push_to_hub, FewShotClassifier.from_pretrained):
        with pytest.raises(ConfigError, match="expected a name such as user/name"):
            act("a/b/c")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RunError, match=r"cannot be put on the hub .* log in with 'hf auth login'"):
        classifier.push_to_hub(REPO)
    assert hub.files == {}


def test_a_folder_that_is_no_classifier_stays_here(
    hub: Hub, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, errors = call(capsys, monkeypatch, "push", photos, REPO)
    assert code == 1
    assert "holds no classifier.json" in errors
    assert hub.files == {}


def test_without_a_network_the_cache_answers(
    hub: Hub, run: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FewShotClassifier.load(run, device="cpu").push_to_hub(REPO)
    FewShotClassifier.from_pretrained(REPO, device="cpu", model=clip_folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert FewShotClassifier.from_pretrained(REPO, device="cpu", model=clip_folder).classes_.size == 3
    with pytest.raises(
        RunError, match="someone/else: is not in the local cache, and the hub cannot be reached"
    ):
        FewShotClassifier.from_pretrained("someone/else")


def test_the_environment_says_where_the_hub_is(
    run: Path, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    code = """
import sys
from blocklora import FewShotClassifier
from blocklora.cli.app import app
app(["push", sys.argv[1], "someone/squares"], standalone_mode=False)
back = FewShotClassifier.from_pretrained("someone/squares", device="cpu", model=sys.argv[2])
print(back.predict([sys.argv[3]])[0])
"""
    image = photos / "red_square" / "0.png"
    with serve_hub() as hub:
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, str(run), str(clip_folder), str(image)],
            capture_output=True, text=True, env=os.environ | environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert hub.commits == {REPO: 1}
    assert done.stdout.splitlines()[-1] == FewShotClassifier.load(run, device="cpu").predict([image])[0]
