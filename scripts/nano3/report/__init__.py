"""The report: one self-contained HTML page, made from manifests and metrics alone."""
