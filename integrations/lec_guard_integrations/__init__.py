"""Adapters from lec-guard to other frameworks, one file each, each behind an extra of its own."""
