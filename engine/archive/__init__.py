"""What the archive holds and how a pixel of it is read."""
