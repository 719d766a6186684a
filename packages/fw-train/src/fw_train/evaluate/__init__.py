"""Evaluation: generate worlds for held-out clips or read existing ones, measure, report and compare them.

fw-train evaluate CHECKPOINT --data DATASET --out OUT
fw-train evaluate --worlds FOLDER --data DATASET --out OUT
fw-train compare OUT OTHER_OUT
"""
