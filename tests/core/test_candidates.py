"""Facts of candidates: what contradicts itself is refused, and all comes back from JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from blocklora.core.candidates import Candidate
from blocklora.core.errors import ConfigError

JUDGED = Candidate("gda", True, "the best", {"alpha": 0.1}, 40, 1.2, 0.1, 0.6, 0.05, 3.0)


@pytest.mark.parametrize("candidate", [JUDGED, Candidate("lp++", False, "not tried: no time")])
def test_json_round_trip(candidate: Candidate) -> None:
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json()))) == candidate


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"name": "gda", "kept": True}, "expected"),
        ({"name": "gda", "kept": True, "why": "", "colour": 1}, "colour"),
        ({"name": "gda", "kept": True, "why": "", "n_images": 3}, "go together"),
        (JUDGED.to_json() | {"log_loss": float("nan")}, "no finite number"),
    ],
)
def test_contradictions_are_refused(facts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Candidate.from_json(facts)
