"""Labelled images: where they come from, which of them a few-shot run uses, and how one is opened."""

from blocklora.data.bundled import bundled_names
from blocklora.data.choose import DataChoice, choose, choose_test
from blocklora.data.classes import label_notes, number_notes, same_words, words_of
from blocklora.data.copies import Copies
from blocklora.data.from_lists import dataset_from_lists, labels_to_compare, named_sources
from blocklora.data.given import (
    ImageLike,
    check_images,
    check_labels,
    image_from_array,
    name_of,
    raise_unreadable,
    source_of,
)
from blocklora.data.images import (
    DECODING,
    IMAGE_ENDINGS,
    LONGEST,
    cut_long_side,
    open_for_model,
    open_image,
    size_in_header,
)
from blocklora.data.labelled import LabelledImages, SplitPart, read_labelled, read_split_part, seen_images
from blocklora.data.literature.benchmarks import (
    BENCHMARKS,
    SHIFTS,
    TRAINABLE,
    Benchmark,
    known_benchmark,
    missing,
)
from blocklora.data.literature.inventory import Inventory, expected_tree, inventory
from blocklora.data.load import load_dataset, read_dataset
from blocklora.data.new_class import NewClass, check_new_name, draw_new_class
from blocklora.data.prompts import ENSEMBLES, chosen_templates, ensemble, prompts
from blocklora.data.record import (
    content_digests,
    extended_record,
    leaks,
    readable,
    split_record,
    training_record,
)
from blocklora.data.sampling import Half, SamplingProtocol, few_shot, half_of_classes
from blocklora.data.scan import image_files
from blocklora.data.sealed import SealedTest, seal
from blocklora.data.types import Dataset, Example, FewShotSplit, Source, Unreadable

__all__ = [
    "BENCHMARKS",
    "DECODING",
    "ENSEMBLES",
    "IMAGE_ENDINGS",
    "LONGEST",
    "SHIFTS",
    "TRAINABLE",
    "Benchmark",
    "Copies",
    "DataChoice",
    "Dataset",
    "Example",
    "FewShotSplit",
    "Half",
    "ImageLike",
    "Inventory",
    "LabelledImages",
    "NewClass",
    "SamplingProtocol",
    "SealedTest",
    "Source",
    "SplitPart",
    "Unreadable",
    "bundled_names",
    "check_images",
    "check_labels",
    "check_new_name",
    "choose",
    "choose_test",
    "chosen_templates",
    "content_digests",
    "cut_long_side",
    "dataset_from_lists",
    "draw_new_class",
    "ensemble",
    "expected_tree",
    "extended_record",
    "few_shot",
    "half_of_classes",
    "image_files",
    "image_from_array",
    "inventory",
    "known_benchmark",
    "label_notes",
    "labels_to_compare",
    "leaks",
    "load_dataset",
    "missing",
    "name_of",
    "named_sources",
    "number_notes",
    "open_for_model",
    "open_image",
    "prompts",
    "raise_unreadable",
    "read_dataset",
    "read_labelled",
    "read_split_part",
    "readable",
    "same_words",
    "seal",
    "seen_images",
    "size_in_header",
    "source_of",
    "split_record",
    "training_record",
    "words_of",
]
