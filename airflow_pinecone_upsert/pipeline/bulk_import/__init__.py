"""Bulk imports: what is checked before one starts, and after it has ended."""
