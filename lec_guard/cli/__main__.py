"""`python -m lec_guard.cli`."""

from lec_guard.cli.app import app

app()
