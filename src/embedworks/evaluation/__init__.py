"""Measure search: metrics with intervals, paired comparisons, failures and the report page.

A task is queries, a corpus and judgements (or scored pairs of texts). Every figure carries the
number of queries and an interval; systems are compared on the same queries.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "METRICS": "metrics",
        "Comparison": "retrieval",
        "Curve": "report",
        "Difference": "intervals",
        "FailedQuery": "failures",
        "Interval": "intervals",
        "Metric": "metrics",
        "PointMap": "report",
        "Qrels": "retrieval",
        "ReportData": "report",
        "RetrievalResult": "retrieval",
        "RetrievalTask": "retrieval",
        "Run": "retrieval",
        "StageTime": "report",
        "StsResult": "sts",
        "average_precision": "metrics",
        "bootstrap_interval": "intervals",
        "chunk_run_to_doc_run": "retrieval",
        "compare_runs": "retrieval",
        "evaluate_run": "retrieval",
        "evaluate_sts": "sts",
        "format_table": "tables",
        "load_qrels": "judgements",
        "load_queries": "judgements",
        "markdown_table": "tables",
        "mrr_at_k": "metrics",
        "ndcg_at_k": "metrics",
        "paired_difference": "intervals",
        "parse_metric": "metrics",
        "precision_at_k": "metrics",
        "project_2d": "projection",
        "rank_documents": "metrics",
        "recall_at_k": "metrics",
        "render_report": "report",
        "spearman": "sts",
        "success_at_k": "metrics",
        "verdict_sentence": "tables",
        "worst_queries": "failures",
        "write_report": "report",
    },
)
