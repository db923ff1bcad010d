"""The papers' settings of G and I for each stage, and of the layout of long distance attention."""

standard_groups = dict(group_sizes=[7, 7, 7, 7], intervals=[8, 4, 2, 1])
large_groups = dict(group_sizes=[14, 14, 7, 7], intervals=[16, 8, 2, 1])
progressive_groups = dict(group_sizes=[4, 4, 14, 7], intervals=[4, 2, 1, 1], long_distance='window')
