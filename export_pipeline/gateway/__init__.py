"""The HTTP API and its page: requests, results and events for those who may, never MongoDB or Dagster themselves."""
