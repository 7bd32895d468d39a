"""What a user runs: configuration, command line, and the wiring of whole jobs."""
