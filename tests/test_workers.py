"""Work shared out: results, faults, and what becomes of the processes."""

import operator
import os
import signal
from functools import partial

import pytest
import torch

from soundcrafter.workers import Workers, share_cores


def test_each_process_opens_its_tools_with_its_threads(fork_workers):
    threads = partial(eval, "__import__('torch').get_num_threads()")  # read once they are set
    found = Workers(2, 3, threads).map(operator.mul, [1, 2, 10])
    assert sorted(found) == [3, 6, 30]


def test_what_a_job_raises_is_raised_here(fork_workers):
    jobs = Workers(1, 1, partial(int, "6")).map(operator.floordiv, [3, 0])
    assert next(jobs) == 2
    with pytest.raises(ZeroDivisionError):
        next(jobs)


def test_a_killed_process_is_named():
    killed = Workers(2, 1, os.getpid).map(os.kill, [signal.SIGKILL])
    with pytest.raises(ValueError, match="fewer --processes"):
        list(killed)


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert share_cores(None, cpu, jobs=100) == (4, 2)
    assert share_cores(None, cpu, jobs=1) == (1, 8)
    assert share_cores(3, cpu, jobs=1) == (3, 2)
    assert share_cores(16, cpu, jobs=100) == (16, 1)
    assert share_cores(None, gpu, jobs=100) == (1, 8)
    with pytest.raises(ValueError, match="processes: got 0"):
        share_cores(0, cpu, jobs=1)
