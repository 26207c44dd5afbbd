"""Describe every measurement as plain data, which knows no model and no torch module."""
