"""Refuse a PEFT that this package was not written for; the first thing that ``blocklora.adapter`` imports."""

from __future__ import annotations

import importlib.metadata

from packaging.version import Version

__all__ = ["OLDEST", "TOO_NEW", "check_peft_version"]

OLDEST = "0.21"
TOO_NEW = "0.22"


def check_peft_version(version: str) -> None:
    """Raise unless the version of PEFT is one that Block-LoRA works with.

    Args:
        version: PEFT's version, such as "0.21.2".

    Raises:
        ImportError: The version is too old or too new.
    """
    if not Version(OLDEST) <= Version(version) < Version(TOO_NEW):
        raise ImportError(
            f"blocklora.adapter needs peft >= {OLDEST} and < {TOO_NEW}, but peft {version} is installed; "
            f'run: pip install "peft>={OLDEST},<{TOO_NEW}"'
        )


check_peft_version(importlib.metadata.version("peft"))
