"""What fills a cube: readers of results, logs and tables."""
