"""Self-contained pages and terminal tables of results. Knows results and sources, not models."""

from itda_lightning.report.page import render_page, write_page
from itda_lightning.report.tables import print_decomposition, print_metrics

__all__ = ["print_decomposition", "print_metrics", "render_page", "write_page"]
