"""Tasks on serial, threaded, process and foreign executors; workers that are killed lose nothing."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from ase_qmmm.parallel import TaskError, TaskPool


def square(x):
    return x * x


def slow_first(x):
    time.sleep(0.2 if x == 0 else 0.0)
    return x


def kill_once(task):
    """Kills its worker unless the mark of an earlier death is there."""
    number, mark = task
    if mark is not None and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_always(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def fail_at_two(x):
    if x == 2:
        raise KeyError("the disk is on fire")
    return x


class Stubborn(Exception):
    """Travels by pickle, but does not come out of it."""

    def __init__(self, a, b):
        super().__init__(f"{a}{b}")


def raise_stubborn(x):
    raise Stubborn("not ", "picklable")


def blas_threads(x):
    np.ones((2, 2)) @ np.ones((2, 2))
    # Others that tests have loaded (OpenMP) count by thread, and are not what is promised.
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def process_id(x):
    time.sleep(0.02)
    return os.getpid()


@pytest.fixture(scope="module")
def processes():
    with TaskPool(2) as pool:
        yield pool


@pytest.fixture(params=["serial", "processes", "threads", "factory"])
def pool(request, processes):
    if request.param == "processes":
        yield processes
    elif request.param == "threads":
        with ThreadPoolExecutor(2) as executor:
            yield TaskPool(executor)
    else:
        with TaskPool(None if request.param == "serial" else lambda: ThreadPoolExecutor(2)) as own:
            yield own


def test_results_are_in_the_order_of_the_tasks(pool):
    assert pool.map(slow_first, range(6)) == list(range(6))
    assert pool.map(square, iter([3, -1])) == [9, 1]
    assert pool.map(square, []) == []


def test_each_result_is_handed_over_as_it_comes(pool):
    seen = {}
    pool.map(slow_first, range(6), on_result=seen.__setitem__)
    assert seen == {i: i for i in range(6)}


def test_an_exception_names_the_task_and_keeps_results(pool):
    with pytest.raises(TaskError, match="task 2 of 5, 2: KeyError.*disk is on fire") as info:
        pool.map(fail_at_two, range(5))
    assert isinstance(info.value.__cause__, KeyError)
    assert "fail_at_two" in "".join(info.value.__notes__)  # the worker's own traceback
    assert info.value.index == 2
    assert all(value == index != 2 for index, value in info.value.results.items())
    assert pool.map(square, [2]) == [4]  # and the pool is as good as new


def test_processes_are_kept_between_calls(processes):
    workers = {*processes.map(process_id, range(6)), *processes.map(process_id, range(6))}
    assert len(workers) <= 2 and os.getpid() not in workers


def test_blas_threads_are_capped(processes):
    assert all(n == 1 for counts in processes.map(blas_threads, range(3)) for n in counts)
    with ThreadPoolExecutor(2) as executor:
        before = blas_threads(0)
        assert all(n == 1 for counts in TaskPool(executor).map(blas_threads, range(3)) for n in counts)
        assert blas_threads(0) == before


def test_a_killed_worker_loses_nothing(tmp_path, caplog):
    tasks = [(n, str(tmp_path / "mark") if n == 2 else None) for n in range(6)]
    calls = []
    with TaskPool(2) as pool:
        assert pool.map(kill_once, tasks, on_result=lambda i, _: calls.append(i)) == list(range(6))
        assert sorted(calls) == list(range(6))  # nothing was handed over twice
        assert "a worker died" in caplog.text
        assert pool.map(square, [1, 2]) == [1, 4]


def test_a_task_that_always_kills_is_named():
    with TaskPool(1, retries=1) as pool:
        with pytest.raises(TaskError, match=r"task 3 of 6 kills its worker each time, alone too: 3") as info:
            pool.map(kill_always, range(6))
        assert info.value.index == 3
        # All before it ran in quarantine at the latest.
        assert {0, 1, 2} <= set(info.value.results)
        assert pool.map(square, [5]) == [25]


def test_quarantine_saves_tasks_of_a_foreign_pool_that_broke(tmp_path):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        pool = TaskPool(executor, retries=0)
        assert pool.map(kill_once, [(0, str(tmp_path / "mark")), (1, None)]) == [0, 1]
        assert pool.map(square, [1, 2, 3]) == [1, 4, 9]  # though the executor is beyond repair


def test_exceptions_that_do_not_travel(processes):
    with pytest.raises(TaskError, match="task 0 of 1, 1: RuntimeError: Stubborn: not picklable"):
        processes.map(raise_stubborn, [1])
    with pytest.raises(TaskError, match="task 0 of 1"):
        processes.map(lambda x: x, [1])  # a function that does not travel either


def test_long_tasks_are_shortened_in_messages(processes):
    with pytest.raises(TaskError) as info:
        processes.map(fail_at_two, ["x" * 10_000, 2])
        processes.map(raise_stubborn, ["x" * 10_000])
    assert len(str(info.value)) < 400


def test_a_fake_executor():
    """All that is asked of an executor is submit(); its futures may be of any class."""

    class Eager:
        def __init__(self):
            self.calls = 0

        def submit(self, function, *arguments):
            self.calls += 1
            future = Future()
            if self.calls == 2:
                future.set_exception(BrokenExecutor("gone"))
            else:
                future.set_result(function(*arguments))
            return future

    class Own:
        def __init__(self, future):
            self.future = future

        def result(self):
            return self.future.result()

    class Foreign(Eager):
        def submit(self, function, *arguments):
            return Own(super().submit(function, *arguments))

    for kind in (Eager, Foreign):
        executor = kind()
        assert TaskPool(executor).map(square, [1, 2, 3]) == [1, 4, 9]
        assert executor.calls == 4  # the one that was lost, once more


def test_what_on_result_raises_ends_the_map(pool):
    def refuse(index, result):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        pool.map(square, [1, 2], on_result=refuse)
    assert pool.map(square, [1, 2]) == [1, 4]


def test_pickle_leaves_live_workers_behind(processes):
    copy = pickle.loads(pickle.dumps(processes))
    assert copy.executor == 2 and copy._live is None
    with ThreadPoolExecutor(1) as executor:
        assert pickle.loads(pickle.dumps(TaskPool(executor))).executor is None


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"executor": 0}, ValueError, "executor: got 0"),
        ({"executor": "four"}, TypeError, "executor: got 'four'"),
        ({"executor": True}, TypeError, "executor: got True"),
        ({"retries": -1}, ValueError, "retries: got -1"),
        ({"retries": None}, ValueError, "retries: got None, expected an integer of 0 or more"),
        ({"retries": float("nan")}, ValueError, "retries: got nan"),
        ({"threads": 0}, ValueError, "threads: got 0"),
        ({"threads": "all"}, ValueError, "threads: got 'all', expected an integer of 1 or more"),
        ({"threads": 1.5}, ValueError, "threads: got 1.5"),
        ({"retry": 1}, TypeError, "did you mean 'retries'"),
    ],
)
def test_errors(arguments, error, text):
    with pytest.raises(error, match=text):
        TaskPool(**arguments)


def test_progress_is_off_by_default(capsys):
    TaskPool().map(square, [1])
    assert capsys.readouterr().err == ""
    TaskPool(progress=True).map(square, [1])
    assert "1/1" in capsys.readouterr().err
