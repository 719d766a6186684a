"""Evaluation: generate worlds for held-out clips (or take those that exist), measure them, report and compare.

fw-train evaluate CHECKPOINT --data DATASET --out OUT
fw-train evaluate --worlds FOLDER --data DATASET --out OUT
fw-train compare OUT OTHER_OUT
fw-train worldscore WORLDSCORE_DATASET --checkpoint CHECKPOINT --out OUT
"""
