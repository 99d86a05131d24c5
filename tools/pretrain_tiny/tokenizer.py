"""Step 4: a CLIP-style byte-level BPE of 4030 tokens, trained on the phrases and prompt templates."""

import json
from collections.abc import Iterator

from concepts import load_concepts
from paths import PHRASES, TOKENIZER
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

VOCABULARY, CONTEXT = 4030, 32
START, END = "<|startoftext|>", "<|endoftext|>"
SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of many {}.",
    "a photo of {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a low resolution photo of a {}.",
    "a close-up photo of a {}.",
    "a drawing of a {}.",
    "an icon of a {}.",
    "a cartoon of a {}.",
    "clip art of a {}.",
    "a picture of a {}.",
    "an emoji of a {}.",
    "a sketch of a {}.",
    "art of the {}.",
    "itap of a {}.",
    "a rendering of a {}.",
    "an illustration of {}.",
)
# words of well-known prompts that the text tower is not trained on but should not spell letter by letter
OTHER_PROMPTS = (
    "a photo of the {}, a type of {}.",
    "a {} in a video game.",
    "a {} texture.",
    "a centered satellite photo of {}.",
    "a photo of one small or large {}.",
)


def corpus(phrases: list[str]) -> Iterator[str]:
    """Yield the training text: phrases twice, emoji words more often, templates 400 times."""
    for phrase in phrases:
        yield from [phrase] * 2
    for concept in load_concepts().values():
        yield from [concept.label] * 8
        for tag in concept.tags:
            yield from [tag] * 4
    for template in TEMPLATES + OTHER_PROMPTS:
        yield from [template.replace("{}", "")] * 400


def train_merges(phrases: list[str]) -> list[tuple[str, str]]:
    """Return the BPE merges learnt from the corpus, most frequent first."""
    bpe = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        special_tokens=[],
        show_progress=False,
        min_frequency=2,
    )
    bpe.train_from_iterator(corpus(phrases), trainer)
    return [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]


def build_vocabulary(merges: list[tuple[str, str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Lay the vocabulary out as CLIP does: bytes, bytes at a word's end, merges, start, end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(alphabet + [a + "</w>" for a in alphabet])}
    kept = []
    for left, right in merges:
        if len(vocabulary) >= VOCABULARY - 2:
            break
        if left in vocabulary and right in vocabulary and left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            kept.append((left, right))
    vocabulary[START] = len(vocabulary)
    vocabulary[END] = len(vocabulary)
    return vocabulary, kept


def main() -> None:
    """Train and write the tokenizer."""
    phrases = json.loads(PHRASES.read_text(encoding="utf-8"))["phrases"]
    vocabulary, merges = build_vocabulary(train_merges(phrases))
    if len(vocabulary) != VOCABULARY:
        raise ValueError(f"expected {VOCABULARY} tokens, got {len(vocabulary)}")
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT).save_pretrained(TOKENIZER)
    print(len(vocabulary), "tokens")


if __name__ == "__main__":
    main()
