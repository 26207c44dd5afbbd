"""Draw results as SVG."""
