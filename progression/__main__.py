"""`python -m progression`."""

from progression.cli import main

main()
