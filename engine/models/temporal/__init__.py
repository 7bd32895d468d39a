"""Networks of one pixel's or field's series of dates."""
