"""The settings of a program's own config file, as the program itself reads them. The platform's one door to Hydra."""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path

from ablate.errors import StudyError
from ablate.loading import reading

_HYDRA = threading.Lock()  # composing goes through one global object


def settings_of(path: Path) -> dict[str, object]:
    """Nested plain values of a YAML or JSON config; a Hydra config that has a `defaults` list is composed with the files beside it.

    Interpolations stay as they are written: nothing is resolved, so nothing runs.

    Raises:
        StudyError: It cannot be read, is no mapping, or cannot be composed.
    """
    document = reading.load_mapping(path)
    if "defaults" not in document:
        return document
    if "pkg://" in json.dumps(document):  # Hydra would import the package to look into it
        raise StudyError(
            str(path), ["expected plain files but it searches in a package (pkg://). Print it once (`--cfg job`) and name that file."]
        )
    return dict(json.loads(_composed(path.resolve(), path.stat().st_mtime_ns)))


@functools.cache
def _composed(path: Path, _changed_ns: int) -> str:
    """As JSON, so that nobody can change what is kept."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with _HYDRA:
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(config_dir=str(path.parent), version_base="1.3"):
                composed = OmegaConf.to_container(compose(config_name=path.stem), resolve=False)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
            raise StudyError(
                str(path), [f"expected a config that Hydra can compose but {said}. Or print it once (`--cfg job`) and name that file."]
            ) from error
    return json.dumps(composed)
