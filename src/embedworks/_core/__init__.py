"""Private foundations: registry, validation, seeds, devices, progress, files, extras.

Knows nothing about embeddings. Import from the submodules.
"""
