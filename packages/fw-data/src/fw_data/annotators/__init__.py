"""Geometry backends: a folder each, and the registry of them. Importing this package imports nothing else.

A backend is a folder with a `GeometryBackend` (see base) and a `GeometrySpec` (see spec): its name, its options of
`fw-data annotate`, its default number of workers, the license of its weights, and how the options select it. Add one
line to BACKENDS and `--geometry` offers it.
"""

BACKENDS = {
    "sfm": "fw_data.annotators.sfm.spec:SfmSpec",
    "dust3r": "fw_data.annotators.dust3r.spec:Dust3rSpec",
    "vggt": "fw_data.annotators.vggt.spec:VggtSpec",
    "depth-anything-3": "fw_data.annotators.depth_anything_3.spec:DepthAnything3Spec",
    "map-anything": "fw_data.annotators.map_anything.spec:MapAnythingSpec",
    "oracle": "fw_data.annotators.oracle.spec:OracleSpec",
}
"""Name on the command line -> module and class of its spec."""
