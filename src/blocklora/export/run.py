"""Export a finished run as a folder that works without blocklora."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from blocklora.classifier import Classifier, ClassifierRecord
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, RunError
from blocklora.core.files import user_path, write_folder, write_json, write_text
from blocklora.core.words import did_you_mean
from blocklora.data import Example
from blocklora.export.adapter import write_adapter
from blocklora.export.arrays import write_arrays
from blocklora.export.card import run_card
from blocklora.export.check import check_consumer, expected_probabilities, images_to_check
from blocklora.export.checkpoint import write_checkpoint
from blocklora.export.facts import FACTS, Facts, Format, Precision, facts_of
from blocklora.run.load import load_run, load_towers

__all__ = ["FORMATS", "PRECISIONS", "Exported", "export_run"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_CONSUMERS = Path(__file__).parent / "consumers"
_SUMS, _CARD = "SHA256SUMS", "README.md"
_CPU = torch.device("cpu")
_NO_TORCH = ("blocklora", "torch", "transformers", "peft", "onnx")


@dataclass(frozen=True)
class _Work:
    """What is exported.

    Attributes:
        run: The RUN folder.
        folder: An empty folder.
        classifier: On the CPU.
        clip: Both towers, for a format that needs them.
        facts: What is known beforehand.
        images: Images to compare on (M).
        source: Which they are.
        expected: What the run says of them (M, N).
    """

    run: Path
    folder: Path
    classifier: Classifier
    clip: Clip | None
    facts: Facts
    images: Sequence[Example]
    source: str
    expected: NDArray[np.float64]


_Written = tuple[Facts, tuple[str, ...]]


def _lora(work: _Work) -> _Written:
    write_adapter(work.folder, work.classifier, work.run)
    return work.facts, ()


def _hf(work: _Work) -> _Written:
    if work.clip is None:
        raise RunError(f"{work.run}: expected both towers.")
    return work.facts, write_checkpoint(work.folder, work.classifier, work.clip, work.facts)


def _onnx(work: _Work) -> _Written:
    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise ConfigError(
            "format 'onnx' needs onnx, onnxscript and onnxruntime: install them with pip install 'blocklora[export]'."
        )
    from blocklora.export.onnx.write import write_onnx

    facts = write_onnx(work.folder, work.classifier, work.facts, work.images, work.source, work.expected)
    return facts, ()


def _numpy(work: _Work) -> _Written:
    return write_arrays(work.folder, work.classifier, work.facts), ()


@dataclass(frozen=True)
class _Kind:
    """A format.

    Attributes:
        write: Writes what the format is, and returns the facts and notes for a reader.
        modules: The files beside predict.py.
        needs: What predict.py needs, for pip.
        without: What it does not need, and is checked without.
        library: What the hub calls it.
        use: What else can be done with the folder, in Markdown.
    """

    write: Callable[[_Work], _Written]
    modules: Sequence[str]
    needs: str
    without: Sequence[str]
    library: str
    use: str


FORMATS: Mapping[Format, _Kind] = {
    "lora": _Kind(
        _lora,
        ("images.py", "heads.py"),
        "torch transformers peft pillow numpy",
        ("blocklora",),
        "peft",
        "The folder is a LoRA adapter that PEFT loads (`PeftModel.from_pretrained(base, FOLDER)`); head.npz holds what "
        "turns image features into logits.",
    ),
    "hf": _Kind(
        _hf,
        ("images.py", "heads.py"),
        "torch transformers pillow numpy",
        ("blocklora", "peft"),
        "transformers",
        "The folder is a checkpoint that transformers loads (`AutoModel.from_pretrained(FOLDER)`); head.npz holds what "
        "turns image features into logits.",
    ),
    "onnx": _Kind(
        _onnx,
        ("images.py",),
        "onnxruntime pillow numpy",
        _NO_TORCH,
        "onnx",
        "`image.onnx` takes one RGB image of any size (uint8, height x width x 3), `pixels.onnx` preprocessed pixels "
        "of many. Both give `probabilities` and `features`, and read `weights.bin` beside them. Names of the classes "
        "and all settings are in export.json and in the models' metadata.",
    ),
    "numpy": _Kind(
        _numpy,
        ("images.py", "heads.py", "tower.py"),
        "numpy pillow",
        (*_NO_TORCH, "onnxruntime"),
        "numpy",
        "`tower.npz` holds the image tower, `head.npz` what turns its features into logits; tower.py and heads.py "
        "compute both.",
    ),
}


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        folder: Where to.
        facts: What export.json holds.
        notes: What a reader should know, in sentences.
    """

    folder: Path
    facts: Facts
    notes: tuple[str, ...]


def export_run(
    run: Path, out: Path, format_: Format, *, precision: Precision = "fp32", model: str | None = None
) -> Exported:
    """Export a finished run, and check that the export answers as the run does.

    Args:
        run: A RUN folder, or what ``FewShotClassifier.save`` wrote.
        out: The folder to make.
        format_: ``lora``, ``hf``, ``onnx`` or ``numpy``.
        precision: ``fp32``; for onnx also ``fp16`` or ``int8``.
        model: Where the base model is now, if it has moved.

    Raises:
        ConfigError: The format or precision is unknown, the run's method has no place in the format, or the export
            would be too far from the run.
        RunError: The run is not whole, or ``out`` is in use.
        ModelError: The base model cannot be loaded.
    """
    run, out = user_path(run), user_path(out)
    check_options(format_, precision)
    check_free(out)
    record = ClassifierRecord.read(run)
    if format_ == "hf":
        loaded, clip = load_towers(run, device="cpu", model=model)
    else:
        loaded, clip = load_run(run, device="cpu", model=model), None
    facts = facts_of(loaded.classifier, record.labels, format_, precision)
    images = images_to_check(run)
    expected, kept = expected_probabilities(replace(loaded, compute=Compute(_CPU, "fp32")), images)
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_folder(out) as folder:
        work = _Work(run, folder, loaded.classifier, clip, facts, kept, images.source, expected)
        facts, notes = FORMATS[format_].write(work)
        facts = _with_consumer(work, facts)
        _write_card(work, facts, notes)
        write_text(folder / _SUMS, _checksums(folder))
    return Exported(out, facts, notes)


def check_options(format_: str, precision: str) -> None:
    """Raise unless there is such a format, in such a precision.

    Raises:
        ConfigError: It names the nearest.
    """
    if format_ not in FORMATS:
        raise ConfigError(
            f"format '{format_}': expected one of {', '.join(FORMATS)}{did_you_mean(format_, FORMATS)}."
        )
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise ConfigError(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}{hint}.")
    if precision != "fp32" and format_ != "onnx":
        raise ConfigError(
            f"precision '{precision}': expected fp32 for format {format_}; only onnx has others."
        )


def check_free(out: Path) -> None:
    """Raise unless a folder can be made where nothing is lost.

    Raises:
        RunError: There is a file, or a folder that is not empty.
    """
    if out.is_file():
        raise RunError(f"{out}: this is a file; choose another --out.")
    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out}: this folder is not empty; choose another --out, or delete it.")


def _with_consumer(work: _Work, facts: Facts) -> Facts:
    """Write predict.py and what it reads, run it, and return the facts with how far it is from the run."""
    for name in (*FORMATS[facts.format].modules, f"predict_{facts.format}.py"):
        target = "predict.py" if name.startswith("predict_") else name
        shutil.copyfile(_CONSUMERS / name, work.folder / target)
    write_json(work.folder / FACTS, facts.to_json())
    without = FORMATS[facts.format].without
    found = check_consumer(work.folder, work.images, work.source, work.expected, facts, without)
    facts = facts if facts.check else replace(facts, check=found.to_json())
    write_json(work.folder / FACTS, facts.to_json())
    return facts


def _write_card(work: _Work, facts: Facts, notes: Sequence[str]) -> None:
    """Write the model card."""
    kind, check = FORMATS[facts.format], facts.check
    use = (
        f"    pip install {kind.needs}\n    python predict.py IMAGE...\n\nprints one JSON line an image: image, label, "
        f"probability. {kind.use}"
    )
    compared = (
        f"Written in {facts.precision}, and compared with the run on {check['images']} {check['source']} images: "
        f"{check['top_1']:.1%} keep their class, and no probability changes by more than "
        f"{check['largest_difference']:.2g}. Probabilities are softmax(logits / {facts.temperature:.4g}). "
        f"`sha256sum -c {_SUMS}` checks the files."
    )
    sections = [("This export", "\n\n".join([compared, *notes]))]
    text = run_card(work.run, use=use, library=kind.library, sections=sections)
    write_text(work.folder / _CARD, text)


def _checksums(folder: Path) -> str:
    """Return the hash of every file, as sha256sum writes and reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
