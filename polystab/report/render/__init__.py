"""From the sections to a file: HTML with its pictures, or Markdown."""
