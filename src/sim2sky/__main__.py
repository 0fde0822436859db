"""`python -m sim2sky`."""

from sim2sky.cli import main

main()
