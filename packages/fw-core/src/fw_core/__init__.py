"""What every command and package shares: command dispatch, reading images, atomic files, devices, tables.

Import from the modules themselves; importing this package imports nothing else.
"""

__version__ = "0.1.0"
