"""Several processes that train one model together, on jax.distributed.

Process 0 prepares the text, logs, and writes every file that is written once. All processes read
their own rows, compute, and save checkpoints together. When one process is lost, the others exit
and report which one it was and which command resumes training.
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
    "distributed_session",
    "is_first",
    "is_multi_process",
    "run_on_first",
]

log = logging.getLogger(__name__)
RESTART = "start all processes again to resume from the newest checkpoint"
T = TypeVar("T")

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two heartbeats of a process."""
HEARTBEAT_TIMEOUT = 15.0
"""Seconds without a heartbeat after which a process counts as lost."""
JAX_HEARTBEAT_TIMEOUT = int(2 * (HEARTBEAT_TIMEOUT + 5 * HEARTBEAT_INTERVAL))
"""The timeout of JAX's own heartbeats, whose error names no process: `_HeartbeatMonitor` must be
first to find a lost one. JAX sends a heartbeat every half timeout and counts from the last one, so
that as little as half of the timeout may be left."""
KEY_PREFIX = "transformer_jax/life/"
_numbers = itertools.count()


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        coordinator: HOST:PORT of process 0; None where JAX finds it in its environment.
        count: Number of processes.
        index: Number of this process, from 0.
        restart_command: The command that resumes training, for the message that reports a lost
            process.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    restart_command: str = ""

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
            raise UserError(f"coordinator {self.coordinator!r} is not HOST:PORT, e.g. node0:1234")
        if not 0 <= self.index < self.count:
            raise UserError(
                f"process-id {self.index} is outside 0 to num-processes {self.count} - 1"
            )


def is_multi_process() -> bool:
    """Whether several processes train together."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is process 0, which writes the files that are written once."""
    return jax.process_index() == 0


def all_agree(value: bool) -> bool:
    """Whether `value` is true in every process; all processes must call this."""
    if not is_multi_process():
        return value
    return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def broadcast_from_first(value: bool) -> bool:
    """The `value` of process 0, in every process; all processes must call this."""
    if not is_multi_process():
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def barrier(name: str) -> None:
    """Wait until every process has called this with the same `name`."""
    if is_multi_process():
        multihost_utils.sync_global_devices(name)


def run_on_first(function: Callable[[], T]) -> T | None:
    """Call `function` in process 0 while the other processes wait.

    Returns:
        What `function` returns, in process 0; None in the others.

    Raises:
        UserError: `function` raised an error in process 0; the others raise its message.
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
def distributed_session(processes: Processes | None) -> Iterator[None]:
    """Take part in distributed training within this context; None takes part in nothing.

    If another process is lost or fails, this one reports it and exits with code 1.
    """
    if processes is None:
        yield
        return
    _initialise(processes)
    client, index = _client(), jax.process_index()
    signal.signal(signal.SIGINT, _as_sigterm())
    with _crash_reporter(processes.restart_command) as release:
        watch = _HeartbeatMonitor(client, processes.restart_command, release)
        watch.start()
        try:
            yield
            # A process that finishes early waits here, where its heartbeats continue; in JAX's own
            # shutdown barrier they would not.
            client.wait_at_barrier("transformer_jax/through", 600_000)
        except BaseException as error:
            if isinstance(error, Interrupted) and error.signal == signal.SIGTERM:
                # All stop after the same step. Process 0 holds the connections, so it exits last.
                with contextlib.suppress(Exception):
                    client.wait_at_barrier("transformer_jax/stopped", 20_000)
                    time.sleep(HEARTBEAT_INTERVAL if index == 0 else 0.0)
                raise
            if isinstance(error, jax.errors.JaxRuntimeError):
                # A connection may have broken because a process was lost; then the heartbeat
                # monitor reports it within this time.
                time.sleep(HEARTBEAT_TIMEOUT + 3 * HEARTBEAT_INTERVAL)
            watch.stop()
            said = str(error) or repr(error)
            if not isinstance(error, UserError):
                said += f"; {RESTART}: {processes.restart_command}"
            with contextlib.suppress(Exception):
                client.key_value_set(f"{KEY_PREFIX}ended/{index}", said)
            # The others read this twice, a second apart; JAX's own shutdown would wait for them
            # in vain. Process 0 holds the connections, so it exits last.
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
            # The options override what a cluster's environment says.
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **given, heartbeat_timeout_seconds=JAX_HEARTBEAT_TIMEOUT, initialization_timeout=300
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes cannot connect to one another: {str(error).splitlines()[0]:.300}; "
            "check --coordinator HOST:PORT, --num-processes and --process-id"
        ) from None
    log.info(
        "process %d of %d, %d of %d devices",
        jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count(),
    )  # fmt: skip


def _as_sigterm() -> Callable:
    """A handler that treats Ctrl-C as SIGTERM; a later second Ctrl-C interrupts at once."""
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
    except jax.errors.JaxRuntimeError:  # the key is not set yet
        return None


class _HeartbeatMonitor(threading.Thread):
    """Sends this process's heartbeats and watches those of the others."""

    def __init__(self, client, restart_command: str, release: Callable[[], None]):
        super().__init__(daemon=True)
        self._client, self._restart_command, self._release = client, restart_command, release
        others = (i for i in range(jax.process_count()) if i != jax.process_index())
        self._seen = {i: ("", time.monotonic()) for i in others}
        self._ended: set[int] = set()
        self._over = threading.Event()

    def stop(self):
        """Stop and join the thread: Python must not exit while a thread is inside JAX."""
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
                # JAX is shutting down or too busy to answer; try again at the next heartbeat.
                log.debug("heartbeats could not be read", exc_info=True)
            if self._over.wait(HEARTBEAT_INTERVAL):
                return

    def _look(self, other: int, life: dict[str, str]):
        said = life.get(f"{KEY_PREFIX}ended/{other}")
        # A process that met the same error reports it itself before this is read a second time.
        if said is not None and other in self._ended and not self._over.is_set():
            self._end(f"process {other} ended: {said}")
        if said is not None:
            self._ended.add(other)
        beat = life.get(f"{KEY_PREFIX}alive/{other}", "")
        before, since = self._seen[other]
        if beat != before:
            self._seen[other] = (beat, time.monotonic())
        elif time.monotonic() - since > HEARTBEAT_TIMEOUT:
            lost = f"process {other} is lost: no heartbeat for {HEARTBEAT_TIMEOUT:.0f} s"
            self._end(f"{lost}; {RESTART}: {self._restart_command}")

    def _end(self, what: str):
        self._release()
        # The line may hold a progress bar.
        sys.stderr.write(f"\ntransformer-jax: {what}\n")
        sys.stderr.flush()
        os._exit(1)


# JAX aborts at once when the connection to process 0 breaks, before any thread of ours can report
# it: a helper process does.
_CRASH_REPORTER = """
import signal, socket, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
me, host, port, restart_command = sys.argv[1:]
if not sys.stdin.buffer.read():
    lost = me
    try:
        socket.create_connection((host, int(port)), 3).close()
    except OSError:
        lost = "0"
    said = "this one, was killed" if lost == me else "the coordinator, is lost"
    sys.stderr.write(f"\\ntransformer-jax: process {lost}, {said}; {restart_command}\\n")
"""


@contextlib.contextmanager
def _crash_reporter(restart_command: str) -> Iterator[Callable[[], None]]:
    """A helper process that reports the failure if this one dies silently, unless released."""
    host, _, port = str(distributed.global_state.coordinator_address).rpartition(":")
    said = [str(jax.process_index()), host.strip("[]"), port, f"{RESTART}: {restart_command}"]
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CRASH_REPORTER, *said], stdin=subprocess.PIPE
    )

    @functools.cache
    def release():
        with contextlib.suppress(OSError):
            child.communicate(b"ended")

    try:
        yield release
    finally:
        release()
