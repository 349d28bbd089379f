"""The clickstream pipeline's function, made to take 100 µs of CPU an event."""

import time

from bargeline import Event
from config.pipelines.clickstream import transform

COST_NS = 100_000


def enrich(event: Event[transform.Click]) -> Event[transform.Click] | None:
    """Do what the pipeline does, and then nothing until the CPU time is spent.

    CPU time, not time: a process that waits for a core has not worked.
    """
    end = time.thread_time_ns() + COST_NS
    result = transform.enrich(event)
    while time.thread_time_ns() < end:
        pass
    return result
