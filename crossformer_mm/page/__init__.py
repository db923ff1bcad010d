"""Parts of the HTML page on a training: its text, charts, pictures and tables."""
