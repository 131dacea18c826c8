"""Counts, word vectors, and transforms of vectors, as models that load and save.

Public names are those of `embedworks.models`.
"""
