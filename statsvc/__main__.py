"""`python -m statsvc` is the command line."""

from statsvc.cli import main

main()
