"""Entry point of `llamacli` and `python -m llamacli`. Ctrl-C during the imports is clean too."""

from __future__ import annotations

from llamacli import signals


def main() -> None:
    signals.install()
    try:
        from llamacli.cli import app

        app(prog_name="llamacli")
    except signals.Ended as ended:
        signals.end_by(ended.signum)


if __name__ == "__main__":
    main()
