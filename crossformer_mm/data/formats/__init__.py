"""Datasets as other programs label them, read as COCO content and written from it.

Modules, lowest level first: layout, reading, seams and writing; yolo, voc, labelme, coco and label_maps;
recognise; cache.
"""
