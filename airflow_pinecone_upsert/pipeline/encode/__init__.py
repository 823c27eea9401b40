"""From Arrow columns to one ``bytes`` for each record."""
