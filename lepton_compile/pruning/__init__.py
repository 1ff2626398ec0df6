"""Channel pruning: which channels go together, which matter least, and how what is left makes up for them."""
