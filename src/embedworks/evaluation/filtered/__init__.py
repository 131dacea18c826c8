"""Compare ways of filtered search: workloads, an answer key of its own, recall against speed."""
