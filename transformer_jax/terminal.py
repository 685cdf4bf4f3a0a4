"""Messages on standard error and exit codes of a program that was started by itself."""

import contextlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from transformer_jax.devices.signals import Interrupted
from transformer_jax.errors import UserError

__all__ = ["command_errors", "run_program"]


@contextlib.contextmanager
def command_errors() -> Iterator[None]:
    """Turn errors within this context into one message on standard error and an exit code.

    A UserError, an OSError, a missing device, running out of memory, an interruption and a closed
    reader each end the process with one line; other exceptions keep their traceback.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("transformer_jax").setLevel(logging.INFO)
    # Orbax logs failures that it raises too, and asyncio those of its other reads and writes; they
    # reach the user once, in our words.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # a process may be started without
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup asks that a terminal may go
            signal.signal(number, _raise_interrupted)
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        _flush_stdout()
        sys.exit(f"transformer-jax: {error}")
    except BrokenPipeError:
        _flush_stdout()
        print("transformer-jax: the reader of the output has closed it", file=sys.stderr)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _flush_stdout()
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"transformer-jax: {where}{error.strerror or error}")
    except Exception as error:
        if (missing := _missing_device(error)) is not None:
            sys.exit(
                "transformer-jax: JAX finds no device: JAX_PLATFORMS is "
                f"{os.environ.get('JAX_PLATFORMS', '')!r}; unset it, or name an available one, "
                "such as cpu" + "".join(f" ({line:.200})" for line in missing.splitlines()[:1])
            )
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        sys.exit(f"transformer-jax: out of memory: {str(error).splitlines()[0]:.200}")
    except (KeyboardInterrupt, Interrupted) as stop:
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            print(f"transformer-jax: {str(stop) or 'interrupted'}", file=sys.stderr)
        _flush_stdout()  # its reader may have been interrupted first
        # XLA may still be compiling in threads of its own, and crashes if Python goes down first.
        os._exit(128 + (stop.signal if isinstance(stop, Interrupted) else signal.SIGINT))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _missing_device(error: Exception) -> str | None:
    """What JAX says where an error of its own comes from finding no device; otherwise None."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if last.name == "xla_bridge.py":
        return str(error)
    if "JAX_PLATFORMS" not in os.environ or "jax" not in last.parts:
        return None
    try:
        sys.modules["jax"].devices()
    except (AssertionError, RuntimeError) as found:  # the first, where a plugin is missing
        return str(found)
    return None


def run_program(main: Callable[[], None]) -> None:
    """Run the `main` of a program that was started by itself, within `command_errors`."""
    with command_errors():
        main()


def _flush_stdout() -> None:
    """Flush standard output if that is possible; otherwise Python would try again as it exits, and
    complain.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _raise_interrupted(number, frame):
    raise Interrupted(signal.Signals(number))
