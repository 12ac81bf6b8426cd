"""The engine for clusters: Ray Data distributes the numbers of shards over a pool of actors.

An actor holds the same `Worker` as a process of the other engine, and writes the same files. A
shard that exists is done. So if the driver or an actor is killed, only the shards that were being
made are lost, and none is made twice. Only shard numbers go through Ray's object store.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

from frozenseg.batch.rows import shard_errors
from frozenseg.batch.worker import Plan, Seen, Worker
from frozenseg.data.prediction_lines import Part
from frozenseg.errors import UserError, import_extra
from frozenseg.extensions import import_extensions, imported_extensions
from frozenseg.runtime.background import cores

# Blocks of shards, or parts, for each actor. An actor that is killed loses at most one of them.
BLOCKS = 4
FREE = 1.0  # CPUs that Ray Data needs in addition to those of the actors; without them it hangs
ACTOR_CPUS = 1.0
RETRIES = 3  # how many times a part is run again if its process is killed
PAUSE = 2.0  # seconds between two checks of the cluster's resources

Result = TypeVar("Result")


class ShardMaker:
    """An actor, which makes the shards whose numbers it receives."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.worker: Worker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Make the shards of a batch of numbers.

        Returns, for each shard, its number, its errors (one text for each image, "" if there was
        none), and the line of an error that ends the run ("" if there was none).
        """
        numbers = [int(number) for number in batch["shard"]]
        made = [self._make(number) for number in numbers]
        return {"shard": numbers, "errors": [m[0] for m in made], "failure": [m[1] for m in made]}

    def _make(self, number: int) -> tuple[list[str], str]:
        seen: list[str] = []
        try:
            # The model is not loaded in the constructor, because after an error there Ray would
            # start the actor again and again.
            self.worker = self.worker or Worker(self.plan)
            errors = shard_errors(self.plan.folder, self.worker.manifest, number)
            if errors is None:
                self.worker.make(number, lambda error: seen.append(error or ""))
            else:  # the shard was made by an actor that was killed before it could report it
                seen = [error or "" for error in errors]
        except UserError as error:
            return [], str(error)
        return seen, ""


def make_shards(
    plan: Plan,
    numbers: list[int],
    seen: Seen,
    *,
    address: str | None,
    actors: int | None,
    patience: float,
) -> None:
    """Make shards on a Ray cluster, or with Ray started on this machine.

    seen: called for each image, see `frozenseg.batch.worker.Seen`.
    address: the address of the cluster; None: start Ray on this machine.
    actors: number of models; None: one for each GPU or, without GPUs, one for every two CPUs.
    patience: seconds to wait until the cluster has the resources that the actors need.
    """
    with _cluster(address, actors, patience, most=len(numbers)) as (ray, count, needs):
        data = import_extra("ray.data", "ray", "--engine ray")
        data.DataContext.get_current().enable_progress_bars = False
        rows = data.from_items(
            [{"shard": number} for number in numbers],
            override_num_blocks=min(len(numbers), BLOCKS * count),
        )
        made = rows.map_batches(
            ShardMaker,
            fn_constructor_kwargs={"plan": plan},
            batch_size=1,
            compute=data.ActorPoolStrategy(size=count),
            **needs,
        )
        for row in made.iter_rows():
            if row["failure"]:
                raise UserError(str(row["failure"]))
            for error in row["errors"]:
                seen(str(error) or None)


def run_parts(
    work: Callable[[Part], Result],
    *,
    address: str | None,
    actors: int | None,
    patience: float,
) -> list[Result]:
    """Run work that can be divided into parts on a cluster, and return the results of all parts.

    Each part is a task of its own. A part whose process is killed is run again, up to `RETRIES`
    times. What the tasks print is shown.

    work: a function of a module, or a `partial` of one, which is called with each part.
    address, actors, patience: see `make_shards`.
    """
    with _cluster(address, actors, patience, prints=True) as (ray, count, needs):
        task = ray.remote(max_retries=RETRIES, **needs)(_run_part)
        total = BLOCKS * count
        parts = [Part(number, total) for number in range(1, total + 1)]
        tasks = [task.remote(work, part, sys.argv, imported_extensions()) for part in parts]
        waiting, found = tasks, {}
        try:
            with tqdm(total=total, unit=" parts", disable=None) as bar:
                while waiting:
                    (done,), waiting = ray.wait(waiting)
                    found[done], error = ray.get(done)
                    if error:
                        raise UserError(error)
                    bar.update()
            return [found[task] for task in tasks]
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
            raise UserError(
                "a process was killed repeatedly, or its memory ran out; give fewer --actors, and "
                "the same command continues with the rest"
            ) from None


def _run_part(
    work: Callable[[Part], Result], part: Part, argv: list[str], extensions: tuple[str, ...]
) -> tuple[Result | None, str]:
    """Return the result of a part, and the line of an error that ends the run, or "".

    argv: the command line, which logs and results mention; `multiprocessing` passes it on likewise.
    """
    sys.argv = argv
    try:
        import_extensions(extensions)
        return work(part), ""
    except UserError as error:
        return None, str(error)


@contextmanager
def _cluster(
    address: str | None,
    actors: int | None,
    patience: float,
    *,
    most: int | None = None,
    prints: bool = False,
) -> Iterator[tuple[Any, int, dict[str, Any]]]:
    """Inside, Ray runs. Yields its module, the number of processes, and the resources of each.

    most: the largest number of processes. prints: whether their output is shown here.
    """
    # Otherwise Ray sends usage statistics to its developers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_extra("ray", "ray", "--engine ray")
    _start(ray, address, actors, prints=prints)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = actors or gpus or max(1, int(_cpus(ray) - FREE) // 2)
        count = count if most is None else min(count, most)
        need = {"CPU": count * ACTOR_CPUS + FREE, **({"GPU": float(count)} if gpus else {})}
        check_resources(ray, need, address, patience)
        yield ray, count, {"num_cpus": ACTOR_CPUS, "num_gpus": 1 if gpus else None}
    finally:
        ray.shutdown()


def _start(ray: Any, address: str | None, actors: int | None, *, prints: bool) -> None:
    """Connect to a cluster, or start Ray on this machine.

    On this machine, Ray is told that there are at least as many CPUs as the actors need, even if
    there are fewer.
    """
    options: dict[str, Any] = {"log_to_driver": prints}
    if address is None:
        options["include_dashboard"] = False
        options["num_cpus"] = max(cores(), int((actors or 1) * ACTOR_CPUS + FREE))
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises errors of general types
        reason = str(error).partition("\n")[0] or type(error).__name__
        place = "on this machine" if address is None else f"at --address {address}"
        raise UserError(f"Ray cannot be used {place} ({reason}); see `ray status`") from None


def _cpus(ray: Any) -> float:
    return float(ray.cluster_resources().get("CPU", 0))


def check_resources(ray: Any, need: dict[str, float], address: str | None, patience: float) -> None:
    """Raise `UserError` if the cluster lacks resources, so that Ray would wait forever.

    A cluster that can grow is asked to, and gets `patience` seconds to do so.
    """
    if address is not None and patience > 0:
        sdk = import_extra("ray.autoscaler.sdk", "ray", "--wait")
        sdk.request_resources(
            bundles=[{name: 1.0} for name in need for _ in range(int(need[name]))]
        )
    until = time.monotonic() + patience
    while True:
        have = ray.cluster_resources()
        short = [name for name, amount in need.items() if have.get(name, 0.0) < amount]
        if not short:
            return
        if time.monotonic() >= until:
            break
        time.sleep(PAUSE)
    name = short[0]
    raise UserError(
        f"the Ray cluster has {have.get(name, 0):g} {name}s, and {need[name]:g} are needed (one "
        "for each actor, and one CPU to distribute the work): give fewer --actors, or --wait "
        "SECONDS for a cluster that grows"
    )
