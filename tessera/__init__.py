"""Tessera: the Python face."""
