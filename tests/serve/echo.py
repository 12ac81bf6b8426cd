"""A process in the place of the model's: it answers at once, and dies or hangs when told to."""

import json
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from frozenseg.serve.jobs import Answer, Done, ModelInfo, ModelSource
from frozenseg.serve.limits import Limits


def work(connection: Connection, source: ModelSource, device: str | None, limits: Limits) -> None:
    fate = _next_fate(*source.options) if source.model == "in turn" else source.model
    if fate == "broken":
        connection.send("broken: cannot be loaded")
        return
    if fate == "dies":
        os._exit(9)
    connection.send(ModelInfo("cpu", note=None, knows=None, makes_graphs=fate == "graphs"))
    while True:
        try:
            jobs = connection.recv()
        except EOFError:
            return
        if any(job.image == b"odd" for job in jobs):
            connection.send("no answer of ours")
            continue
        for job in jobs:
            if job.image == b"die":
                os._exit(9)
            if job.image == b"hang":
                time.sleep(600)
            if job.image == b"slow":
                time.sleep(0.3)
        connection.send(Done([_answer(job, len(jobs)) for job in jobs], memory=1))


def _next_fate(starts: str, *fates: str) -> str:
    """What becomes of this start, whose number is kept in the file `starts`."""
    with Path(starts).open("ab") as file:
        file.write(b".")
        return fates[file.tell() - 1]


def _answer(job, together: int) -> Answer:
    body = {"image": job.image.decode("latin-1"), "together": together, "pid": os.getpid()}
    body["names"] = [list(names) for names in job.vocabulary.names]
    body["things"] = list(job.vocabulary.is_thing)
    return Answer(json.dumps(body).encode())
