"""Building blocks shared by the video and the geometry branch: attention, rotary positions, modulation, and the memory
savers (recomputation, offloading).
"""
