"""Whole scenes: indoor and outdoor layouts, the camera paths through them, and their captions."""
