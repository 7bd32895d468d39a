"""Spatial networks: a U-Net on ResNet encoders, and what reads published weights into them."""
