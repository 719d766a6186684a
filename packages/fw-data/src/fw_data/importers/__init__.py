"""The formats that `fw-data import` reads, one module each; import a module, nothing is imported here.

Every module finds the scenes of a folder (`find`) and opens one (`open_scene`) as an `ImportedScene`, or as several (a
rig): frames, cameras, times, and depth if there is any. Scenes that cannot be used raise DataError and are listed with
the reason.
"""

FORMATS = {
    "legacy": "fw_data.importers.legacy",
    "nerfstudio": "fw_data.importers.nerfstudio",
    "colmap": "fw_data.importers.colmap",
    "tools": "fw_data.importers.tools",
    "tum": "fw_data.importers.tum",
    "realestate10k": "fw_data.importers.realestate10k",
}
"""Name on the command line -> module, in the order in which `--format auto` tries them."""

LAYOUTS = {
    "legacy": "metadata.json that lists videos",
    "nerfstudio": "transforms.json with images",
    "colmap": "cameras.bin or .txt and images.bin or .txt, with images/",
    "tools": "ViPE's pose/*.npz with rgb/*.mp4; SpatialVID's poses.npy; VGGT-Long's camera_poses.txt; a .npz with "
    "extrinsics and intrinsics (VGGT, Depth Anything 3)",
    "tum": "groundtruth.txt with rgb.txt or a video",
    "realestate10k": "texts of 19 columns with videos/ or frames/",
}
"""The files that mark each format, for error messages."""
