"""One's own photos from end to end, in Python: find, hold some out, fit, measure, predict, keep.

    python examples/own_photos.py photos/ --model tiny --seconds 60

photos/ holds one folder a class. `blocklora fit photos/ --method auto` does the same with a report.
"""

import argparse
from pathlib import Path

from sklearn.model_selection import train_test_split

from blocklora import FewShotClassifier

parser = argparse.ArgumentParser()
parser.add_argument("photos", type=Path)
parser.add_argument("--model", default="openai/clip-vit-base-patch16")
parser.add_argument("--seconds", type=int, default=600)
parser.add_argument("--keep", type=Path, help="a folder for the classifier")
options = parser.parse_args()

endings = {".jpg", ".jpeg", ".png", ".webp"}
images = sorted(path for path in options.photos.glob("*/*") if path.suffix.lower() in endings)
labels = [path.parent.name for path in images]
train, test, train_labels, test_labels = train_test_split(
    images, labels, test_size=0.25, stratify=labels, random_state=0
)

classifier = FewShotClassifier(model=options.model, method="auto", shots=16, time_limit=options.seconds)
classifier.fit(train, train_labels)
print(f"fitted to {len(train)} images in {classifier.seconds_:.0f} s")
print(f"right on {classifier.score(test, test_labels):.0%} of {len(test)} images that it has not seen")

for path in test[:3]:
    (shares,) = classifier.predict_proba([path])
    print(f"{path.name}: {classifier.classes_[shares.argmax()]} ({shares.max():.0%})")

if options.keep:
    classifier.save(options.keep)
    again = FewShotClassifier.load(options.keep)
    print(f"kept in {options.keep}, and read back: {again.predict(test[:1])[0]}")
