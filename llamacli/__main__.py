"""Entry point of `llamacli` and `python -m llamacli`. Ctrl-C during the imports is clean too."""

from __future__ import annotations

import _signal  # built in: nothing to import, so nothing to interrupt

# Until `signals.install`, Ctrl-C simply ends the process: no traceback of a half-done import.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def main() -> None:
    from llamacli import signals

    hold_streams()
    signals.install()
    try:
        from llamacli.cli import app

        app(prog_name="llamacli")
    except signals.Ended as ended:
        signals.end_by(ended.signum)
    finally:
        signals.uninstall()


def hold_streams() -> None:
    """Where a standard stream was closed (`>&-`), keep its number from becoming that of a file we open."""
    import os

    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def run() -> None:
    """`main` as the whole process: it ends without taking the interpreter apart, which would cost 16 ms."""
    import gc
    import os
    import sys

    gc.set_threshold(100_000, 50, 50)  # the imports alone would set off dozens of collections: 7 ms
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # closed meanwhile: `main` has flushed what matters
            pass
    os._exit(code)


if __name__ == "__main__":
    run()
