"""The report as one self-contained page: our own markup, styles and drawings, nothing loaded from anywhere."""
