"""Data sets as they lie on the disk: COCO's annotation files, label maps, images, and generated ones.

Nothing here knows a config. ``coco`` and ``coco_masks`` check annotations; ``label_files``, ``label_check``,
``label_map_dataset`` and ``label_maps`` find, check, load and write label maps; ``image_check`` decodes
images and ``loading`` names the one that fails; ``shapes`` draws a set of its own.
"""
