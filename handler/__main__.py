"""Where the process begins and ends: `query-gateway`, or `python -m handler`.

Signals, standard streams and the environment are put in order before anything that
takes time is imported; the end waits for nobody and says what the command says.
"""

import os
import signal
import sys
from contextlib import suppress

TYPE_CHECKING = False  # not of `typing`, whose import takes as long as all that must stand before it
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

# Names that libraries read and that are not meant for us when a base image or a shared
# environment sets them.
FOREIGN = (
    "PROMETHEUS_MULTIPROC_DIR",  # would write every metric to files of a folder, and leave them there
    "prometheus_multiproc_dir",
    "LITESTAR_DEBUG",  # would show errors to callers
    "LITESTAR_PDB",  # would stop the process at an error, and wait for a terminal
    "PYTHONASYNCIODEBUG",  # would write what slow callbacks were called with
)


def run() -> "NoReturn":
    """Run the command of this process's arguments, and end with its exit code.

    An interpreter that ends by itself waits for threads, which may wait for ever; so it is left here.
    """
    serving = sys.argv[1:2] == ["serve"]
    for number in (signal.SIGTERM, signal.SIGINT):
        # As process 1 of a container, what has no handler is ignored: `docker stop` would wait for its end.
        # Nothing is being served yet, so there is nothing to wait for.
        signal.signal(number, _end_early if serving else _end_of_command)
    if serving:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
    # The image has them blocked until here, so that none is lost while the interpreter starts.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    _open_standard_streams()
    for name in FOREIGN:
        os.environ.pop(name, None)
    # The web framework and the Redis client import it wherever it is installed, for nothing that we use: it looks
    # absent until `otlp` needs it.
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]
    code = _command()
    written = _flush()
    # An answer that nobody could read is none; a server has given its answers elsewhere.
    os._exit(code or int(not written and not serving))


def _command() -> int:
    from handler.cli import main

    try:
        return main()
    except SystemExit as ended:  # argparse: help, or arguments that cannot be read
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BrokenPipeError:
        return 1  # whoever read our output has gone
    except Exception:
        import traceback

        with suppress(OSError, ValueError):
            traceback.print_exc()
        return 1


def _flush() -> bool:
    """Write out what was printed; whether standard output took it."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return False
    return True


def _end_early(number: int, frame: "FrameType | None") -> None:
    os._exit(0)


def _end_of_command(number: int, frame: "FrameType | None") -> None:
    os._exit(128 + number)


def _open_standard_streams() -> None:
    """See that the descriptors 0 to 2 are open, and that no character can fail on its way out.

    A closed one would be given to the next file or connection that is opened, and
    what we print would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- for the life of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 -- for the life of the process
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


if __name__ == "__main__":
    run()
