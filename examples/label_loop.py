"""Label in rounds: fit to what has a label, ask which images to label next, add their labels, fit again.

    python examples/label_loop.py photos/ unlabelled/ --model tiny

Folder names below unlabelled/ stand in for the person who labels; `blocklora suggest` makes a page for one.
"""

import argparse
import csv
import tempfile
from pathlib import Path

from blocklora.explore.suggest import suggest_images
from blocklora.run.fit import fit_run

parser = argparse.ArgumentParser()
parser.add_argument("photos", help="class folders with a first image or two, and a test part")
parser.add_argument("unlabelled", type=Path)
parser.add_argument("--model", default="openai/clip-vit-base-patch16")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("-n", type=int, default=10, help="images a round")
options = parser.parse_args()

added: list[str] = []
with tempfile.TemporaryDirectory() as folder:
    for turn in range(options.rounds + 1):
        run, metrics = fit_run(
            options.photos,
            Path(folder) / f"run-{turn}",
            model=options.model,
            method="gda",
            shots=1,
            add=added,
        )
        print(f"{metrics.n_train} labels: {metrics.evaluation.accuracy:.1%} of the test images are right")
        if turn == options.rounds:
            break
        found = suggest_images(run, [options.unlabelled], options.n).images
        labels = Path(folder) / f"labels-{turn}.csv"
        with open(labels, "w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["image", "label"])
            rows.writerows([one.path, one.path.parent.name] for one in found)
        added.append(str(labels))
