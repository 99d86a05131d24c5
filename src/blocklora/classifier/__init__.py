"""The one frozen classifier: its head, what was changed in its towers, how it encodes, and its files."""

from blocklora.classifier.card import model_card
from blocklora.classifier.changes import ImageChange, TextChange, is_of_image_tower
from blocklora.classifier.class_prompts import ClassPrompts, cut_notes, prompt_tokens
from blocklora.classifier.classifier import Classifier, portions
from blocklora.classifier.encode import Encoded, at_once, encode, encode_batches, encode_images, in_halves
from blocklora.classifier.evidence import Evidence, HeldOutAnswers, HowHeldOut, KnownImages
from blocklora.classifier.explain import Explanation, explain, heat_maps, why_no_heat_map
from blocklora.classifier.files import CLASSIFIER_FILES, read_both_towers, read_classifier, write_classifier
from blocklora.classifier.heads import CONDITIONAL, HEADS, MIXTURE, Head, Member, cosine_head, mixture_head
from blocklora.classifier.hub import OnHub, hub_use, push_folder
from blocklora.classifier.other_classes import (
    mean_features,
    one_class_more,
    other_classes,
    shared_class_features,
    template_features,
)
from blocklora.classifier.record import ClassifierRecord
from blocklora.classifier.sets import class_sets, held_out_answers, proven_coverage
from blocklora.classifier.store import NOTHING_KEPT, FeatureStore, frozen_facts
from blocklora.classifier.unknown import chance_known, known_images, nearest_images

__all__ = [
    "CLASSIFIER_FILES",
    "CONDITIONAL",
    "HEADS",
    "MIXTURE",
    "NOTHING_KEPT",
    "ClassPrompts",
    "Classifier",
    "ClassifierRecord",
    "Encoded",
    "Evidence",
    "Explanation",
    "FeatureStore",
    "Head",
    "HeldOutAnswers",
    "HowHeldOut",
    "ImageChange",
    "KnownImages",
    "Member",
    "OnHub",
    "TextChange",
    "at_once",
    "chance_known",
    "class_sets",
    "cosine_head",
    "cut_notes",
    "encode",
    "encode_batches",
    "encode_images",
    "explain",
    "frozen_facts",
    "heat_maps",
    "held_out_answers",
    "hub_use",
    "in_halves",
    "is_of_image_tower",
    "known_images",
    "mean_features",
    "mixture_head",
    "model_card",
    "nearest_images",
    "one_class_more",
    "other_classes",
    "portions",
    "prompt_tokens",
    "proven_coverage",
    "push_folder",
    "read_both_towers",
    "read_classifier",
    "shared_class_features",
    "template_features",
    "why_no_heat_map",
    "write_classifier",
]
