import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_drill.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_random_kills_lose_double_and_damage_nothing() -> None:
    """A short version of the drill; `make drill` kills 200 times."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--kills", "3", "--seeds", "2", "--pause", "6"],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "none lost, doubled or damaged" in done.stdout
