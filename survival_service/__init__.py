"""The survival service: fits accelerated failure models to times to failure and reports what robustness cost."""
