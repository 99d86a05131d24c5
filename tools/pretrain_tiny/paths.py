"""Where things lie: sources and outputs of every step, all under the git-ignored ``build/tiny``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "tiny"
DOWNLOADS = BUILD / "dl"
UNPACKED = BUILD / "x"
ASSETS = ROOT / "src" / "blocklora" / "assets"
RESULTS = TOOLS / "results.json"

PICTURES = BUILD / "pictures.npy"  # uint8 [n, 96, 96, 4], RGBA
PICTURE_TABLE = BUILD / "pictures.json"  # concepts, and (style, concept) of each picture
PHRASES = BUILD / "phrases.json"
TARGETS = BUILD / "targets.npy"  # float32 [n_phrases, 256], unit length
TOKENIZER = BUILD / "tokenizer"
TEACHER = BUILD / "teacher.npy"  # float16 [n, 1280]
TEXT_RUN = BUILD / "text"
IMAGE_RUN = BUILD / "image"
JOINT_RUN = BUILD / "joint"
PACKED = BUILD / "packed"


def source(name: str) -> Path:
    """Return the folder into which the source called ``name`` was unpacked."""
    return UNPACKED / name
