"""Toy worlds: procedural textured scenes, ray-cast along smooth camera paths, with exact depth, intrinsics and poses.

`fw-data toy OUT` writes raw videos with captions and, apart from them, the truth. Import from the modules themselves;
this package imports nothing by itself, so that a command line can ask for its options in no time.

    noise, textures*, atlas    tileable surfaces and how they are looked up
    mesh, shapes, furniture, nature, buildings    triangles with materials
    tracer, lights, bake, render    rays, light, pictures
    indoor, outdoor, scene, paths, captions    what is in a clip and how the camera moves
    files, clips, cli    what is written to disk
"""
