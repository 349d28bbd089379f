"""The machine that a measurement was made on: what matters for speed, and nothing that names it."""

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from workers.loader import native

_FSYNCS = 50


def describe() -> dict[str, Any]:
    """Cores, CPU, memory, system, Python, whether there is C, and the time of one fsync where the servers' data are."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "c": native.AVAILABLE,
        "fsync_ms": round(_fsync_seconds() * 1000, 2),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _fsync_seconds() -> float:
    """Median of writing 8 KiB and syncing it."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(_FSYNCS):
            file.write(bytes(8192))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)
