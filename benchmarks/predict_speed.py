"""How fast images are classified, beside a plain batched loop and transformers' pipeline; and how long the start takes.

    python benchmarks/predict_speed.py [--rounds N] [--out RESULT.json]

JPEGs of 640 x 480 and 4000 x 3000 pixels; the bundled model, and ViT-B/16 with random weights. The contenders take
turns in one process, on one thread of torch. Times are CPU seconds, so that other processes disturb them little, and
decoding in a thread beside the tower is not counted as hidden: the sum of decoding and tower is what a machine whose
cores are all busy can reach. Ratios are medians of the rounds' ratios.

The plain loop opens images by Pillow, hands batches to the checkpoint's own processor and the CLIPModel, and takes the
softmax over the same class features. The pipeline is image-classification, on a CLIPForImageClassification whose
linear layer has as many classes; it has no text tower either.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, CLIPConfig, CLIPForImageClassification, CLIPModel, pipeline

import blocklora
from blocklora import FewShotClassifier
from blocklora.clip import crop_size, pixels
from blocklora.data import open_for_model
from blocklora.run.load import LoadedRun, load_run
from blocklora.run.predict import predict_images
from measuring import circumstances, interleaved, ratio, write

TINY = Path(blocklora.__file__).parent / "assets" / "tiny"
SIZES = {"640 x 480": (640, 480), "4000 x 3000": (4000, 3000)}
CLASSES = "cat dog house tree boat sun flower fish hand car".split()
IMAGES = {"tiny": {"640 x 480": 64, "4000 x 3000": 16}, "ViT-B/16": {"640 x 480": 8, "4000 x 3000": 8}}
BATCH = {"tiny": 16, "ViT-B/16": 4}
STARTS = {
    "import torch": "import torch",
    "import torch, transformers' CLIPModel": "import torch; from transformers import CLIPModel",
    "blocklora --help": "import sys; sys.argv[1:] = ['--help']; from blocklora.cli.app import app\n"
    "try: app()\nexcept SystemExit: pass",
}


def write_vit(folder: Path) -> Path:
    """Write a CLIP whose image tower is ViT-B/16 with random weights; its text tower is small, as nobody times it."""
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 4030, "bos_token_id": 4028, "eos_token_id": 4029, "pad_token_id": 4029}
    config = CLIPConfig(text_config=text, vision_config={"patch_size": 16}, projection_dim=512)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder / name)
    processor = json.loads((TINY / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def write_images(folder: Path, size: tuple[int, int], n: int) -> list[Path]:
    """Write n JPEGs with as much detail as a photo has."""
    folder.mkdir(parents=True)
    draw, paths = np.random.default_rng(0), []
    for index in range(n):
        if index < 4:
            coarse = draw.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            fine = draw.normal(0, 6, (size[1], size[0], 3))
            Image.fromarray(np.clip(np.asarray(image) + fine, 0, 255).astype(np.uint8)).save(
                folder / f"{index}.jpg", quality=90
            )
        else:
            shutil.copy(folder / f"{index % 4}.jpg", folder / f"{index}.jpg")
        paths.append(folder / f"{index}.jpg")
    return paths


def make_run(model: str, folder: Path) -> Path:
    """Write a finished run of ten classes."""
    classifier = FewShotClassifier(model=model, method="zero-shot", device="cpu")
    classifier.fit([Image.new("RGB", (8, 8), (20 * n, 0, 0)) for n in range(10)], CLASSES)
    classifier.save(folder)
    return folder


class PlainLoop:
    """What one writes by hand around transformers."""

    def __init__(self, model: str, batch: int, class_features: torch.Tensor) -> None:
        self.model = CLIPModel.from_pretrained(model, dtype=torch.float32).eval()
        self.processor = AutoImageProcessor.from_pretrained(model, use_fast=False)
        self.batch, self.class_features = batch, class_features

    def decode(self, paths: Sequence[Path]) -> list[torch.Tensor]:
        """Return the pixel values of all batches."""
        return [
            self.processor(images=[Image.open(path).convert("RGB") for path in part], return_tensors="pt")[
                "pixel_values"
            ]
            for part in batches(paths, self.batch)
        ]

    @torch.no_grad()
    def tower(self, values: Sequence[torch.Tensor]) -> None:
        """Classify pixel values."""
        for part in values:
            features = self.model.get_image_features(pixel_values=part).pooler_output
            features = features / features.norm(dim=1, keepdim=True)
            (100 * features @ self.class_features.T).softmax(dim=1)


def batches(paths: Sequence[Path], size: int) -> list[Sequence[Path]]:
    """Cut a list into batches."""
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def contenders(model: str, folder: str, loaded: LoadedRun, paths: list[Path]) -> dict[str, Callable[[], Any]]:
    """Return everything that is timed on some images."""
    batch = BATCH[model]
    loop = PlainLoop(folder, batch, loaded.classifier.zero_shot_features)
    head = CLIPForImageClassification.from_pretrained(folder, num_labels=len(CLASSES), dtype=torch.float32)
    pipe = pipeline("image-classification", model=head, image_processor=loop.processor, batch_size=batch)
    side = crop_size(loaded.classifier.base.processor)

    def decode() -> list[torch.Tensor]:
        processor = loaded.classifier.base.processor
        return [pixels(open_for_model(path, side), processor) for path in paths]

    ready = [torch.stack(decode()[start : start + batch]) for start in range(0, len(paths), batch)]
    plain_ready = loop.decode(paths)

    @torch.no_grad()
    def tower() -> None:
        for part in ready:
            loaded.classifier.probabilities(loaded.classifier.image_features(part))

    return {
        "blocklora": lambda: list(predict_images(loaded, paths)),
        "its tower": tower,
        "its decoding": decode,
        "plain loop": lambda: loop.tower(loop.decode(paths)),
        "plain tower": lambda: loop.tower(plain_ready),
        "pipeline": lambda: pipe([str(path) for path in paths]),
    }


def measure(model: str, folder: str, base: Path, rounds: int) -> dict[str, Any]:
    """Time one model on all sizes of images."""
    loaded = load_run(make_run(folder, base / f"run-{model.replace('/', '-')}"), device="cpu")
    loaded = replace(loaded, images_at_once=BATCH[model])
    found = {}
    for name, size in SIZES.items():
        paths = write_images(base / model / name, size, IMAGES[model][name])
        steps = contenders(model, folder, loaded, paths)
        for step in steps.values():
            step()
        seconds = interleaved(steps, rounds)
        parts = [a + b for a, b in zip(seconds["its tower"], seconds["its decoding"], strict=True)]
        found[name] = {
            "ms_an_image": {
                step: round(1000 * statistics.median(values) / len(paths), 2)
                for step, values in seconds.items()
            },
            "sum_of_its_parts_is_times": ratio(seconds["blocklora"], parts),
            "plain_loop_is_times": ratio(seconds["plain loop"], seconds["blocklora"]),
            "plain_tower_over_its_tower": ratio(seconds["plain tower"], seconds["its tower"]),
            "pipeline_is_times": ratio(seconds["pipeline"], seconds["blocklora"]),
        }
        print(model, name, found[name], flush=True)
        shutil.rmtree(base / model / name)
    return found


def starts(run: Path, image: Path, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of fresh processes, from their start to their end; the least of the rounds."""
    first = f"import sys; sys.argv[1:] = ['predict', {str(run)!r}, {str(image)!r}]\n"
    first += "from blocklora.cli.app import app\ntry: app()\nexcept SystemExit: pass"
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, code in {**STARTS, "blocklora predict of one image": first}.items():
            code += "\nimport time; print('\\n' + str(time.process_time()))"
            done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, check=True)  # fmt: skip
            seconds.setdefault(name, []).append(float(done.stdout.splitlines()[-1]))
    return {name: round(min(values), 2) for name, values in seconds.items()}


def main() -> None:
    """Measure, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing (default 5)")
    default = Path(__file__).parent / "results" / "predict_speed.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    result: dict[str, Any] = circumstances()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        models = {"tiny": str(TINY), "ViT-B/16": str(write_vit(base / "vit"))}
        for model, folder in models.items():
            result[model] = measure(model, folder, base, arguments.rounds)
            write(arguments.out, result)
        (image,) = write_images(base / "one", SIZES["640 x 480"], 1)
        result["cpu_seconds_to_start"] = starts(base / "run-tiny", image, min(3, arguments.rounds))
        print(result["cpu_seconds_to_start"])
    result["seconds"] = round(time.monotonic() - began)
    write(arguments.out, result)


if __name__ == "__main__":
    main()
