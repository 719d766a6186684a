"""Ray casting, lighting and shading: from a scene and a camera to sRGB frames and exact depth."""
