"""Where tasks come from: files, public data, generators."""
