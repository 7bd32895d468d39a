"""From labels to a trained bundle, on the very cubes that are mapped."""
