"""Run a script where `nas` cannot be imported: `python -I without_nas.py <script> [arguments]`."""

import importlib.abc
import runpy
import sys


class _NoNas(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "nas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


sys.meta_path.insert(0, _NoNas())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
