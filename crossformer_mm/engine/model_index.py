"""``model-index.yml``: the configs and what was published of them, for OpenMMLab's tools to search."""

from pathlib import Path
from typing import Any

import mmengine

from .config import load_config
from .flops import build_model
from .model_zoo import DETECTORS, PUBLISHED, Published, config_names

AUTHORS = 'https://github.com/cheerss/CrossFormer'
PAPERS = {
    'CrossFormer': 'https://arxiv.org/abs/2108.00154',
    'CrossFormer++': 'https://arxiv.org/abs/2303.06908',
}
_HEADING = """\
# Written by tools/model_zoo.py. Parameters are counted here; AP and mIoU are published by the authors, and
# have not been reproduced here. Weights names the page that links the weights: there is no direct address.
"""


def index(configs: Path) -> str:
    """Write ``model-index.yml`` anew.

    Args:
        configs: The folder of configs.

    Returns:
        The file's text.

    Raises:
        UserError: The folder holds no configs, or one of them does not work.
    """
    collections = [{'Name': name, 'Paper': url, 'README': AUTHORS} for name, url in PAPERS.items()]
    content = {
        'Collections': collections,
        'Models': [entry(configs, name) for name in config_names(configs)],
    }
    return _HEADING + mmengine.dump(content, file_format='yaml', sort_keys=False)


def entry(configs: Path, name: str) -> dict[str, Any]:
    """What the index says of a config.

    Args:
        configs: The folder of configs.
        name: The config's name.

    Returns:
        Plain data.

    Raises:
        UserError: The config does not work.
    """
    model = build_model(load_config(configs / f'{name}.py'))
    detects = name.startswith(DETECTORS)
    published = PUBLISHED.get(name)
    return {
        'Name': name,
        'In Collection': 'CrossFormer++' if '_pp_' in name else 'CrossFormer',
        'Config': f'configs/{name}.py',
        'Metadata': {
            'Training Data': 'COCO' if detects else 'ADE20K',
            'Parameters': sum(parameter.numel() for parameter in model.parameters()),
        },
        **({'Results': _results(published, detects)} if published else {}),
        # mim takes what follows the last slash for a file to download: here, none.
        'Weights': f'{AUTHORS}/',
    }


def _results(published: Published, detects: bool) -> list[dict[str, Any]]:
    if not detects:
        metrics = {'mIoU': published.score, 'mIoU at six scales': published.second}
        return [_result('Semantic Segmentation', 'ADE20K', metrics)]
    results = [_result('Object Detection', 'COCO', {'box AP': published.score})]
    if published.second is not None:
        results.append(_result('Instance Segmentation', 'COCO', {'mask AP': published.second}))
    return results


def _result(task: str, dataset: str, metrics: dict[str, float | None]) -> dict[str, Any]:
    known = {name: figure for name, figure in metrics.items() if figure is not None}
    return {'Task': task, 'Dataset': dataset, 'Metrics': known}
