"""One file per paper; each defines ``ENTRIES``, a tuple of reproductions.

A file added here is found by itself. Its module must be cheap to import: torch and the like are
imported by what ``run`` calls.
"""
