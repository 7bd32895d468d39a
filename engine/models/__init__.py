"""Network architectures as plain torch modules, by name."""
