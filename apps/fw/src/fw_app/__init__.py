"""The fw command."""
