"""The lean engine: CLIP's towers with low-rank adapters, exact, with less computing and less memory."""

from blocklora.clip.lean.support import why_not_lean
from blocklora.clip.lean.towers import Keep, LeanTower

__all__ = ["Keep", "LeanTower", "why_not_lean"]
