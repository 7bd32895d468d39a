"""From tables of series to networks, forests and bundles: what `training.series` reads, trained and scored."""
