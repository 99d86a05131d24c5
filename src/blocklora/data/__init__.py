"""Labelled pictures: where they come from, which of them a few-shot run uses, and how one is opened."""

from blocklora.data.bundled import bundled_names
from blocklora.data.choose import DataChoice, choose, choose_test
from blocklora.data.images import IMAGE_ENDINGS, Picture, name_of, open_image, picture_from_array, source_of
from blocklora.data.literature.benchmarks import (
    BENCHMARKS,
    SHIFTS,
    TRAINABLE,
    Benchmark,
    known_benchmark,
    missing,
)
from blocklora.data.literature.inventory import expected_tree, inventory
from blocklora.data.load import load_dataset
from blocklora.data.prompts import ENSEMBLES, ensemble, prompts
from blocklora.data.record import content_digests, leaks, readable, split_record, training_record
from blocklora.data.sampling import Half, Protocol, few_shot, half_of_classes
from blocklora.data.sealed import SealedTest, seal
from blocklora.data.types import Dataset, Example, FewShotSplit, Source, Unreadable

__all__ = [
    "BENCHMARKS",
    "ENSEMBLES",
    "IMAGE_ENDINGS",
    "SHIFTS",
    "TRAINABLE",
    "Benchmark",
    "DataChoice",
    "Dataset",
    "Example",
    "FewShotSplit",
    "Half",
    "Picture",
    "Protocol",
    "SealedTest",
    "Source",
    "Unreadable",
    "bundled_names",
    "choose",
    "choose_test",
    "content_digests",
    "ensemble",
    "expected_tree",
    "few_shot",
    "half_of_classes",
    "inventory",
    "known_benchmark",
    "leaks",
    "load_dataset",
    "missing",
    "name_of",
    "open_image",
    "picture_from_array",
    "prompts",
    "readable",
    "seal",
    "source_of",
    "split_record",
    "training_record",
]
