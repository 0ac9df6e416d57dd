"""The public datasets that can be prepared, as `public_datasets.yaml` declares them."""

from functools import partial
from pathlib import Path
from typing import Any

import yaml

from anomaly_zoo.data.prepare import layouts
from anomaly_zoo.data.prepare.conversion import PublicDataset
from anomaly_zoo.data.prepare.download import Download


def _dataset(title: str, licence: str, arrange: dict[str, Any], **declared: Any) -> PublicDataset:
    ((layout, options),) = arrange.items()
    if "download" in declared:
        declared["download"] = Download(**declared["download"] | {"urls": tuple(declared["download"]["urls"])})
    if "published" in declared:
        declared["published"] = tuple(declared["published"])
    function = partial(getattr(layouts, layout), **options)
    return PublicDataset(title=title, licence=licence.format(title=title), arrange=function, **declared)


_FILE = Path(__file__).with_suffix(".yaml")

PUBLIC_DATASETS = {
    name: _dataset(**declared) for name, declared in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()
}
"""By the names that `python -m anomaly_zoo.data prepare` takes, in alphabetical order."""
