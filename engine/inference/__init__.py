"""The model bundle, one device lane a process, and prediction on the window lattice."""
