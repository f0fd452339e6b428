"""Report: an evaluation as one HTML file."""
