"""Texts out of vectors and into vectors: decoders, correction, guided search, memory vectors.

Public names are those of `embedworks.models`.
"""
