import pytest

from experiments import tasks


@pytest.fixture
def in_this_process(monkeypatch):
    """Work of experiments is run here, one after another: tests of Table 3 start processes."""

    def run_all(wanted, jobs, cache):
        for work in wanted:
            if work.cached_result() is None:
                work.run()
                print(work.describe(work.found()))

    monkeypatch.setattr(tasks, "run_all", run_all)
