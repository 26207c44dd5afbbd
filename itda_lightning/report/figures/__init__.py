"""Lay out results as SVG plots and tables of colours."""
