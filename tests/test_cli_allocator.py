"""Freed memory that stays in the process, seen in the pages the system counts. In own processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import CHECKOUT

PROGRAM = """
import ctypes, resource, sys
from clipguide.cli.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def touch():
    block = libc.malloc(ctypes.c_size_t(64 * 2**20))
    ctypes.memset(block, 1, 64 * 2**20)
    libc.free(ctypes.c_void_p(block))
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str, **environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` said, and the page faults of a second block of 64 MiB."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM, what]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=CHECKOUT, check=True, env=plain | environment
    )
    said, count = done.stdout.split()
    return said, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is on Linux")
def test_a_second_block_is_made_of_the_first() -> None:
    said, count = faults("keep")
    if said == "False":
        pytest.skip("this C library has no mallopt")
    assert count < 16 < faults("leave")[1]  # 64 MiB are 16,384 small or 32 huge pages of x86-64


def test_a_users_own_settings_are_left_alone() -> None:
    assert faults("keep", MALLOC_ARENA_MAX="2")[0] == "False"
