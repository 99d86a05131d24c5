"""What all tests of the adapter share."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # PEFT 0.21 reads a name that transformers 5 has deprecated, on every get_peft_model.
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
