"""What training sees: premultiplied pictures, and for each concept its phrases as rows of the target matrix."""

import json
from dataclasses import dataclass

import numpy as np
import torch
from augment import premultiply
from concepts import Concept
from paths import PHRASES, PICTURE_TABLE, PICTURES, TARGETS, TEACHER
from phrases import group_phrase
from sources import SOURCES, TEST_STYLE, VALIDATION_STYLE
from torch import Tensor
from torch.nn import functional

TRAIN_STYLES = tuple(s.name for s in SOURCES if s.role == "train")
STYLE_WEIGHT = {"fluent-emoji-high-contrast": 0.3}  # silhouettes; all others weigh 1
DULL_GROUPS = {"keycap", "alphanum", "other-symbol", "geometric", "time", "av-symbol", "zodiac"}


def concept_weight(concept: Concept) -> float:
    """Return how often a concept is drawn: people come in many near-copies, signs are dull, things weigh 1."""
    if concept.group == "people-body":
        return 0.3 if "person" in concept.subgroup or concept.subgroup == "family" else 0.6
    return 0.5 if concept.subgroup in DULL_GROUPS else 1.0


@dataclass
class PictureSet:
    """Pictures of some styles with the concepts they draw.

    Args:
        pictures: premultiplied RGBA uint8, [n, 4, 96, 96].
        concept: index of the concept of each picture, [n].
        row: row of each picture in the table of all pictures, [n].
        concepts: the concepts that occur, in order.
    """

    pictures: Tensor
    concept: Tensor
    row: Tensor
    concepts: list[Concept]


def load_pictures(styles: tuple[str, ...]) -> PictureSet:
    """Read the pictures of the given styles."""
    table = json.loads(PICTURE_TABLE.read_text(encoding="utf-8"))
    known = {c["key"]: Concept(**{**c, "tags": tuple(c["tags"])}) for c in table["concepts"]}
    rows = [i for i, (style, _) in enumerate(table["pictures"]) if style in styles]
    keys = [table["pictures"][i][1] for i in rows]
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return PictureSet(
        pictures=premultiply(torch.from_numpy(np.load(PICTURES, mmap_mode="r")[rows])),
        concept=torch.tensor([order[k] for k in keys]),
        row=torch.tensor(rows),
        concepts=[known[k] for k in order],
    )


def load_phrases() -> tuple[list[str], Tensor, int]:
    """Return the phrases, their targets [n, 256], and how many of the first come from emoji."""
    record = json.loads(PHRASES.read_text(encoding="utf-8"))
    return record["phrases"], torch.from_numpy(np.load(TARGETS)), record["n_emoji"]


@dataclass
class TextBank:
    """Phrases of each concept, as indices into the phrase list.

    Args:
        label: [k].
        tags: padded by repeating the label, [k, n_tags].
        n_tags: [k].
        group: [k].
        targets: of all phrases, [n_phrases, 256].
        blend: a fixed mean of label, tags and group for each concept, unit length, [k, 256].
    """

    label: Tensor
    tags: Tensor
    n_tags: Tensor
    group: Tensor
    targets: Tensor
    blend: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Return one phrase index per concept: its label (55%), a tag (35%) or its group (10%), [k]."""
        n = len(self.label)
        pick = (torch.rand(n, generator=generator) * self.n_tags).long()
        tag = self.tags.gather(1, pick[:, None])[:, 0]
        choice = torch.rand(n, generator=generator)
        return torch.where(choice < 0.55, self.label, torch.where(choice < 0.9, tag, self.group))


def load_bank(concepts: list[Concept]) -> TextBank:
    """Build the text bank of the given concepts."""
    phrases, targets, _ = load_phrases()
    index = {p: i for i, p in enumerate(phrases)}
    label = torch.tensor([index[c.label] for c in concepts])
    group = torch.tensor([index[group_phrase(c)] for c in concepts])
    tag_rows = [[index[t] for t in c.tags] or [index[c.label]] for c in concepts]
    n_tags = torch.tensor([len(t) for t in tag_rows])
    tags = label[:, None].repeat(1, int(n_tags.max()))
    for i, row in enumerate(tag_rows):
        tags[i, : len(row)] = torch.tensor(row)
    tag_mean = torch.stack([functional.normalize(targets[row].mean(0), dim=0) for row in tag_rows])
    blend = functional.normalize(0.6 * targets[label] + 0.4 * tag_mean + 0.15 * targets[group], dim=-1)
    return TextBank(label, tags, n_tags, group, targets, blend)


def load_teacher_targets(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return the teacher's features of the given pictures: standardised, partly whitened, unit length, [n, size]."""
    features = torch.from_numpy(np.load(TEACHER)[rows.numpy()]).float()
    features = (features - features.mean(0)) / (features.std(0) + 1e-3)
    sample = features[torch.randperm(len(features), generator=generator)[:4000]]
    _, s, v_t = torch.linalg.svd(sample, full_matrices=False)
    whitener = v_t[:size].T / s[:size].sqrt()  # halfway between PCA and full whitening
    return functional.normalize(features @ whitener, dim=-1)


def load_validation() -> PictureSet:
    """Return the style that is held out to choose between settings."""
    return load_pictures((VALIDATION_STYLE,))


def load_test() -> PictureSet:
    """Return the unseen style that final figures are measured on."""
    return load_pictures((TEST_STYLE,))
