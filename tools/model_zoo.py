#!/usr/bin/env python3
"""Count all configs' models and write docs/model_zoo.md and model-index.yml: see --help."""

from crossformer_mm.engine import cli, model_zoo
from crossformer_mm_command import safely

if __name__ == '__main__':
    raise SystemExit(safely(lambda: cli.run(model_zoo.model_zoo_parser(), model_zoo.write_model_zoo)))
