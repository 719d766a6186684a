"""Jobs in worker processes: the same results as in this process, and what becomes of failures."""

import math
import os

import pytest

from fw_toy.workers import run_jobs


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_comes_back_with_its_result_or_its_error(workers):
    done = dict(run_jobs(math.factorial, [-1, 3, 4, 5], workers))
    assert isinstance(done.pop(-1), ValueError)
    assert done == {3: 6, 4: 24, 5: 120}


def test_the_death_of_a_worker_is_an_error_of_its_job():
    results = [result for _, result in run_jobs(os._exit, [1, 1], 2)]
    assert len(results) == 2
    assert all(isinstance(result, Exception) for result in results)
