"""Everything that speaks to MongoDB: connecting, one point in time, raw reads, and the embedded server."""
