"""The formats that `fw-data export` writes, one module each; import a module, nothing is imported here.

Every exporter takes one clip after another and lists the parts that its format cannot hold. `fw_data.importers` reads
all of them.
"""

FORMATS = {
    "realestate10k": ("fw_data.exporters.realestate10k", "RealEstate10KExporter"),
    "nerfstudio": ("fw_data.exporters.nerfstudio", "NerfstudioExporter"),
    "colmap": ("fw_data.exporters.colmap", "ColmapExporter"),
    "tum": ("fw_data.exporters.tum", "TumExporter"),
    "legacy": ("fw_data.exporters.legacy", "LegacyExporter"),
}
"""Name on the command line -> module and class."""
