"""Evaluation: generate worlds for held-out clips (or take those that exist), measure them, report and compare.

fw-train evaluate CHECKPOINT --data DATASET --out OUT
fw-train evaluate --worlds FOLDER --data DATASET --out OUT
fw-train compare OUT OTHER_OUT
"""
