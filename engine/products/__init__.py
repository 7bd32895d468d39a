"""What leaves the house: overviews, COG, STAC, styles, quicklooks."""
