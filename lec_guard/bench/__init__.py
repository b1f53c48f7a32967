"""Measures the detector on the machine that it is to run on; `lec-guard bench` prints what it finds."""
