"""From a config file and a command line's options to the config of a run.

Rooms, from leaf to root: ``parts`` (datasets and heads of any toolbox), ``coco`` and ``segmentation``
(agreement with the data of each kind), ``data`` (of either kind), ``settings``
(what MMEngine builds beside the model), ``run`` (the rest).
"""
