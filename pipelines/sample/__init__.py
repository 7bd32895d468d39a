"""The simulated archive: a fictional territory with a known truth, in two UTM zones, with radar."""
