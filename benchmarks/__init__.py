"""Benchmarks: programs that measure speed, memory and quality, one per `make bench-...` target. They are not tests.

`python -m benchmarks.NAME --help` lists the options of one; results are written into the folder given by `--out`.
"""
