"""Vectors from causal language models by prompts: templates, their tokens, and the module."""
