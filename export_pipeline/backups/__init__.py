"""Whole apps out of MongoDB and back: planning parts, writing, verifying, restoring, erasing."""
