"""Toy worlds: procedural textured scenes, ray-cast along smooth camera paths, with exact depth, intrinsics and poses.

`fw-data toy OUT` writes raw videos with captions and, separately, the ground truth. The package imports none of the
other fw packages. Import from the modules themselves: this file imports nothing, so that `--help` stays fast.

    textures    tileable surfaces and the atlas they are looked up in
    shapes      triangles with materials: solids, furniture, nature, buildings
    rendering   rays, light, pixels
    worlds      what a clip shows and how the camera moves
    clips, files, workers, cli    from a plan to files on disk
"""

from fw_core import __version__ as __version__
