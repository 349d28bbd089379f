"""The peers: what one worker process of each is started with, and how many events it is given."""

from dataclasses import dataclass

#: Into PostgreSQL, or on to the next stage in Redis.
JOBS = ("to_table", "to_stream")


@dataclass(frozen=True)
class Peer:
    """A Python library, and the program in ``programs/`` that uses it."""

    name: str
    package: str
    program: str
    worker: str  # what follows `python -m`; {job} is the job's name
    events: int  # enough for some seconds
    clean: str = "bench:clean"  # stream or list where the next stage would find its messages
    message_events: int = 1


PEERS = (
    Peer("Bytewax", "bytewax", "with_bytewax", "bytewax.run with_bytewax:{job} -s 10 -b 0", 60_000),
    Peer("walrus", "walrus", "with_walrus", "with_walrus {job}", 60_000),
    Peer("FastStream", "faststream", "with_faststream", "faststream run with_faststream:{job}", 20_000),
    Peer(
        "Dramatiq",
        "dramatiq",
        "with_dramatiq",
        "dramatiq with_dramatiq --processes 1 --queues default",
        3_000,
        clean="bench:dramatiq:clean",
    ),
    Peer("Taskiq", "taskiq", "with_taskiq", "taskiq worker with_taskiq:broker --workers 1", 3_000),
    Peer(
        "Celery",
        "celery",
        "with_celery",
        "celery --app with_celery worker --concurrency 1",
        3_000,
        clean="bench:celery:clean",
    ),
)
#: Shown beside the peers, and none of them: what no documentation tells.
BY_HAND = Peer(
    "Bytewax, batches and COPY by hand",
    "bytewax",
    "with_bytewax_batches",
    "bytewax.run with_bytewax_batches:{job} -s 10 -b 0",
    150_000,
    message_events=500,
)
