"""Self-contained pages and terminal tables of results. Knows results and sources, not models."""

from itda_lightning.report.comparison_table import print_comparison
from itda_lightning.report.dashboard import render_dashboard, write_dashboard
from itda_lightning.report.page import render_page, write_page
from itda_lightning.report.tables import print_decomposition, print_metrics

__all__ = [
    "print_comparison",
    "print_decomposition",
    "print_metrics",
    "render_dashboard",
    "render_page",
    "write_dashboard",
    "write_page",
]
