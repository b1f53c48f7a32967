"""The `lec-guard` command."""

from lec_guard.cli import (
    terminal as terminal,  # First, because it says so where the packages of the command are missing.
)
from lec_guard.cli.app import app as app
