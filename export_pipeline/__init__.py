"""Hands over, or backs up, all that a MongoDB holds about a user: whole, at one point in time, proven so."""
