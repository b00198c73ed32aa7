"""What a trained network attends to in one image, and how its tasks go together."""
