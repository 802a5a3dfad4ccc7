"""Slices: what one plugin collection holds on the users of a batch. Planning, reading, splitting, storing."""
