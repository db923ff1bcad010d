"""What is drawn: objects and segments beside the ground truth, data sets, training curves, confusions."""
