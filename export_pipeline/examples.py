"""The ids that examples use. The demo's data holds them, so every example works there as it stands."""

EXAMPLE_APP_ID = "652f1a7e9c3b4d0012ab34c1"
EXAMPLE_UID = "1a2"
