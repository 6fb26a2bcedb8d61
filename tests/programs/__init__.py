"""Programs as users write them, each against a server of its own that enforces what it says."""
