"""How `batches` fills batches: drawing sources, laying out epochs, keeping duplicates apart."""
