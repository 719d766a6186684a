"""Shared by all commands and packages: command dispatch, image reading, atomic files, devices, tables.

Import from the modules; importing the package loads nothing else.
"""

__version__ = "0.1.0"
