"""The formats that `fw-data import` reads, one module each; import a module, nothing is imported here.

Every module finds the scenes of a folder (`find`), and opens one (`open_scene`) as a `Scene`: frames, cameras, times
and depth, if there is any. What cannot be used raises DataError, and is listed with its reason.
"""

FORMATS = {
    "realestate10k": "fw_data.importers.realestate10k",
    "nerfstudio": "fw_data.importers.nerfstudio",
    "colmap": "fw_data.importers.colmap",
    "tum": "fw_data.importers.tum",
    "legacy": "fw_data.importers.legacy",
}
"""Name on the command line -> module."""
