"""Filtered search: several ways to search one set of vectors, and a planner that chooses."""
