"""What a fit is expected to take, and what a time limit does to features of several passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blocklora.core.deadline import Deadline
from blocklora.methods import Job
from blocklora.methods.frozen.features import FeatureSettings
from blocklora.methods.frozen.linear_probe import LinearProbeSettings
from blocklora.methods.timing import passes_in_time, with_reserve


@pytest.mark.parametrize(("asked", "got"), [(10, 10), (50, 13)])
def test_as_many_passes_as_fit(job: Job, asked: int, got: int) -> None:
    """Six images take 6 s a pass; four fifths of 100 s are for features."""
    limited = replace(job, deadline=Deadline(100.5), forward_seconds=1.0)
    assert passes_in_time(limited, FeatureSettings(passes=asked)).passes == got
    assert passes_in_time(replace(limited, deadline=Deadline(0.1)), FeatureSettings()).passes == 1


def test_methods_without_passes_and_jobs_without_a_limit_stay_as_they_are(job: Job) -> None:
    settings, probe = FeatureSettings(passes=50), LinearProbeSettings()
    assert passes_in_time(job, settings) is settings
    assert passes_in_time(replace(job, deadline=Deadline(1.0)), probe) is probe
    assert with_reserve(job, 100) is job


def test_time_is_kept_back_for_the_evaluation(job: Job) -> None:
    limited = replace(job, deadline=Deadline(100.0))
    few, many = (with_reserve(limited, n_test).deadline for n_test in (0, 10**6))
    assert few is not None
    assert many is not None
    assert 0 < few.reserved < many.reserved / 1000  # six training images against two million
    assert many.reserved > 100  # even at 0.05 ms an image


def test_what_is_expected_includes_the_evaluation(job: Job) -> None:
    told: list[float] = []
    expecting = with_reserve(replace(job, on_expected=told.append), 10**6)
    assert expecting.deadline is None
    assert expecting.forward_seconds > 0
    assert expecting.on_expected is not None
    expecting.on_expected(5.0)
    assert told[0] > 105
