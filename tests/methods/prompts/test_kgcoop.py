"""KgCoOp's settings; ``test_coop`` compares what it learns with plain torch."""

from __future__ import annotations

from blocklora.methods.prompts.kgcoop import KgCoOpSettings


def test_published_settings() -> None:
    settings = KgCoOpSettings()
    assert (settings.words, settings.epochs, settings.batch_size, settings.weight) == (
        "a photo of a",
        100,
        128,
        8.0,
    )
