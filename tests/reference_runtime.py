"""A runtime that `nas` does not have: the reference implementation of ONNX, which computes with numpy.

`contracts/test_new_runtime.py` registers it. The process that measures networks imports this file by its name.
"""

from __future__ import annotations

import shutil

from nas.runtimes import FileRuntime


class Reference(FileRuntime):
    """The reference implementation of ONNX. Exports contain an additional file for it."""

    name = "reference"
    package = module = "onnx"
    number_formats = {"cpu": ("float32",)}
    operations = {"cpu": frozenset({"packed_weights"})}

    def load(self, path, device, inputs):
        session = self.session(path, device)
        return [lambda fed=fed: list(session(fed).values()) for fed in inputs]

    def session(self, path, device):
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))

        def run(inputs):
            fed = {name: value for name, value in inputs.items() if name in evaluator.input_names}
            return dict(zip(evaluator.output_names, evaluator.run(None, fed), strict=True))

        return run

    def save_export(self, onnx_file, folder):
        shutil.copyfile(onnx_file, folder / "network.reference")

    def exported_file(self, onnx_file, folder):
        return folder / "network.reference"
