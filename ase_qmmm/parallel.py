"""Map a function over independent tasks on processes, threads, Dask or MPI; a dead worker loses no result.

    with TaskPool(4) as pool:
        results = pool.map(function, tasks)

Function, tasks and results travel by pickle. Own worker processes are never forked from a process that runs
threads (``forkserver`` on Linux, ``spawn`` elsewhere); as always with them, a script that starts a pool keeps
its top level under ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import pickle
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .errors import QMMMError, check_integer, checked_keywords

__all__ = ["TaskError", "TaskPool"]

log = logging.getLogger(__name__)

_REPR_LENGTH = 120


class TaskError(QMMMError, RuntimeError):
    """A task failed, or killed its worker each time.

    Attributes
    ----------
    index : int
        Number of the task.
    results : dict
        Results of the tasks that had finished, by number.
    """

    def __init__(self, message: str, index: int = -1, results: dict[int, Any] | None = None) -> None:
        super().__init__(message)
        self.index = index
        self.results = {} if results is None else results

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.index, self.results)


@dataclass
class _Failure:
    """What a task raised, as it travels back from the worker."""

    error: Exception
    text: str


@dataclass
class _Job:
    """One :meth:`TaskPool.map`: what is run, and what has come of it."""

    function: Callable[[Any], Any]
    todo: Sequence[Any]
    results: dict[int, Any]
    finish: Callable[[int, Any], None]

    @property
    def lost(self) -> list[int]:
        """Numbers of the tasks without a result."""
        return [index for index in range(len(self.todo)) if index not in self.results]

    def error(self, index: int, error: BaseException) -> TaskError:
        """The error of one task, with the results of the others."""
        return _task_error(index, self.todo, error, self.results)


class TaskPool:
    """Workers that serve any number of :meth:`map` calls.

    Parameters
    ----------
    executor : optional
        None: in this process, one task after the other. A number: so many own worker processes, started by
        the first call and kept between calls. A callable without arguments that makes an executor, closed
        and made anew like own processes. Or an executor (anything with ``submit``, e.g. a
        ``ThreadPoolExecutor``, ``dask.distributed.Client(...).get_executor()``,
        ``mpi4py.futures.MPIPoolExecutor()``), which stays the caller's to close, and which cannot be made
        anew when it breaks.
    retries : int
        How often tasks lost with their worker are given to a fresh pool. Tasks lost after that run one at a
        time in quarantine, a process of their own.
    threads : int or None
        BLAS threads of each worker; None leaves them alone. Without an executor they are left alone, too.
    progress : bool
        Show a progress bar.

    Raises
    ------
    TypeError, ValueError
        Something else as `executor`; numbers out of range; unknown keyword.

    Examples
    --------
    >>> from ase_qmmm.parallel import TaskPool
    >>> with TaskPool(None) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    @checked_keywords
    def __init__(
        self,
        executor: int | Executor | Callable[[], Executor] | None = None,
        *,
        retries: int = 2,
        threads: int | None = 1,
        progress: bool = False,
    ) -> None:
        if isinstance(executor, bool) or not (
            executor is None or isinstance(executor, int) or hasattr(executor, "submit") or callable(executor)
        ):
            raise TypeError(
                f"executor: got {executor!r}, expected None, a number of workers, an executor with submit(), "
                f"or a function that makes one"
            )
        if isinstance(executor, int) and executor < 1:
            raise ValueError(f"executor: got {executor}, expected at least 1 worker, or None for none")
        self.executor = executor
        self.retries = check_integer("retries", retries, 0)
        self.threads = None if threads is None else check_integer("threads", threads, 1)
        self.progress = bool(progress)
        self._live: Any = None

    def __repr__(self) -> str:
        return f"TaskPool({self.executor!r}, retries={self.retries}, threads={self.threads})"

    # -- the executor --------------------------------------------------------------------------------------

    def __enter__(self) -> TaskPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End own workers; the next :meth:`map` starts new ones. An executor that was given stays open."""
        live, self._live = self._live, None
        if live is not None and live is not self.executor:
            live.shutdown(wait=True, cancel_futures=True)

    def __getstate__(self) -> dict[str, Any]:
        # Live workers do not travel; neither does an executor object of the caller, so that a copy is serial.
        state = self.__dict__ | {"_live": None}
        if hasattr(self.executor, "submit"):
            state["executor"] = None
        return state

    def _submitter(self) -> Any:
        if self._live is None:
            given: Any = self.executor
            if isinstance(given, int):
                self._live = _processes(given, self.threads)
            else:
                self._live = given if hasattr(given, "submit") else given()
        return self._live

    # -- mapping -------------------------------------------------------------------------------------------

    def map(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        *,
        on_result: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """``[function(task) for task in tasks]``, in the order of the tasks.

        Parameters
        ----------
        function : callable
            For workers in other processes: picklable, i.e. defined at the top level of a module.
        tasks : iterable
        on_result : callable, optional
            Called here as ``on_result(index, result)`` as soon as a task is done, in the order in which they
            finish: for saving results. What it raises ends the map.

        Raises
        ------
        TaskError
            A task raised (the cause is that exception), or kills its worker each time; it names the task, and
            has the results of the others that were done.
        """
        todo = list(tasks)
        results: dict[int, Any] = {}
        with tqdm(total=len(todo), disable=not self.progress) as bar:

            def finish(index: int, result: Any) -> None:
                if isinstance(result, _Failure):
                    raise _task_error(index, todo, result.error, results, result.text) from result.error
                results[index] = result
                bar.update()
                if on_result is not None:
                    on_result(index, result)

            if self.executor is None:
                for index, task in enumerate(todo):
                    finish(index, _call(None, _here(), function, task))
            elif todo:
                # Threads share the BLAS of this process: it is capped from here, and restored at the end.
                with threadpool_limits(self.threads):
                    self._run(_Job(function, todo, results, finish))
        return [results[index] for index in range(len(todo))]

    def _run(self, job: _Job) -> None:
        for attempt in range(self.retries + 1):
            if not job.lost:
                return
            if attempt:
                count = len(job.lost)
                log.warning("a worker died: %d tasks are run again (attempt %d)", count, attempt + 1)
            self._attempt(job)
        if job.lost:
            count = len(job.lost)
            log.warning("workers died in %d attempts: %d tasks in quarantine", self.retries + 1, count)
            self._quarantine(job)

    def _attempt(self, job: _Job) -> None:
        """Run tasks on the executor; those lost with a worker have no result afterwards."""
        futures: dict[Future[Any], int] = {}
        broken = False
        try:
            submitter = self._submitter()
            for index in job.lost:
                task = job.todo[index]
                try:
                    futures[submitter.submit(_call, self.threads, _here(), job.function, task)] = index
                except BrokenExecutor:
                    broken = True
                    break
            for future in _completed(futures):
                index = futures[future]
                try:
                    result = future.result()
                except Exception as error:
                    if not _is_loss(error):
                        raise job.error(index, error) from error
                    broken = True
                    continue
                job.finish(index, result)
        except TaskError:
            _cancel(futures)
            # What was under way is kept.
            for future, index in futures.items():
                if not isinstance(future, Future) or future.cancelled() or index in job.results:
                    continue
                if future.exception() is None:
                    result = future.result()
                    if not isinstance(result, _Failure):
                        job.finish(index, result)
            raise
        except BaseException:
            _cancel(futures)
            broken = True
            raise
        finally:
            if broken:
                self.close()

    def _quarantine(self, job: _Job) -> None:
        """Run tasks one at a time in a process of their own, so that a death has one suspect."""
        with _processes(1, self.threads) as process:
            try:
                process.submit(_nothing).result()
            except BrokenExecutor as error:
                raise TaskError(
                    "executor: worker processes die before they run anything; a script that uses them must "
                    "keep its top level under 'if __name__ == \"__main__\":'",
                    results=job.results,
                ) from error
            for index in job.lost:
                future = process.submit(_call, self.threads, _here(), job.function, job.todo[index])
                try:
                    result = future.result()
                except BrokenExecutor as error:
                    raise TaskError(
                        f"task {index} of {len(job.todo)} kills its worker each time, alone too: "
                        f"{_short(job.todo[index])}; it may need more memory than there is, or crash native "
                        f"code (finished results are kept in this error's 'results')",
                        index,
                        job.results,
                    ) from error
                except Exception as error:
                    raise job.error(index, error) from error
                job.finish(index, result)


def _processes(workers: int, threads: int | None) -> ProcessPoolExecutor:
    # Never a bare fork: the locks of threads that do not exist in the child would stay taken.
    context = multiprocessing.get_context("forkserver" if sys.platform.startswith("linux") else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_cap, initargs=(threads,))


def _here() -> tuple[str, int]:
    """Which process this is, on which machine."""
    return platform.node(), os.getpid()


@functools.cache
def _cap(threads: int | None) -> None:
    """Cap the BLAS threads of this worker process, once for its life."""
    if threads is not None:
        threadpool_limits(threads)


def _short(task: Any) -> str:
    text = repr(task)
    return text if len(text) <= _REPR_LENGTH else text[: _REPR_LENGTH - 1] + "…"


def _nothing() -> None:
    """Shows that a worker process starts at all."""


def _call(threads: int | None, home: tuple[str, int], function: Callable[[Any], Any], task: Any) -> Any:
    """Run one task, in the worker; what it raises is a result, all else is a fault of the machinery."""
    if _here() != home:
        _cap(threads)
    try:
        return function(task)
    except Exception as error:
        text = traceback.format_exc()
        if _here() != home:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # an exception of any kind may refuse, and would take the pool with it
                error = RuntimeError(f"{type(error).__name__}: {error}")
        return _Failure(error, text)


def _cancel(futures: Iterable[Any]) -> None:
    """Keep what has not begun from running on beside the next call."""
    for future in futures:
        if isinstance(future, Future):
            future.cancel()


def _completed(futures: dict[Future[Any], int]) -> Iterable[Future[Any]]:
    """Futures as they finish; in order where they are not of the standard library (Dask)."""
    if all(isinstance(future, Future) for future in futures):
        return as_completed(futures)
    return list(futures)


def _is_loss(error: Exception) -> bool:
    """Whether a future failed because its worker did (Dask's error is told by name: it may be absent)."""
    lost = isinstance(error, (BrokenExecutor, CancelledError))
    return lost or type(error).__name__ in ("KilledWorker", "FutureCancelledError")


def _task_error(
    index: int, todo: Sequence[Any], error: BaseException, results: dict[int, Any], text: str = ""
) -> TaskError:
    failure = TaskError(
        f"task {index} of {len(todo)}, {_short(todo[index])}: {type(error).__name__}: {error} "
        f"(finished results are kept in this error's 'results')",
        index,
        results,
    )
    if text:
        failure.add_note(text)
    return failure
