"""`python -m deltaw.cli`."""

from deltaw.cli import main

main()
