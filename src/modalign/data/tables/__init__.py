"""Tables of samples: arrays, CSV, Parquet and manifests, checked as a whole and divided into splits."""
