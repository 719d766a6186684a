"""The dual-branch network: `FantasyWorld`, its cross-attention blocks, its conditioning inputs and its
initial weights.
"""
