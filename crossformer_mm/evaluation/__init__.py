"""What a model is measured by, and its plots: COCO's numbers as pycocotools computes them, counted pixels."""
