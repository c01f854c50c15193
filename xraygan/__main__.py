"""``python -m xraygan`` is the command ``xraygan``."""

from .cli import main

main()
