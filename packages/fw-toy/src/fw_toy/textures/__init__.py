"""Procedural, tileable surface textures, and the atlas that the renderer looks them up in."""
