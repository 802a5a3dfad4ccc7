"""Telling people and programs that an export is ready or has failed: mail and webhooks."""
