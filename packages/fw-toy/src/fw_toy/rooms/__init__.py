"""Furnished rooms with analytic geometry: exact depth, no meshes, tens of milliseconds per clip.

room      what a room is made of, and random rooms
solids    where rays meet balls, boxes, cylinders and cones
render    images and depth of a room
clip      a room, a camera path and a caption as a function of a seed
"""
