"""``blocklora`` as a person drives it: in a process of its own, or, faster, in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blocklora.cli import app as cli


def start(*arguments: Any, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m blocklora`` in a fresh process, without a network; what it wrote comes as bytes."""
    command = [sys.executable, "-m", "blocklora", *map(str, arguments)]
    around = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment
    return subprocess.run(command, capture_output=True, env=around, cwd=cwd, check=False)


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: Any
) -> tuple[int, str, str]:
    """Run ``blocklora`` in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["blocklora", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err
