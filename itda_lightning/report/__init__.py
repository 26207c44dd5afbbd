"""Self-contained pages and terminal tables of results. Knows results and sources, not models."""

from itda_lightning.report.pages.comparison_page import render_dashboard, write_dashboard
from itda_lightning.report.pages.dictionary_page import render_page, write_page
from itda_lightning.report.terminal import print_comparison, print_decomposition, print_metrics

__all__ = [
    "print_comparison",
    "print_decomposition",
    "print_metrics",
    "render_dashboard",
    "render_page",
    "write_dashboard",
    "write_page",
]
