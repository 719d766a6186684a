"""3D Gaussian splatting (Kerbl et al. 2023) of generated worlds: parameters, rasterizer, fit and PLY export."""
