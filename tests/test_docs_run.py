"""Every block of the documents runs as it stands, page by page, in a folder that has what the pages speak of.

The default model is on a hub that tests do not ask, so a small random one lies in the cache under its name. What a test
shortens (times and steps), and the lines that run elsewhere, are listed here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from command import call
from hub_server import TOKEN, serve_hub
from huggingface_hub import constants
from PIL import Image
from random_clip import RandomClip
from small_service import listening
from transformers import BertConfig, BertModel
from transformers.utils import hub as transformers_hub

from blocklora import FewShotClassifier
from blocklora.run.fit import fit_run
from blocklora.serve.server import make_app
from blocklora.serve.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODEL, COMMIT = "openai/clip-vit-base-patch16", "0" * 40
SERVED = "http://127.0.0.1:8000"
ELSEWHERE = {
    "git clone": "it fetches the repository that this test is in",
    "make ": "these targets run the tests",
    "pip install": "it installs",
    "python -m venv": "it installs",
    ". env/bin/activate": "it belongs to the line above",
    "python benchmarks/": "it takes minutes to hours; what it wrote is committed",
    "torchrun": "tests/run/test_ranks.py starts several processes",
    "--ray": "tests/run/table and tests/bench/executors have a cluster",
    "hf:": "tests/data reads data sets of the hub from a stand-in",
    "blocklora datasets oxford_pets": "the miniature is not whole; tests/cli has such folders",
    "blocklora base-to-new": "tests/run/test_transfer.py has data with enough classes",
    "blocklora cross-dataset": "tests/run/test_transfer.py has it",
    "blocklora domain-generalization": "tests/run/test_transfer.py has it",
    "--data imagenetv2": "tests/run/test_evaluate.py asks runs about other data",
    "blocklora bench": "tests/bench runs grids",
    "blocklora tables": "tests/bench makes tables of grids",
    "blocklora serve": "the requests of the page go to a service in this process",
}
"""Lines of which these are a part do not run here, and why."""


def lines(page: Path) -> list[str]:
    """Return the lines of a page that a person types."""
    found = re.findall(
        r"^    ((?:blocklora|python|git|make|pip|torchrun|curl|cat|awk|\. env)\b ?.*)",
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    return [line for line in found if not line.startswith("python ") or ".py" in line or "-m" in line]


def python_blocks(page: Path) -> list[str]:
    """Return a page's blocks of Python."""
    return re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def shortened(words: list[str]) -> list[str]:
    """Return a command that takes seconds: a short time limit, or one step, and two images a class."""
    words = [
        {"--time-limit": "3s", "--shots": "2"}.get(before, word)
        for before, word in zip(["", *words[:-1]], words, strict=True)
    ]
    words = ["epochs=1" if word == "epochs=50" else word for word in words]
    if words[0] != "fit":
        return words
    method = words[words.index("--method") + 1] if "--method" in words else "block-lora"
    if method == "auto":
        return words if "--time-limit" in words else [*words, "--time-limit", "2s"]
    if "--time-limit" in words:  # two steps and all that surrounds them
        return [word if word != "3s" else "10s" for word in words]
    return [*words, "--iterations", "1"] if method in ("block-lora", "peft") else words


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the bundled model lies under the default model's name."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / f"models--{MODEL.replace('/', '--')}"
    shutil.copytree(ROOT / "src/blocklora/assets/tiny", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return cache


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs; do not write into them."""
    folder = tmp_path_factory.mktemp("finished")
    for name, method in (("gda", "gda"), ("prototypes", "prototypes")):
        fit_run(str(photos), folder / name, model="tiny", method=method, shots=4, device="cpu")
    return folder


@pytest.fixture
def here(
    photos: Path,
    runs: Path,
    hub_cache: Path,
    mini_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with photos, finished runs and the other things that pages name; it is the working directory."""
    shutil.copytree(photos, tmp_path / "photos")
    unlabelled = sorted(photos.glob("*/*.png"))
    for name in ("unlabelled", "more"):
        (tmp_path / name).mkdir()
        for number, image in enumerate(unlabelled[::3]):
            shutil.copy(image, tmp_path / name / f"{name}-{number}.png")
    for name in ("new.jpg", "photo.jpg", "image.jpg", "cat.jpg", "dog.jpg", "shirt.jpg"):
        Image.open(unlabelled[0]).save(tmp_path / name)
    (tmp_path / "hats").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 48), (250, 40 * number, 30)).save(tmp_path / "hats" / f"{number}.png")
    for number, name in enumerate(("labels.csv", "labels-2.csv")):
        image = tmp_path / "unlabelled" / f"unlabelled-{number}.png"
        (tmp_path / name).write_text(f"image,label\n{image},red_square\n", encoding="utf-8")
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"], "use_dora": True}
    (tmp_path / "dora.json").write_text(json.dumps(adapter), encoding="utf-8")
    shutil.copytree(mini_root, tmp_path / "data")
    for place in ("RUN", "runs/mine", "runs/a", "runs/digits", "runs/clothing", "runs/b", "runs/c"):
        shutil.copytree(runs / ("prototypes" if place == "runs/b" else "gda"), tmp_path / place)
    for shard in (1, 2):
        (tmp_path / f"answers.{shard}-of-8.jsonl").write_text('{"image": "a"}\n', encoding="utf-8")
        (tmp_path / f"answers.{shard}-of-8.csv").write_text("image,label\na,b\n", encoding="utf-8")
    for module in (constants, transformers_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(hub_cache))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(line: str, served: str, run: Callable[..., tuple[int, str, str]]) -> None:
    """Do what a line says."""
    if line.startswith("blocklora "):
        words = shortened(shlex.split(line, comments=True)[1:])
        if words[0] == "fit" and "--out" in words:  # other pages need a run of this name before
            shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
        code, out, err = run(*words)
        assert code == 0, f"{line}\n{out}\n{err}"
        return
    line = line.split("  #")[0].replace(SERVED, served)
    in_a_shell = ">" in line
    command: str | list[str] = line if in_a_shell else shlex.split(line)
    if command[0] == "python":
        command = [sys.executable, *command[1:]]
    done = subprocess.run(command, shell=in_a_shell, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert '"error"' not in done.stdout


def test_what_runs_elsewhere_is_on_some_page() -> None:
    every = [line for page in PAGES for line in lines(page)]
    assert [words for words in ELSEWHERE if not any(words in line for line in every)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if lines(page)], ids=lambda page: page.stem)
def test_lines(
    page: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        return call(capsys, monkeypatch, *arguments)

    with ExitStack() as stack:
        served = ""
        for line in lines(page):
            if any(words in line for words in ELSEWHERE):
                continue
            if line.startswith(("cat ", "awk ", "curl ")) and (
                os.name == "nt" or not shutil.which(line[:4].strip())
            ):
                continue  # they belong to a POSIX system
            if SERVED in line and not served:
                served = stack.enter_context(service())
            if line.startswith("blocklora push"):
                stack.enter_context(hub(monkeypatch))
            typed(line, served, run)


def given(here: Path) -> dict[str, Any]:
    """Return what the pages' blocks of Python speak of and do not make."""
    images = sorted(here.glob("photos/*/*.png"))
    labels = [image.parent.name for image in images]
    classifier = FewShotClassifier(model="tiny", method="gda", device="cpu").fit(images, labels)
    return {
        "FewShotClassifier": FewShotClassifier, "classifier": classifier, "torch": torch,
        "images": images, "labels": labels, "new_images": images[:2],
    }  # fmt: skip


def model_for(code: str) -> torch.nn.Module:
    """Return a small model that has the layers which a block adapts."""
    if '"query"' not in code:
        return RandomClip(layers=2).model
    return BertModel(
        BertConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers by an old name
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.stem)
def test_python(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = given(here)
    with ExitStack() as stack:
        for code in python_blocks(page):
            if SERVED in code:
                code = code.replace(SERVED, stack.enter_context(service()))
            if "from_pretrained" in code:
                stack.enter_context(hub(monkeypatch))
                names["classifier"].push_to_hub("user/digits")
            code = re.sub(r'"\d+m"', '"2s"', code)
            # dataclasses ask for their module by name
            module = ModuleType("page")
            monkeypatch.setitem(sys.modules, "page", module)
            vars(module).update(names, model=model_for(code))
            exec(compile(code, f"{page.name}", "exec"), vars(module))
            names |= vars(module)


@contextmanager
def service() -> Iterator[str]:
    """Serve the finished run ``runs/clothing``; yields its address."""
    with listening(make_app(Settings((Path("runs/clothing"),), device="cpu"))) as (address, _):
        yield address


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stand-in for the Hugging Face hub."""
    with serve_hub() as served:
        place = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield
