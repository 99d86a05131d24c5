"""Make the tiny CLIP and the picture task from nothing: every step in order, each skipped when its output is there.

``--force NAME`` does one step again. Training steps go on from their last checkpoint when they were cut off.
"""

import argparse
import importlib
import time
from pathlib import Path

from paths import (
    ASSETS,
    IMAGE_RUN,
    PACKED,
    PHRASES,
    PICTURES,
    RESULTS,
    TEACHER,
    TEXT_RUN,
    TOKENIZER,
    UNPACKED,
)
from sources import SOURCES

# module: the files whose presence says that the step is done
STEPS: dict[str, list[Path]] = {
    "fetch": [UNPACKED / s.name for s in SOURCES],
    "render": [PICTURES],
    "phrases": [PHRASES],
    "tokenizer": [TOKENIZER / "tokenizer.json"],
    "teacher": [TEACHER],
    "train_text": [TEXT_RUN / "final.safetensors"],
    "train_image": [IMAGE_RUN / "final.safetensors"],
    "pack": [PACKED / "model.safetensors", ASSETS / "tiny" / "model.safetensors"],
    "build_task": [ASSETS / "twemoji" / "manifest.csv"],
    "build_clipart": [ASSETS / "clipart" / "manifest.csv"],
    "measure": [RESULTS],
    "cards": [ASSETS / "tiny" / "README.md", ASSETS / "twemoji" / "README.md"],
}


def needed(name: str, forced: list[str]) -> bool:
    """Tell whether a step has to be done."""
    return name in forced or not all(path.exists() for path in STEPS[name])


def main() -> None:
    """Run the steps that are needed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", nargs="*", default=[], choices=list(STEPS), metavar="NAME")
    forced = parser.parse_args().force
    for name in STEPS:
        if not needed(name, forced):
            print(f"{name}: already there", flush=True)
            continue
        print(f"{name} ...", flush=True)
        started = time.monotonic()
        run_step(name)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def run_step(name: str) -> None:
    """Call the step's ``main`` in this process, or its training function with the recipe's settings."""
    module = importlib.import_module(name)
    if name == "train_text":
        module.train(module.TextConfig())
    elif name == "train_image":
        module.train(module.ImageConfig())
    elif name == "measure":
        module.measure([0, 1, 2])
    else:
        module.main()


if __name__ == "__main__":
    main()
