"""Geometry from the footage alone: structure from motion with a shared focal, then dense multi-view stereo."""
