"""Entry point of `llamacli` and `python -m llamacli`. Ctrl-C during the imports is clean too."""

from __future__ import annotations

import _signal  # built in: nothing to import, so nothing to interrupt

# Until `signals.install`, Ctrl-C simply ends the process: no traceback of a half-done import.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def main() -> None:
    from llamacli import signals

    signals.install()
    try:
        from llamacli.cli import app

        app(prog_name="llamacli")
    except signals.Ended as ended:
        signals.end_by(ended.signum)
    finally:
        signals.uninstall()


if __name__ == "__main__":
    main()
