"""Several processes that train one model together, on jax.distributed.

Process 0 prepares, logs and writes what is written once; all read their rows, compute and save
checkpoints together. If one is lost the others end, and say which one and how to go on.
"""

import atexit
import contextlib
import functools
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # JAX has no public name for its key-value store
from jax.experimental import multihost_utils

from transformer_jax.devices.signals import DOUBLE_SIGNAL_WINDOW, Interrupted
from transformer_jax.errors import UserError

__all__ = [
    "RESTART",
    "Processes",
    "all_agree",
    "barrier",
    "is_first",
    "is_multi_process",
    "joined",
    "run_on_first",
]

log = logging.getLogger(__name__)
RESTART = "start all processes again, they go on from the newest checkpoint"
T = TypeVar("T")

HEARTBEAT_INTERVAL = 1.0
"""Seconds between signs of life."""
HEARTBEAT_TIMEOUT = 15.0
"""Seconds without one after which a process counts as lost."""
JAX_HEARTBEAT_TIMEOUT = int(2 * (HEARTBEAT_TIMEOUT + 5 * HEARTBEAT_INTERVAL))
"""The same of JAX, which names nobody: `_Watch` must be first. Its own signs of life are half of it
apart and it counts from the last one, so half of it may be all the time there is."""
KEY_PREFIX = "transformer_jax/life/"
_numbers = itertools.count()


@dataclass(frozen=True)
class Processes:
    """Who trains together; without a coordinator JAX finds it in its environment.

    `again` is the command that goes on, for what is said when one of them is lost.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    again: str = ""

    def __post_init__(self):
        if self.coordinator is None and self.count is None and self.index is None:
            return
        if self.coordinator is None or self.count is None or self.index is None:
            raise UserError(
                "--coordinator, --num-processes and --process-id belong together: give all three, "
                "or --distributed alone where SLURM, Open MPI, Kubernetes or a TPU pod tells them"
            )
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"coordinator {self.coordinator!r} is no HOST:PORT, as node0:1234")
        if not 0 <= self.index < self.count:
            raise UserError(
                f"process-id {self.index} is outside 0 to num-processes {self.count} - 1"
            )


def is_multi_process() -> bool:
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def all_agree(value: bool) -> bool:
    """Whether it is so in every process."""
    return (
        bool(np.all(multihost_utils.process_allgather(np.array(value))))
        if is_multi_process()
        else value
    )


def broadcast_from_first(value: bool) -> bool:
    """What the first process says, in every process."""
    if not is_multi_process():
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if is_multi_process():
        multihost_utils.sync_global_devices(name)


def run_on_first(function: Callable[[], T]) -> T | None:
    """What `function` returns, in the first process; the others wait, and get None.

    What it raises there they raise as a UserError.
    """
    if not is_multi_process():
        return function()
    client, key = _client(), f"transformer_jax/first/{next(_numbers)}"
    if is_first():
        try:
            found = function()
        except Exception as error:
            client.key_value_set(key, f"refused {error}")
            raise
        client.key_value_set(key, "done")
        return found
    while (said := _get(client, key)) is None:
        time.sleep(0.2)
    if said != "done":
        raise UserError(said.removeprefix("refused "))
    return None


@contextlib.contextmanager
def joined(processes: Processes | None) -> Iterator[None]:
    """Within, this process is one of several. None joins nothing.

    If another one is lost, or ends for an error, this one says so and ends with exit code 1.
    """
    if processes is None:
        yield
        return
    _initialise(processes)
    client, index = _client(), jax.process_index()
    signal.signal(signal.SIGINT, _as_sigterm())
    with _witness(processes.again) as release:
        watch = _Watch(client, processes.again, release)
        watch.start()
        try:
            yield
            # Who is through early waits with signs of life, not in JAX's farewell without.
            client.wait_at_barrier("transformer_jax/through", 600_000)
        except BaseException as error:
            if isinstance(error, Interrupted) and error.signal == signal.SIGTERM:
                # All stop at one step; the first holds the connections, so it goes last.
                with contextlib.suppress(Exception):
                    client.wait_at_barrier("transformer_jax/stopped", 20_000)
                    time.sleep(HEARTBEAT_INTERVAL if index == 0 else 0.0)
                raise
            if isinstance(error, jax.errors.JaxRuntimeError):
                # A connection broke, perhaps: if a process is lost `_Watch` will find it.
                time.sleep(HEARTBEAT_TIMEOUT + 3 * HEARTBEAT_INTERVAL)
            watch.stop()
            said = str(error) or repr(error)
            if not isinstance(error, UserError):
                said += f"; {RESTART}: {processes.again}"
            with contextlib.suppress(Exception):
                client.key_value_set(f"{KEY_PREFIX}ended/{index}", said)
            # The others look twice, a second apart; JAX's own farewell would wait for them in
            # vain. The first holds the connections, so it goes last.
            time.sleep((3 if index else 6) * HEARTBEAT_INTERVAL)
            atexit.register(os._exit, 1)
            raise
        finally:
            watch.stop()


def _initialise(processes: Processes) -> None:
    given: dict[str, Any] = {}
    if processes.coordinator is not None:
        given = {
            "coordinator_address": processes.coordinator,
            "num_processes": processes.count,
            "process_id": processes.index,
            # What is given counts, whatever a cluster would say.
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **given, heartbeat_timeout_seconds=JAX_HEARTBEAT_TIMEOUT, initialization_timeout=300
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes do not find one another: {str(error).splitlines()[0]:.300}; "
            "check --coordinator HOST:PORT, --num-processes and --process-id"
        ) from None
    log.info(
        "process %d of %d, %d of %d devices",
        jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count(),
    )  # fmt: skip


def _as_sigterm() -> Callable:
    """Ctrl-C is to all what SIGTERM is; another one, later, does not want to wait."""
    first = 0.0

    def handler(number, frame):
        nonlocal first
        if first and time.monotonic() - first > DOUBLE_SIGNAL_WINDOW:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)

    return handler


def _client() -> Any:
    return distributed.global_state.client


def _get(client, key: str) -> str | None:
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # not there yet
        return None


class _Watch(threading.Thread):
    """Gives signs of life and looks for those of the others."""

    def __init__(self, client, again: str, release: Callable[[], None]):
        super().__init__(daemon=True)
        self._client, self._again, self._release = client, again, release
        others = (i for i in range(jax.process_count()) if i != jax.process_index())
        self._seen = {i: ("", time.monotonic()) for i in others}
        self._ended: set[int] = set()
        self._over = threading.Event()

    def stop(self):
        """Python must not end while a thread is inside JAX."""
        self._over.set()
        self.join()

    def run(self):
        for number in itertools.count():
            try:
                key = f"{KEY_PREFIX}alive/{jax.process_index()}"
                self._client.key_value_set(key, str(number), allow_overwrite=True)
                life = dict(self._client.key_value_dir_get(KEY_PREFIX))
                for other in self._seen:
                    self._look(other, life)
            except Exception:
                # JAX is ending, or was too busy to answer: whoever stops looking finds nobody.
                log.debug("no signs of life could be read", exc_info=True)
            if self._over.wait(HEARTBEAT_INTERVAL):
                return

    def _look(self, other: int, life: dict[str, str]):
        said = life.get(f"{KEY_PREFIX}ended/{other}")
        # Whoever has met the same error says so itself, before the second look.
        if said is not None and other in self._ended and not self._over.is_set():
            self._end(f"process {other} ended: {said}")
        if said is not None:
            self._ended.add(other)
        beat = life.get(f"{KEY_PREFIX}alive/{other}", "")
        before, since = self._seen[other]
        if beat != before:
            self._seen[other] = (beat, time.monotonic())
        elif time.monotonic() - since > HEARTBEAT_TIMEOUT:
            lost = f"process {other} is lost, silent for {HEARTBEAT_TIMEOUT:.0f} s"
            self._end(f"{lost}; {RESTART}: {self._again}")

    def _end(self, what: str):
        self._release()
        # A progress bar may stand on the line.
        sys.stderr.write(f"\ntransformer-jax: {what}\n")
        sys.stderr.flush()
        os._exit(1)


# JAX aborts at once when the connection to process 0 breaks, before any thread of ours can speak.
_WITNESS = """
import signal, socket, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
me, host, port, again = sys.argv[1:]
if not sys.stdin.buffer.read():
    lost = me
    try:
        socket.create_connection((host, int(port)), 3).close()
    except OSError:
        lost = "0"
    said = "this one, was killed" if lost == me else "the coordinator, is lost"
    sys.stderr.write(f"\\ntransformer-jax: process {lost}, {said}; {again}\\n")
"""


@contextlib.contextmanager
def _witness(again: str) -> Iterator[Callable[[], None]]:
    """A small process that speaks where this one is ended without a word, unless released."""
    host, _, port = str(distributed.global_state.coordinator_address).rpartition(":")
    said = [str(jax.process_index()), host.strip("[]"), port, f"{RESTART}: {again}"]
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WITNESS, *said], stdin=subprocess.PIPE
    )

    @functools.cache
    def release():
        with contextlib.suppress(OSError):
            child.communicate(b"ended")

    try:
        yield release
    finally:
        release()
