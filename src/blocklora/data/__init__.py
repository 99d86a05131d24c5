"""Labelled pictures: where they come from, which of them a few-shot run uses, and how one is opened."""

from blocklora.data.bundled import bundled_names
from blocklora.data.images import IMAGE_ENDINGS, open_image, picture_from_array
from blocklora.data.load import load_dataset
from blocklora.data.prompts import prompts
from blocklora.data.record import leaks, readable, split_record
from blocklora.data.sampling import few_shot
from blocklora.data.types import Dataset, Example, FewShotSplit, Source, Unreadable

__all__ = [
    "IMAGE_ENDINGS",
    "Dataset",
    "Example",
    "FewShotSplit",
    "Source",
    "Unreadable",
    "bundled_names",
    "few_shot",
    "leaks",
    "load_dataset",
    "open_image",
    "picture_from_array",
    "prompts",
    "readable",
    "split_record",
]
