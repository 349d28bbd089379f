"""Finding what the user wrote: in the pipeline's folder first, then on PYTHONPATH."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.errors import ConfigurationError


def load(folder: Path, reference: str, where: str) -> Any:
    """What ``module:name`` refers to. Raises ConfigurationError whose text begins with ``where``."""
    module_name, _, name = reference.partition(":")
    try:
        module = _module(folder, module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{where}: no module {error.name!r} in {folder} or on PYTHONPATH.") from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{where}: importing {module_name!r} failed: {type(error).__name__}: {error}."
        ) from error
    if not hasattr(module, name):
        raise ConfigurationError(f"{where}: module {module_name!r} ({module.__file__}) has no {name!r}.")
    return getattr(module, name)


def _module(folder: Path, name: str) -> ModuleType:
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        return importlib.import_module(name)
    # The module's own imports of its neighbours work as well.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
