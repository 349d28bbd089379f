"""CPU time that the benchmark counts: all of it, also of processes that end while it looks."""

import subprocess
import sys

import psutil
import pytest

from bench import cpu

CHILD = """
import os, time
while time.process_time() < 0.3: pass
print(os.getpid(), flush=True)
input()
"""
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {CHILD!r}])
print("has waited for it", flush=True)
sys.stdin.read()
"""


def test_a_process_that_ends_before_its_turn_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        given, told = parent.stdin, parent.stdout
        assert given is not None
        assert told is not None
        child = int(told.readline())
        role = cpu._role
        before = cpu.cpu_seconds()["tools"]

        def end_it(process: psutil.Process) -> str:
            if process.pid == child:
                print(file=given, flush=True)
                told.readline()
            return role(process)

        monkeypatch.setattr(cpu, "_role", end_it)
        assert before >= 0.3
        # Sums of ticks of 10 ms, as floats; what would be missing is 0.3 s.
        assert cpu.cpu_seconds()["tools"] > before - 0.1
        assert not psutil.pid_exists(child)
