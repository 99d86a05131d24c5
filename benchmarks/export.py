"""How far ONNX exports are from their runs on test images, and how fast they are beside torch.

    python benchmarks/export.py [--rounds N] [--out RESULT.json] [--page docs/export.md]

Runs on bundled tasks with the bundled model are exported in every precision, and each export answers all test images:
pixels.onnx from the pixel values that the run itself computes, and image.onnx from the images as they are. Time: both
in turn in one process on one thread, CPU time, batches of 16; the median over rounds of the ratios. A tower of the
shape of ViT-B/16 with random weights is timed as well, an image at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from transformers import CLIPConfig, CLIPModel

import blocklora
from blocklora import FewShotClassifier
from blocklora.classifier import Classifier
from blocklora.clip import TINY, crop_size, pixels
from blocklora.data import load_dataset, open_for_model
from blocklora.export.onnx.graph import pixels_graph
from blocklora.export.run import PRECISIONS, export_run
from blocklora.metrics.intervals import wilson_interval
from blocklora.run.fit import fit_run
from blocklora.run.load import load_run
from measuring import circumstances, interleaved, ratio, write

RUNS = {
    "digits, block-lora, 16 shots": ("digits", {"method": "block-lora", "shots": 16, "iterations": 150}),
    "twemoji, tip-adapter, 8 shots": ("twemoji", {"method": "tip-adapter", "shots": 8}),
    "clipart, linear-probe, 8 shots": ("clipart", {"method": "linear-probe", "shots": 8}),
}
AT_ONCE = 16


def session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(model: onnxruntime.InferenceSession, values: np.ndarray) -> np.ndarray:
    """Return probabilities (M, N) of pixel values (M, 3, S, S)."""
    starts = range(0, len(values), AT_ONCE)
    return np.concatenate(
        [model.run(["probabilities"], {"pixel_values": values[at : at + AT_ONCE]})[0] for at in starts]
    )


def compared(expected: np.ndarray, found: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return how far probabilities (M, N) are from those of the run, and how good they are."""
    right = int((found.argmax(axis=1) == labels).sum())
    return {
        "same_top_1": float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "largest_difference": float(np.abs(found - expected).max()),
        "mean_difference_of_top": float(
            np.abs(found - expected)[np.arange(len(found)), expected.argmax(axis=1)].mean()
        ),
        "accuracy": right / len(labels),
        "accuracy_interval": wilson_interval(right, len(labels)),
    }


def measure(run: Path, data: str, work: Path, rounds: int) -> list[dict[str, Any]]:
    """Export a run in every precision, and compare on the test images of its task."""
    classifier: Classifier = load_run(run, device="cpu", precision="fp32").classifier
    processor = classifier.base.processor
    test = load_dataset(data).test
    opened = [open_for_model(example.source, crop_size(processor)) for example in test]
    values, labels = (
        torch.stack([pixels(image, processor) for image in opened]),
        np.array([e.label for e in test]),
    )
    batch = values[:AT_ONCE]
    with torch.no_grad():
        expected = classifier.probabilities(
            torch.cat([classifier.image_features(v) for v in values.split(AT_ONCE)])
        )
    rows = []
    for precision in PRECISIONS:
        folder = work / f"{run.name}-{precision}"
        export_run(run, folder, "onnx", precision=precision)
        by_pixels, by_image = session(folder / "pixels.onnx"), session(folder / "image.onnx")
        from_images = [by_image.run(["probabilities"], {"image": np.asarray(image)})[0] for image in opened]
        steps = {
            "torch": lambda: classifier.probabilities(classifier.image_features(batch)),
            "onnx": lambda by_pixels=by_pixels: answers(by_pixels, batch.numpy()),
        }
        with torch.no_grad():
            seconds = interleaved(steps, rounds)
        rows.append(
            {
                "precision": precision,
                "n_test": len(test),
                "bytes": sum(path.stat().st_size for path in folder.iterdir()),
                "pixels": compared(expected, answers(by_pixels, values.numpy()), labels),
                "image": compared(expected, np.concatenate(from_images), labels),
                "run_accuracy": float((expected.argmax(axis=1) == labels).mean()),
                "faster_than_torch": ratio(seconds["torch"], seconds["onnx"]),
            }
        )
    return rows


def vit_b_16(folder: Path) -> Path:
    """Write a CLIP whose image tower has the shape of ViT-B/16, with random weights and the bundled tokenizer."""
    tiny = Path(blocklora.__file__).parent / "assets" / "tiny"
    text = json.loads((tiny / "config.json").read_text(encoding="utf-8"))["text_config"]
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    vision |= {"image_size": 224, "patch_size": 16, "hidden_act": "quick_gelu"}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, folder / name)
    processor = json.loads((tiny / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def time_large(work: Path, rounds: int) -> list[dict[str, Any]]:
    """Return size and speed of exports of ViT-B/16's shape, an image at a time."""
    images = [example.source for example in load_dataset("clipart").train[:4]]
    fitted = FewShotClassifier(model=vit_b_16(work / "vit"), method="zero-shot", device="cpu")
    classifier = fitted.fit(images, ["one", "two", "one", "two"]).classifier_
    one = torch.randn(1, 3, 224, 224)
    rows = []
    for precision in ("fp32", "fp16"):
        path = work / f"large-{precision}.onnx"
        onnx.save(pixels_graph(classifier, half=precision == "fp16"), path)
        model = session(path)
        steps = {
            "torch": lambda: classifier.probabilities(classifier.image_features(one)),
            "onnx": lambda model=model: answers(model, one.numpy()),
        }
        with torch.no_grad():
            seconds = interleaved(steps, rounds)
        size = path.stat().st_size
        rows.append(
            {
                "precision": precision,
                "bytes": size,
                "faster_than_torch": ratio(seconds["torch"], seconds["onnx"]),
            }
        )
    return rows


def table(result: dict[str, Any]) -> str:
    """Return the tables of docs/export.md."""
    lines = [
        "| run | precision | same answer | largest change | mean change | accuracy | 95% interval | MB | speed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in result["runs"].items():
        for row in rows:
            far, (low, high) = row["image"], row["image"]["accuracy_interval"]
            lines.append(
                f"| {name} | {row['precision']} | {far['same_top_1']:.1%} of {row['n_test']} | "
                f"{far['largest_difference']:.2g} | {far['mean_difference_of_top']:.2g} | {far['accuracy']:.1%} "
                f"(run {row['run_accuracy']:.1%}) | {low:.1%} to {high:.1%} | {row['bytes'] / 1e6:.1f} | "
                f"{row['faster_than_torch']:.2f} x |"
            )
    for row in result["vit_b_16"]:
        lines.append(
            f"| the shape of ViT-B/16 | {row['precision']} | | | | | | {row['bytes'] / 1e6:.0f} | "
            f"{row['faster_than_torch']:.2f} x |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the numbers, and put the table into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of timing (default 9)")
    here = Path(__file__).parent
    parser.add_argument(
        "--out", type=Path, default=here / "results" / "export.json", help="where to write (JSON)"
    )
    parser.add_argument(
        "--page", type=Path, default=here.parent / "docs" / "export.md", help="the page of the table"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    result = circumstances() | {"onnxruntime": onnxruntime.__version__, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, (data, settings) in RUNS.items():
            run, _ = fit_run(data, work / f"{data}-run", model=TINY, seed=1, device="cpu", **settings)
            result["runs"][name] = measure(run, data, work, arguments.rounds)
            print(name, result["runs"][name], flush=True)
        result["vit_b_16"] = time_large(work, arguments.rounds)
    write(arguments.out, result)
    print(table(result))
    page = arguments.page.read_text(encoding="utf-8")
    before, after = page.split("<!-- precisions -->")[0], page.split("<!-- end of precisions -->")[1]
    marked = f"<!-- precisions -->\n{table(result)}\n<!-- end of precisions -->"
    arguments.page.write_text(f"{before}{marked}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
