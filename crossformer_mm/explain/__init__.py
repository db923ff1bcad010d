"""What a prediction rests on: maps over the image, and which tokens attend to which."""
