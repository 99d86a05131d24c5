"""The lean engine: CLIP's towers with low-rank adapters, exact, with less computing and less memory."""

from blocklora.clip.lean.towers import Keep, LeanTower, why_not_lean

__all__ = ["Keep", "LeanTower", "why_not_lean"]
