"""Weights on disk: safetensors folders, name translation to other layouts, initial weights from VGGT, and the
shipped weights.
"""
