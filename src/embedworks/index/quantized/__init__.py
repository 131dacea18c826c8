"""Single vectors in a few bytes each: int8, binary, product codes, learned codes, two tiers.

Knows nothing about how vectors were made. Candidates come from codes in memory; `TwoTierIndex`
scores them again with vectors on disk.
"""
