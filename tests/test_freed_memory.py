"""Freed memory is used again: page faults are counted, in a process of its own since the setting stays."""

import platform
import subprocess
import sys

import pytest

_KEEPS = """
from pathlib import Path
import torch
from anomaly_zoo.freed_memory import keep_freed_memory
def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024
keep_freed_memory()
before = resident_mib()
blocks = [torch.ones(4 * 2**20) for _ in range(16)]
del blocks
kept = resident_mib() - before
keep_freed_memory()
print(kept, resident_mib() - before)
"""
_LOOP = """
import resource, sys
import torch
from anomaly_zoo.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for repetition in range(25):
    if repetition == 20:  # it takes a few until all holes are large enough
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(16 * 2**20) for _ in range(2)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_freed_block_is_handed_out_again() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", _LOOP, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 1000
    assert faults("leave") > 5 * 16384  # of 10 blocks of 64 MiB, 16,384 pages each


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_what_was_kept_is_returned_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", _KEEPS], capture_output=True, text=True, check=True)
    kept, left = map(float, done.stdout.split())
    assert kept > 250 > 50 > left  # 16 blocks of 16 MiB
