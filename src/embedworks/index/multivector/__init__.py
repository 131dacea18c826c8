"""Late interaction: documents and queries as many vectors each, compared token by token.

Knows nothing about how token vectors were made: any float array (T, D) per document will do.
"""
