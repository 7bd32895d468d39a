"""Networks that join sensors: optical series, radar series and layers that do not change with time."""
