"""Write self-contained HTML pages."""
