"""Tasks of every kind, and the measures they are made of."""
