"""Compiles the C part of the loader when the package is built; where there is no C compiler, all is Python."""

import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError


class CBuildHook(BuildHookInterface[Any]):
    """Puts the compiled module beside the loader's others, in the wheel and in an editable checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, or say why not and go on."""
        del version
        module = Extension("workers.loader._rows", ["workers/loader/c/rows.c"], extra_compile_args=["-O3"])
        command = build_ext(
            Distribution({"name": "bargeline", "packages": ["workers.loader"], "ext_modules": [module]})
        )
        command.inplace = True
        try:
            with tempfile.TemporaryDirectory() as folder:
                command.build_lib = command.build_temp = folder
                command.ensure_finalized()
                command.run()
        except (BaseError, CCompilerError) as error:
            self.app.display_warning(f"No C compiler, so the loader is all Python, at half the speed: {error}")
            return
        build_data |= {"pure_python": False, "infer_tag": True, "artifacts": ["/workers/loader/_rows*.so"]}
