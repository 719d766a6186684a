"""The fw command."""

from fw_core import __version__ as __version__
