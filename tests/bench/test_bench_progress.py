"""What a bench shows, and how it guesses the time that is left."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blocklora.bench.grid import GridRun
from blocklora.bench.progress import BenchProgress, seconds_left


def run(method: str = "lora", data: str = "digits", shots: int = 4, seed: int = 1) -> GridRun:
    return GridRun(data, "tiny", method, shots, seed, {}, {"all": f"{method}{data}{shots}{seed}"}, {})


def test_the_most_similar_runs_say_how_long_a_run_takes() -> None:
    finished = [(run(seed=1), 10.0), (run(seed=2), 20.0), (run(shots=16), 100.0), (run("zero-shot"), 1.0)]
    assert seconds_left([run(seed=3)], finished, 1) == 15
    assert seconds_left([run(data="twemoji")], finished, 1) == 15  # same method and shots
    assert seconds_left([run(data="twemoji", shots=1)], finished, 1) == pytest.approx(130 / 3)  # same method
    assert seconds_left([run("coop")], finished, 1) == pytest.approx(131 / 4)
    assert (
        seconds_left([run(seed=3), run(seed=4), run(shots=16, seed=2)], finished, 2) == 100
    )  # one cannot be halved
    assert seconds_left([run()], [], 1) is None
    assert seconds_left([], finished, 1) == 0


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=5), st.integers(1, 20), st.integers(1, 8))
def test_equal_runs_share_the_workers(seconds: list[float], n: int, n_workers: int) -> None:
    mean = sum(seconds) / len(seconds)
    left = seconds_left([run(seed=s) for s in range(n)], [(run(), s) for s in seconds], n_workers)
    assert left == pytest.approx(max(n * mean / n_workers, mean))


def test_a_terminal_shows_bars_and_time_left_and_a_file_only_lines() -> None:
    for terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=160, color_system=None, highlight=False)
        first, second, third = run(seed=1), run(seed=2), run(seed=3)
        with BenchProgress(console) as progress:
            progress.begin([second, third], [(first, 60.0)], 2, ["a has equal settings to b"])
            progress.step(0, second, "training", 3, 7)
            progress.end(second, 70.0, None)
            progress.end(third, 1.0, "OSError: [disk] full")
        text = stream.getvalue()
        assert text.startswith("a has equal settings to b")
        assert "1 of 3 runs are done already; 2 to do, 2 processes." in text
        assert "failed: lora on digits, 4 shots, seed 3, tiny: OSError: [disk] full" in text
        assert ("lora on digits, 4 shots, seed 2, tiny" in text) is terminal
        assert ("left" in text) is terminal
