"""A pytest plugin: the C parts are those of the folder in SANITIZED_PARTS, not those beside their modules."""

import ctypes
import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

assert hasattr(ctypes.CDLL(None), "__asan_init"), "the sanitizer's library was not preloaded"
for _file in Path(os.environ["SANITIZED_PARTS"]).glob("*.so"):
    _name = _file.stem
    _spec = spec_from_file_location(_name, _file, loader=ExtensionFileLoader(_name, str(_file)))
    assert _spec is not None
    sys.modules[_name] = module_from_spec(_spec)
