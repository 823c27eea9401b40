"""Deletes records of one namespace: selected by id, by filter, or all of them."""
