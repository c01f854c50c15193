"""``python -m xraygan`` is the command ``xraygan``."""

from xraygan.cli import main

main()
