"""The queue of jobs, and the model processes that work on it."""

import asyncio
import atexit
import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from frozenseg.errors import UserError
from frozenseg.serve.jobs import Answer, Done, Job, ModelInfo, ModelSource, Refusal
from frozenseg.serve.limits import Limits
from frozenseg.serve.metrics import Metrics

logger = logging.getLogger(__name__)

LOADING = 600.0  # seconds that loading the model may take
TRIES = 3  # attempts to start a process in a row; after so many failures the service ends
MAKING_GRAPHS = 3600.0  # seconds that a batch may take if a graph may have to be made for it
PAUSE = 1.0  # seconds to wait before a process that has ended is started again
AGAIN = 5  # seconds after which a client should try again


def _work(*arguments: Any) -> None:
    # Imported only here, so that the service's own process does not load PyTorch.
    from frozenseg.serve.worker import work

    work(*arguments)


def _run_process(work: Callable[..., None], *arguments: Any) -> None:
    # Ctrl-C in a terminal and the SIGTERM of a service manager reach all processes; the service
    # finishes its requests first, and then kills this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    work(*arguments)


@dataclass(eq=False)
class _Waiting:
    """A job in the queue. gone: tells whether its client has disconnected."""

    job: Job
    gone: Callable[[], Awaitable[bool]]
    answer: "asyncio.Future[Answer]"
    arrived: float = field(default_factory=time.monotonic)


class Pool:
    """Groups jobs with the same vocabulary into batches and passes them to the model processes.

    Each device has one process. A process that ends or does not answer in time is replaced, and
    the clients that waited for it are told to try again.

    info: what the model's process reported; None until the model is ready.
    failure: why the model cannot be loaded, or None.
    """

    def __init__(
        self,
        source: ModelSource,
        devices: list[str | None],
        limits: Limits,
        metrics: Metrics,
        *,
        on_ready: Callable[[ModelInfo], None] = lambda info: None,
        on_failure: Callable[[str], None] = lambda line: None,
        work: Callable[..., None] = _work,
    ) -> None:
        """Set up the pool; `start` starts its processes.

        source, limits: passed to the processes.
        devices: the device of each process; None: the best available one.
        on_ready, on_failure: called once the model is ready, or if it cannot be loaded.
        work: the function that a process runs, see `frozenseg.serve.worker.work`.
        """
        self.source, self.devices, self.metrics = source, devices, metrics
        # A request with more images than the queue holds could never be accepted.
        self.limits = replace(limits, images=min(limits.images, limits.queue))
        self.info: ModelInfo | None = None
        self.failure: str | None = None
        self._on_ready, self._on_failure, self._work = on_ready, on_failure, work
        self._patience = limits.timeout
        self._queue: deque[_Waiting] = deque()
        metrics.queue.set_function(lambda: len(self._queue))
        self._filled = asyncio.Condition()
        self._threads = ThreadPoolExecutor(len(devices), thread_name_prefix="model")
        self._processes: dict[int, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the processes; call it within a running event loop."""
        # However the service ends, the processes must be killed: multiprocessing's own exit
        # handler, which runs after this one, would send them SIGTERM, which they ignore, and wait.
        atexit.register(self._kill_all)
        self._tasks = [
            asyncio.create_task(self._keep(number, device))
            for number, device in enumerate(self.devices)
        ]

    async def close(self) -> None:
        """End the processes. The server has finished all requests before it calls this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._kill_all()
        atexit.unregister(self._kill_all)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def ready(self) -> ModelInfo:
        """Return what the model's process reported; until then raise `Refusal` with status 503."""
        if self.info is None:
            raise Refusal(503, self.failure or "the model is still loading; try again soon", AGAIN)
        return self.info

    async def submit(
        self, jobs: list[Job], gone: Callable[[], Awaitable[bool]]
    ) -> list[Answer | Refusal]:
        """Put jobs into the queue, either all or none of them, and return their answers.

        Raises `Refusal` with status 503 while the model is loading or the queue is full.
        """
        loop = asyncio.get_running_loop()
        entries = [_Waiting(job, gone, loop.create_future()) for job in jobs]
        async with self._filled:
            self.ready()
            if len(self._queue) + len(jobs) > self.limits.queue:
                raise Refusal(
                    503,
                    f"the queue is full ({len(self._queue)} images are waiting); try again soon",
                    1,
                )
            self._queue.extend(entries)
            self._filled.notify_all()
        done = await asyncio.gather(*(entry.answer for entry in entries), return_exceptions=True)
        return [self._checked(outcome) for outcome in done]

    @staticmethod
    def _checked(outcome: Answer | BaseException) -> Answer | Refusal:
        if isinstance(outcome, Answer | Refusal):
            return outcome
        raise outcome

    async def _keep(self, number: int, device: str | None) -> None:
        """Keep a process running for a device: start it again when it ends, until the service ends.

        After `TRIES` failures to start in a row, the service gives up.
        """
        tries = 0  # attempts since the model was last ready
        while self.failure is None and tries < TRIES:
            tries += 1
            try:
                connection = await self._start(number, device)
                tries = 0
                await self._serve(connection)
            except UserError as error:
                self.failure = str(error)
            except (EOFError, OSError, TimeoutError) as error:
                reason = str(error) or "it was killed, or memory ran out"
                logger.warning("the model's process ended (%s); starting it again", reason)
            except Exception:  # the process must run again, or requests would wait forever
                logger.exception("starting the model's process again after an error")
            finally:
                self._kill(number)
            await asyncio.sleep(PAUSE)
        self._fail(
            self.failure or f"the model's process ended {TRIES} times while loading the model"
        )

    def _fail(self, line: str) -> None:
        """Refuse all waiting and future jobs, because there will be no model for them."""
        self.failure, self.info = line, None
        for entry in self._queue:
            if not entry.answer.done():
                entry.answer.set_exception(Refusal(503, line))
        self._queue.clear()
        self._on_failure(line)

    def _kill_all(self) -> None:
        for number in list(self._processes):
            self._kill(number)

    def _kill(self, number: int) -> None:
        process = self._processes.pop(number, None)
        if process is not None:
            process.kill()
            process.join()

    async def _start(self, number: int, device: str | None) -> Connection:
        """Start a process and wait until its model is ready.

        Raises `UserError` if the model cannot be loaded.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_run_process,
            args=(self._work, theirs, self.source, device, self.limits),
            daemon=True,
        )
        process.start()
        self._processes[number] = process
        theirs.close()
        first = await self._receive(ours, LOADING)
        if not isinstance(first, ModelInfo):
            raise UserError(str(first))
        if first.makes_graphs:
            self._patience = MAKING_GRAPHS
        if self.info is None and self.failure is None:
            self.info = first
            self._on_ready(first)
        return ours

    async def _serve(self, connection: Connection) -> None:
        """Pass batches to a process until it ends."""
        while True:
            batch = await self._gather()
            try:
                await self._run(connection, batch)
            finally:  # however the batch ended, no client may wait forever
                for entry in batch:
                    if not entry.answer.done():
                        line = "the model's process ended while segmenting this image; try again"
                        entry.answer.set_exception(Refusal(503, line, AGAIN))

    async def _run(self, connection: Connection, batch: list[_Waiting]) -> None:
        loop, start = asyncio.get_running_loop(), time.monotonic()
        jobs = [entry.job for entry in batch]
        await loop.run_in_executor(self._threads, connection.send, jobs)
        done: Done = await self._receive(connection, self._patience)
        self.metrics.batch(len(batch), time.monotonic() - start, done.memory)
        for entry, answer in zip(batch, done.answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)

    async def _receive(self, connection: Connection, seconds: float) -> Any:
        def receive() -> Any:
            if not connection.poll(seconds):
                raise TimeoutError(f"no answer in {seconds:.0f} s")
            return connection.recv()

        return await asyncio.get_running_loop().run_in_executor(self._threads, receive)

    async def _gather(self) -> list[_Waiting]:
        """Take the next batch: the first job, and those with its vocabulary that arrive in time."""
        while True:
            async with self._filled:
                await self._filled.wait_for(lambda: self._queue)
                first = self._queue.popleft()
            if not await self._is_wanted(first):
                continue
            await asyncio.sleep(max(0.0, first.arrived + self.limits.wait - time.monotonic()))
            alike = [entry for entry in self._queue if entry.job.vocabulary == first.job.vocabulary]
            others = alike[: self.limits.batch - 1]
            for entry in others:
                self._queue.remove(entry)
            return [first, *[entry for entry in others if await self._is_wanted(entry)]]

    async def _is_wanted(self, entry: _Waiting) -> bool:
        """Tell whether the client still waits for a job; if it disconnected, the job is dropped."""
        if entry.answer.done():
            return False
        try:
            if not await entry.gone():
                return True
            entry.answer.set_exception(Refusal(499, "the client has disconnected"))
        except Exception as error:  # it concerns only this request
            entry.answer.set_exception(error)
        return False
