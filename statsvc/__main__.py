"""Entry point of the command line: `statsvc` and `python -m statsvc`."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C during its imports ends the process without a traceback."""
    # Replace Python's default handler only: a SIGINT that the parent process ignores stays ignored.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from statsvc.cli import main as run_cli

    signal.signal(signal.SIGINT, handler)
    run_cli()


if __name__ == "__main__":
    main()
