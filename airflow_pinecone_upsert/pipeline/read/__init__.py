"""Where records come from. Imports nothing of the other stages."""
