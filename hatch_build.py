"""Compiles the C parts of workers when the package is built; where there is no C compiler, all is Python."""

import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

#: Each has a `c` folder beside its modules.
_PARTS = {"workers.ingest": "lines", "workers.loader": "rows"}


class CBuildHook(BuildHookInterface[Any]):
    """Puts the compiled modules beside the others of their workers, in the wheel and in an editable checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, or say why not and go on."""
        del version
        modules = [
            Extension(
                f"{package}._{name}",
                [f"{package.replace('.', '/')}/c/{name}.c"],
                include_dirs=["shared/c"],
                extra_compile_args=["-O3"],
            )
            for package, name in _PARTS.items()
        ]
        command = build_ext(Distribution({"name": "bargeline", "packages": list(_PARTS), "ext_modules": modules}))
        command.inplace = True
        try:
            with tempfile.TemporaryDirectory() as folder:
                command.build_lib = command.build_temp = folder
                command.ensure_finalized()
                command.run()
        except (BaseError, CCompilerError) as error:
            self.app.display_warning(f"No C compiler, so all is Python, the loader at half the speed: {error}")
            return
        build_data |= {"pure_python": False, "infer_tag": True, "artifacts": ["/workers/*/_*.so"]}
