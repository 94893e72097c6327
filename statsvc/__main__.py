"""`statsvc` and `python -m statsvc` are the command line."""

import signal


def main() -> None:
    """Run the command line. Ctrl-C while it is being loaded ends the process in silence."""
    # An interrupt in the midst of an import is a traceback. Where it is ignored, it stays so.
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from statsvc.cli import main as run

    signal.signal(signal.SIGINT, interrupts)
    run()


if __name__ == "__main__":
    main()
