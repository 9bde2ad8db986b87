"""Workers on Ray: results, errors, and jobs that kill their workers."""

import operator
import os
from functools import partial

import pytest


def kill_at_three(tools: int, job: int) -> int:
    if job == 3:
        os._exit(1)
    return tools * job


@pytest.fixture
def ray_workers(nodes):
    from soundcrafter.cluster.connection import ray_workers  # which imports Ray Data

    return ray_workers


def test_a_job_that_kills_its_workers_is_lost_alone(ray_workers):
    workers, found = ray_workers(partial(int, "10")), []
    with pytest.raises(ValueError, match="1 jobs have no result"):
        found.extend(workers.map(kill_at_three, range(6)))
    assert sorted(found) == [0, 10, 20, 40, 50]


def test_what_a_job_raises_is_raised_here(ray_workers):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(ray_workers(partial(int, "6"), workers=1).map(operator.floordiv, [0]))


def test_workers_that_cannot_begin_say_why(ray_workers):
    with pytest.raises(ValueError, match="invalid literal"):
        list(ray_workers(partial(int, "six"), workers=1).map(operator.floordiv, [1]))
