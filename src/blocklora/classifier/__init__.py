"""The one frozen classifier: its head, what was changed in its towers, how it encodes, and its files."""

from blocklora.classifier.changes import ImageChange, TextChange, is_of_image_tower
from blocklora.classifier.class_prompts import ClassPrompts, cut_notes, prompt_tokens
from blocklora.classifier.classifier import Classifier
from blocklora.classifier.encode import Encoded, at_once, encode, encode_images, in_halves
from blocklora.classifier.files import CLASSIFIER_FILES, read_both_towers, read_classifier, write_classifier
from blocklora.classifier.heads import CONDITIONAL, HEADS, Head, cosine_head
from blocklora.classifier.other_classes import (
    mean_features,
    other_classes,
    shared_class_features,
    template_features,
)
from blocklora.classifier.record import ClassifierRecord
from blocklora.classifier.store import NOTHING_KEPT, FeatureStore, frozen_facts

__all__ = [
    "CLASSIFIER_FILES",
    "CONDITIONAL",
    "HEADS",
    "NOTHING_KEPT",
    "ClassPrompts",
    "Classifier",
    "ClassifierRecord",
    "Encoded",
    "FeatureStore",
    "Head",
    "ImageChange",
    "TextChange",
    "at_once",
    "cosine_head",
    "cut_notes",
    "encode",
    "encode_images",
    "frozen_facts",
    "in_halves",
    "is_of_image_tower",
    "mean_features",
    "other_classes",
    "prompt_tokens",
    "read_both_towers",
    "read_classifier",
    "shared_class_features",
    "template_features",
    "write_classifier",
]
